#!/bin/bash
# cluster.sh: `make bench`. What a user of the test cluster gets, beside `kubectl port-forward` in the same run:
# throughput, latency, connections and names for each datapath and carrier, connect time, memory, sizes.
# Client, nodes and control plane share the machine's cores: compare columns, not machines. One run, shown
# as measured.
set -euo pipefail
. "$(dirname "$0")/../tests/cluster/lib.sh"
KVPN_BIN=${KVPN_BIN:?make bench sets it} KVPN_IMAGE_TAR=${KVPN_IMAGE_TAR:?make bench sets it}
SECONDS_EACH=${BENCH_SECONDS:-5}
LAPTOP=kvpn-laptop-bench
results=$(mktemp -d)
on_laptop() { "$HERE/laptop.sh" exec $LAPTOP "$@"; }
k() { "$HERE/k" "$@"; }
namespace() { echo "kvpn-bench-$1"; }
# shellcheck disable=SC2317  # the trap calls it
clean_up() {
  on_laptop kvpn disconnect --all >/dev/null 2>&1 || true
  "$HERE/laptop.sh" stop $LAPTOP || true
  k delete namespace "$(namespace userspace)" "$(namespace kernel)" --ignore-not-found --wait=false >/dev/null || true
  rm -rf "$results"
}
trap clean_up EXIT

# note COLUMN ROW VALUE...
note() {
  local file=$results/$1
  printf '%s\t%s\n' "$2" "${*:3}" >>"$file"
}
# figures COLUMN HTTP LINES: everything that has a throughput or a latency.
figures() {
  local column=$1 http=$2 lines=$3 streams
  for streams in 1 4; do
    note "$column" "up, $streams stream(s), Mbit/s" "$(on_laptop measure up "$http" "$SECONDS_EACH" $streams)"
    note "$column" "down, $streams stream(s), Mbit/s" "$(on_laptop measure down "$http" "$SECONDS_EACH" $streams)"
  done
  note "$column" "keep-alive request p50 p99, ms" "$(on_laptop measure requests "http://$http/" 1000)"
  note "$column" "new connections a second" "$(on_laptop measure connections "$lines" "$SECONDS_EACH")"
}
seconds_of() { local start; start=$(date +%s%N); "$@" >/dev/null 2>&1; echo "$((($(date +%s%N) - start) / 1000000))" | awk '{printf "%.2f", $1 / 1000}'; }
# memory PATTERN: proportional set size in MiB of the laptop's processes that match, added up.
memory() {
  on_laptop bash -c "for p in \$(pgrep -f '$1'); do awk '/^Pss:/{print \$2}' /proc/\$p/smaps_rollup; done" 2>/dev/null |
    awk '{s += $1} END {printf "%.1f", s / 1024}'
}
# gateway_memory NAMESPACE: the same of its gateway, found by the pod's cgroup.
gateway_memory() {
  local p uid
  uid=$(k -n "$1" get pod kvpn-gateway-0 -o jsonpath='{.metadata.uid}')
  for p in $(pgrep -x kvpn-gateway); do
    if grep -q "$uid" "/proc/$p/cgroup" 2>/dev/null; then awk '/^Pss:/{printf "%.1f", $2 / 1024}' "/proc/$p/smaps_rollup"; fi
  done
}

"$HERE/import-image.sh" "$KVPN_IMAGE_TAR" >/dev/null
"$HERE/laptop.sh" stop $LAPTOP
"$HERE/laptop.sh" start $LAPTOP plain own "$KVPN_BIN"
k rollout status deploy/echo --timeout=120s >/dev/null
pod=$(k get pods -l app=echo -o jsonpath='{.items[0].metadata.name}')
pod_ip=$(k get pods -l app=echo -o jsonpath='{.items[0].status.podIP}')

say "kubectl port-forward"
on_laptop kubectl port-forward "pod/$pod" 18080:8080 19000:9000 >/dev/null 2>&1 &
forward=$!
wait_for 20 port-forward on_laptop curl -fsS -o /dev/null http://127.0.0.1:18080/
figures port-forward 127.0.0.1:18080 127.0.0.1:19000
kill $forward 2>/dev/null || true
on_laptop pkill -f port-forward || true

for datapath in userspace kernel; do
  ns=$(namespace $datapath)
  k create namespace "$ns" >/dev/null
  column=$datapath-udp
  note "$column" "connect, installing the gateway, s" "$(seconds_of on_laptop kvpn connect --gateway-namespace "$ns" --datapath $datapath)"
  on_laptop kvpn disconnect >/dev/null 2>&1
  for carrier in udp api; do
    say "$datapath datapath, $carrier carrier"
    column=$datapath-$carrier
    note "$column" "connect, gateway running, s" "$(seconds_of on_laptop kvpn connect --gateway-namespace "$ns" --carrier $carrier)"
    note "$column" "client memory idle (agent + helper), MiB" "$(memory '^[^ ]*kvpn(-helper)? (agent|helper)')"
    note "$column" "gateway memory idle, MiB" "$(gateway_memory "$ns")"
    note "$column" "name lookup p50 p99, ms" "$(on_laptop measure names echo.other.svc.cluster.local. 300)"
    figures "$column" "$pod_ip:8080" "$pod_ip:9000"
    note "$column" "client memory after load, MiB" "$(memory '^[^ ]*kvpn(-helper)? (agent|helper)')"
    note "$column" "gateway memory after load, MiB" "$(gateway_memory "$ns")"
    on_laptop kvpn disconnect >/dev/null 2>&1
  done
  k delete namespace "$ns" --wait=true >/dev/null
done

columns="port-forward userspace-api userspace-udp kernel-api kernel-udp"
{
  echo "what $columns" | tr ' ' '\t'
  cut -f1 "$results"/* | awk '!seen[$0]++' | while read -r row; do
    printf '%s' "$row"
    for c in $columns; do printf '\t%s' "$(awk -F'\t' -v r="$row" '$1 == r {print $2}' "$results/$c" 2>/dev/null || true)"; done
    echo
  done
} | sed 's/\t\t/\t-\t/g; s/\t\t/\t-\t/g; s/\t$/\t-/' | column -t -s $'\t'
echo "image: $(stat -c %s "$KVPN_IMAGE_TAR" | awk '{printf "%.1f MB", $1 / 1e6}'); client program: $(stat -c %s "$KVPN_BIN" | awk '{printf "%.1f MB", $1 / 1e6}')"
