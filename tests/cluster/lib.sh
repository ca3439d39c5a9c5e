# shellcheck shell=bash
# shellcheck disable=SC2034  # the names below are for the scripts that source this file
# Names, addresses and small functions, sourced by the other scripts. Nothing of a running cluster
# or of a built kit lies in the checkout: both are in the user's cache directory.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KUBE_VERSION=$(sed -n 's#^.*k8s.io/kubernetes v##p' "$HERE/kube/go.mod" | head -n 1)
CACHE=${KVPN_TESTCLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvpn-testcluster}
STATE=${KVPN_STATE:-$CACHE/state}  # everything that a running cluster writes

# The kit (programs, Debian packages, images) is keyed by what it is built from.
kit_key() {
  (cd "$HERE" && { uname -m; sha256sum build.sh ../../gateway/image.sh kube/* coredns/* programs/go.* programs/*/*; }) |
    sha256sum | cut -c1-16
}
# A running cluster stays on the kit it was started with, whatever happens to the checkout.
if [ -n "${KVPN_KIT:-}" ]; then KIT=$KVPN_KIT
elif [ -e "$STATE/kit" ]; then KIT=$(cat "$STATE/kit")
else KIT=$CACHE/$(kit_key); fi
use_kit() {
  KIT=$1 BIN=$1/bin DEB=$1/deb IMAGES=$1/images
  PATH=$BIN:$DEB/usr/sbin:$DEB/usr/bin:$BASE_PATH
  export PATH
}
BASE_PATH=$PATH
use_kit "$KIT"

# laptop 172.31.1.2 -- 172.31.1.1 kvpn-net 172.31.2.1 -- 172.31.2.11, .12 nodes
NS_LAPTOP=kvpn-laptop
NS_NET=kvpn-net
LAPTOP_IP=172.31.1.2 LAPTOP_GW=172.31.1.1
NODE_GW=172.31.2.1
node_name() { echo "kvpn-node$1"; }
node_ip()   { echo "172.31.2.1$1"; }
pod_cidr()  { echo "10.244.$1.0/24"; }
POD_RANGE=10.244.0.0/16 SERVICE_RANGE=10.96.0.0/16 NODE_RANGE=172.31.2.0/24
KUBERNETES_SVC_IP=10.96.0.1
DNS_IP=10.96.0.10
# IPv6 beside IPv4, unless up.sh ran with KVPN_IPV6=0 (remembered in $STATE/ipv6).
LAPTOP_IP6=fd00:172:31:1::2 LAPTOP_GW6=fd00:172:31:1::1
NODE_GW6=fd00:172:31:2::1
node_ip6()  { echo "fd00:172:31:2::1$1"; }
pod_cidr6() { echo "fd00:10:244:$1::/64"; }
POD_RANGE6=fd00:10:244::/48 SERVICE_RANGE6=fd00:10:96::/112 NODE_RANGE6=fd00:172:31:2::/64
dual()      { [ -e "$STATE/ipv6" ]; }
API=https://$(node_ip 1):6443
# The stand-in internet, in kvpn-net: a public resolver and a public host (see net-init.sh).
PUBLIC_DNS=198.51.100.53
PUBLIC_HOST=198.51.100.7 PUBLIC_HOST6=2001:db8:100::7

say() { echo "[$(date +%T)] $*" >&2; }
# wait_for SECONDS WHAT COMMAND...: polls until the command succeeds.
wait_for() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt "$end" ] || { say "gave up waiting for $what"; return 1; }
    sleep 0.1
  done
}
# step LOG WHAT COMMAND...: runs it with its output in LOG and says how far it is: on a terminal in one line that
# changes, else once a minute.
step() {
  local log=$1 what=$2 start=$SECONDS ticker status=0
  shift 2
  say "$what ..."
  ticking "$log" "$what" 9>&- &
  ticker=$!
  "$@" >"$log" 2>&1 || status=$?
  kill "$ticker"
  wait "$ticker" 2>/dev/null || true
  [ ! -t 2 ] || printf '\r\033[K' >&2
  if [ $status != 0 ]; then
    tail -n 20 "$log" >&2
    say "$what failed; the whole output: $log"
    return $status
  fi
  [ $((SECONDS - start)) -lt 2 ] || say "$what took $((SECONDS - start)) s"
}
ticking() {
  local start=$SECONDS now
  while sleep "$([ -t 2 ] && echo 1 || echo 300)" >/dev/null 2>&1; do
    now="$2: $((SECONDS - start)) s, at: $(tail -n 1 "$1" | cut -c1-60)"
    if [ -t 2 ]; then printf '\r\033[K%s' "$now" >&2; else say "$now"; fi
  done
}
in_laptop() { nsenter --net=/run/netns/$NS_LAPTOP "$@"; }

# --- network namespaces
add_ns()    { ip netns add "$1"; ip -n "$1" link set lo up; }
# link NS1 DEV1 NS2 DEV2: a cable between two namespaces.
link()      { ip link add "$2" netns "$1" type veth peer name "$4" netns "$3"; ip -n "$1" link set "$2" up; ip -n "$3" link set "$4" up; }
ns_sysctl() { nsenter --net="/run/netns/$1" sysctl -qw "$2"; }

# --- machines: a node, a laptop or the stand-in internet. Each is one PID namespace (with mount, UTS and
# IPC namespaces of its own, in the network namespace of the same name) whose PID 1 is a script of this
# folder. When that dies the kernel kills every process and drops every mount in it.
# boot NAME SCRIPT ARGUMENT...
boot() {
  local name=$1 script=$2
  shift 2
  mkdir -p "$STATE/$name"
  # nsenter and not `ip netns exec`: that one mounts a bare /sys and would hide the cgroups.
  setsid nsenter --net="${NETNS:-/run/netns/$name}" \
    unshare --mount --propagation private --pid --fork --kill-child=KILL --mount-proc --uts --ipc \
    "$HERE/$script" "$@" >>"$STATE/$name/init.log" 2>&1 </dev/null 9>&- &
  echo $! >"$STATE/$name/pid"
}
# A pid file is believed only while that process is still one that boot started.
alive() { [ -e "$STATE/$1/pid" ] && [ -e "/proc/$(cat "$STATE/$1/pid")/cmdline" ] && tr '\0' ' ' <"/proc/$(cat "$STATE/$1/pid")/cmdline" 2>/dev/null | grep -q -- '--kill-child=KILL'; }
# inside NAME COMMAND...: runs a command in a machine, as root there.
inside() {
  local pid child
  alive "$1" || { say "$1 is not running"; return 1; }
  pid=$(cat "$STATE/$1/pid") child=$(cat "/proc/$pid/task/$pid/children")
  shift
  nsenter -t "${child%% *}" -m -p -n -u -i "$@"
}
cut_power() {
  local pid
  if alive "$1"; then
    pid=$(cat "$STATE/$1/pid")
    kill -KILL "$pid"
    for _ in $(seq 100); do [ -e "/proc/$pid" ] || break; sleep 0.05; done
  fi
  rm -f "$STATE/$1/pid"
}
