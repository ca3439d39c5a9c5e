#!/bin/bash
# Checks the running cluster: pods, ClusterIP, headless, NodePort, DNS, exec, logs, cp,
# port-forward, source addresses, and that nothing of it is reachable from the laptop or leaks.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
export KUBECONFIG=$STATE/kubeconfig
alive $NS_LAPTOP || { say "no cluster is up: run up.sh"; exit 1; }
NODES=$(cat "$STATE/nodes")
fails=0
k() { in_laptop timeout 60 kubectl "$@"; }
check() { # check NAME PATTERN COMMAND...: the command's output must match the pattern
  local name=$1 pat=$2 out; shift 2
  out=$("$@" 2>&1)
  if grep -qE -- "$pat" <<<"$out"; then echo "ok    $name: $(head -1 <<<"$out" | cut -c1-150)"
  else echo "FAIL  $name: $out"; fails=$((fails + 1)); fi
}
in_pod() { k exec client -- "$@"; }
# In the background no function is used: $! would be its subshell, and killing that leaves kubectl.
T=$SECONDS
k apply -f "$HERE/manifests/workloads.yaml" >/dev/null
k rollout status deploy/echo --timeout=60s >/dev/null; k wait --for=condition=Ready pod/client --timeout=60s >/dev/null
echo "demo pods ready after $((SECONDS - T)) s"
k get nodes,pods,svc -A -o wide
CIP=$(k get svc echo -o jsonpath='{.spec.clusterIP}')
POD=$(k get pods -l app=echo -o jsonpath='{.items[0].metadata.name}')
PODIP=$(k get pods -l app=echo -o jsonpath='{.items[0].status.podIP}')
if [ -z "$CIP" ] || [ -z "$PODIP" ]; then say "the Service or pod has no address"; exit 1; fi

check "exec" '^client$' in_pod hostname
check "exec with stdin" '^hello stdin$' bash -c 'echo hello stdin | timeout 20 nsenter --net=/run/netns/kvpn-laptop kubectl exec -i client -- cat'
check "exec with a terminal" 'tty|pts' script -qec "timeout 20 nsenter --net=/run/netns/$NS_LAPTOP kubectl exec -it client -- tty" /dev/null
check "exec's exit status" '^7$' bash -c 'timeout 20 nsenter --net=/run/netns/kvpn-laptop kubectl exec client -- sh -c "exit 7"; echo $? | tail -1'
check "ClusterIP from a pod" "^host=echo.*client=10\.244\." in_pod echo-server get "http://$CIP/"
check "Service by name" '^host=echo-' in_pod echo-server get http://echo/
check "Service by full name" '^host=echo-' in_pod echo-server get http://echo.default.svc.cluster.local/
check "UDP through ClusterIP" 'host=echo-.*data=ping' in_pod echo-server udp "$CIP:9000" ping
check "headless name gives pod addresses" "$PODIP" in_pod nslookup echo-headless.default.svc.cluster.local
check "pod DNS name" "$PODIP" in_pod nslookup "$(tr . - <<<"$PODIP").default.pod.cluster.local"
check "kubernetes Service from a pod" '"?gitVersion"?.*v'"$KUBE_VERSION" in_pod sh -c 'echo-server get https://kubernetes.default/version | tr -d "\n "'
check "NodePort from the laptop" '^host=echo-' in_laptop curl -sS -m 5 "http://$(node_ip 1):30080/"
check "pod to pod" "^host=$POD .*client=10\.244\." in_pod echo-server get "http://$PODIP:8080/"
check "logs" 'client is up' k logs client
nsenter --net=/run/netns/$NS_LAPTOP kubectl logs -f "$POD" >"$STATE/follow.log" 2>&1 & F=$!
sleep 1; in_pod echo-server get "http://$PODIP:8080/followed-$$" >/dev/null; sleep 1; kill $F; wait $F 2>/dev/null
check "logs -f" 'http GET /followed' grep followed "$STATE/follow.log"
date >"$STATE/cp.txt"
check "cp" '^copied$' bash -c "timeout 30 nsenter --net=/run/netns/$NS_LAPTOP kubectl cp $STATE/cp.txt client:/tmp/cp.txt && timeout 20 nsenter --net=/run/netns/$NS_LAPTOP kubectl exec client -- cat /tmp/cp.txt | cmp - $STATE/cp.txt && echo copied"

nsenter --net=/run/netns/$NS_LAPTOP kubectl port-forward "pod/$POD" 18080:8080 19000:9000 >"$STATE/pf.log" 2>&1 & PF=$!
wait_for 10 port-forward in_laptop curl -sS -m 2 http://127.0.0.1:18080/
check "port-forward to a pod, HTTP" "^host=$POD" in_laptop curl -sS -m 5 http://127.0.0.1:18080/
check "port-forward, 64 MiB down" '^67108864 ' in_laptop curl -sS -m 60 -o /dev/null -w '%{size_download} bytes at %{speed_download} B/s' 'http://127.0.0.1:18080/bytes?n=67108864'
check "port-forward, TCP" "line=hi" in_laptop bash -c 'exec 3<>/dev/tcp/127.0.0.1/19000; echo hi >&3; timeout 5 head -1 <&3'
kill $PF; wait $PF 2>/dev/null
nsenter --net=/run/netns/$NS_LAPTOP kubectl port-forward svc/echo 18081:80 >"$STATE/pf2.log" 2>&1 & PF=$!
wait_for 10 port-forward in_laptop curl -sS -m 2 http://127.0.0.1:18081/
check "port-forward to a Service" '^host=echo-' in_laptop curl -sS -m 5 http://127.0.0.1:18081/
kill $PF; wait $PF 2>/dev/null

check "laptop cannot reach a ClusterIP" "unreachable|No route|Couldn't connect" in_laptop curl -sS -m 3 "http://$CIP/"
check "laptop cannot reach a pod" "unreachable|No route|Couldn't connect" in_laptop curl -sS -m 3 "http://$PODIP:8080/"
check "a pod cannot leave" 'unreachable|no route|deadline exceeded' in_pod echo-server get http://203.0.113.1/

if dual; then
  CIP6=$(k get svc echo -o jsonpath='{.spec.clusterIPs[1]}')
  POD6=$(k get pods -l app=echo -o jsonpath='{.items[0].status.podIPs[1].ip}')
  check "IPv6 ClusterIP" 'client=\[fd00:10:244' in_pod echo-server get "http://[$CIP6]/"
  check "IPv6 pod to pod" "^host=$POD .*client=\[fd00:10:244" in_pod echo-server get "http://[$POD6]:8080/"
  check "AAAA of the headless name" "$POD6" in_pod nslookup -type=aaaa echo-headless.default.svc.cluster.local
  check "laptop cannot reach an IPv6 pod" "unreachable|No route|Couldn't connect" in_laptop curl -sS -m 3 -g "http://[$POD6]:8080/"
fi
# Not tried with a packet, which would leave by the machine's uplink.
check "no link between the cluster and the machine" '^0$' bash -c "ip -o link show | grep -c 'link-netns kvpn-'"
check "nothing of it in the machine's routes" '^0$' bash -c "ip route show table all | grep -cE '^(10\.|172\.31\.)'"
if [ "$NODES" -gt 1 ]; then
  check "echo pods on both nodes" '^2$' bash -c "timeout 20 nsenter --net=/run/netns/$NS_LAPTOP kubectl get pods -l app=echo -o jsonpath='{.items[*].spec.nodeName}' | tr ' ' '\n' | sort -u | wc -l"
  for ip in $(k get pods -l app=echo -o jsonpath='{.items[*].status.podIP}'); do
    check "pod to pod $ip, unmasqueraded" "^host=echo-.*client=$(k get pod client -o jsonpath='{.status.podIP}')" in_pod echo-server get "http://$ip:8080/"
  done
  for n in $(seq "$NODES"); do check "NodePort on node $n" '^host=echo-' in_laptop curl -sS -m 5 "http://$(node_ip "$n"):30080/"; done
fi
echo "$fails failed"; exit $((fails > 0))
