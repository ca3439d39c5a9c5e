#!/bin/bash
# Starts the cluster: up.sh [NODES] (default 2, at most 9), IPv4 and IPv6 (KVPN_IPV6=0: IPv4 alone).
# Needs root and what build.sh makes. Exit status 3: a cluster is up already.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
NODES=${1:-2}
. "$HERE/pki.sh"
[ "$(id -u)" = 0 ] || { say "root is needed: namespaces, mounts and cgroups are made"; exit 1; }
mkdir -p "$CACHE"
exec 9>"$CACHE/up.lock"
flock -n 9 || { say "another up.sh is at work"; exit 1; }
if [ -e "$STATE/nodes" ] && ! alive "$(node_name 1)"; then
  say "the last cluster's processes are gone (was the machine restarted?); what it left is removed"
  "$HERE/down.sh"
fi
if [ -e "$STATE/nodes" ]; then
  say "a cluster of $(cat "$STATE/nodes") node(s) is up already (its state: $STATE); down.sh ends it"
  [ "$KIT" = "$CACHE/$(kit_key)" ] || say "it runs from another kit than this checkout's: down.sh and up.sh change that"
  exit 3
fi
if ip netns list | grep -qE '^kvpn-(net|node[1-9])\b'; then
  say "namespaces of another cluster exist (ip netns list): end it first, there can be one a machine"
  exit 1
fi
[ -e "$KIT/complete" ] || { say "there is no kit at $KIT: run build.sh"; exit 1; }
began=$(date +%s%N)
since() { local ms=$((($(date +%s%N) - began) / 1000000)); printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100)); }
mkdir -p "$STATE"
chmod 755 "$STATE"
echo "$NODES" >"$STATE/nodes"
echo "$KIT" >"$STATE/kit"
[ "${KVPN_IPV6:-1}" = 0 ] || touch "$STATE/ipv6"
trap 'say "failed; logs: $STATE/*/init.log and $STATE/*/log/; run down.sh to clean up"' ERR

# --- network: three kinds of namespace, none of them attached to the machine's uplink
add_ns $NS_NET
ns_sysctl $NS_NET net.ipv4.ip_forward=1
ns_sysctl $NS_NET net.ipv6.conf.all.forwarding=1
ip -n $NS_NET link add nodes type bridge
ip -n $NS_NET link set nodes up
ip -n $NS_NET addr add $NODE_GW/24 dev nodes
! dual || ip -n $NS_NET addr add $NODE_GW6/64 dev nodes nodad
for n in $(seq "$NODES"); do
  ns=$(node_name "$n")
  add_ns "$ns"
  link "$ns" eth0 $NS_NET "node$n"
  ip -n $NS_NET link set "node$n" master nodes
  ip -n "$ns" addr add "$(node_ip "$n")/24" dev eth0
  # The default route ends in kvpn-net. Without one, a host-network process could not
  # reach a ClusterIP: the route is looked up before the address is rewritten.
  ip -n "$ns" route add default via $NODE_GW
  for m in $(seq "$NODES"); do [ "$m" = "$n" ] || ip -n "$ns" route add "$(pod_cidr "$m")" via "$(node_ip "$m")"; done
  ns_sysctl "$ns" net.ipv4.ip_forward=1
  if dual; then
    ns_sysctl "$ns" net.ipv6.conf.all.forwarding=1
    ip -n "$ns" addr add "$(node_ip6 "$n")/64" dev eth0 nodad
    ip -n "$ns" route add default via $NODE_GW6
    for m in $(seq "$NODES"); do [ "$m" = "$n" ] || ip -n "$ns" route add "$(pod_cidr6 "$m")" via "$(node_ip6 "$m")"; done
  fi
done
boot $NS_NET net-init.sh

make_pki
install -m 600 "$P/admin.kubeconfig" "$STATE/kubeconfig"
export KUBECONFIG=$STATE/kubeconfig
say "network and certificates after $(since)"

for n in $(seq "$NODES"); do "$HERE/node.sh" start "$n"; done
"$HERE/laptop.sh" start $NS_LAPTOP

k() { in_laptop kubectl "$@"; }
ready() { [ "$(k get nodes --no-headers | awk '$2=="Ready"' | wc -l)" = "$NODES" ]; }
wait_for 90 "the API server, from the laptop" k get --raw /readyz
say "API server answers after $(since)"
wait_for 60 "the default service account" k -n default get serviceaccount default
k apply -f "$HERE/manifests/coredns.yaml" >/dev/null
wait_for 90 "nodes Ready" ready
for n in $(seq "$NODES"); do
  c=$(pod_cidr "$n") cs="\"$(pod_cidr "$n")\""
  ! dual || cs="$cs,\"$(pod_cidr6 "$n")\""
  k patch node "$(node_name "$n")" -p "{\"spec\":{\"podCIDR\":\"$c\",\"podCIDRs\":[$cs]}}" >/dev/null
done
say "$NODES node(s) Ready after $(since)"
# Not earlier, or all pods would land on the node that is ready first.
for f in workloads users; do k apply -f "$HERE/manifests/$f.yaml" >/dev/null; done
k -n kube-system rollout status deploy/coredns --timeout=90s >/dev/null
say "CoreDNS available after $(since)"
echo "export KUBECONFIG=$STATE/kubeconfig"
echo "on the laptop: $HERE/laptop.sh exec $NS_LAPTOP COMMAND   (kubectl: $HERE/k get pods -A)"
