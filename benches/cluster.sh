#!/bin/bash
# cluster.sh: what a user of the test cluster gets, beside `kubectl port-forward`, in interleaved rounds: throughput, latency,
# connections and names for each datapath and carrier, at 0 and at 20 ms, connect time, memory, sizes. `make bench` runs it.
# Client, nodes and control plane share the machine's cores: compare columns, not machines.
# BENCH_ROUNDS=2 BENCH_SECONDS=3 BENCH_RTT=20 (0: without) cluster.sh
set -euo pipefail
. "$(dirname "$0")/../tests/cluster/lib.sh"
KVPN_BIN=${KVPN_BIN:?make bench sets it} KVPN_IMAGE_TAR=${KVPN_IMAGE_TAR:?make bench sets it}
LENGTH=${BENCH_SECONDS:-3} ROUNDS=${BENCH_ROUNDS:-2} RTT=${BENCH_RTT:-20}
BENCHES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
OUTPUT=${BENCH_OUTPUT:-$BENCHES/results/cluster}
LAPTOP=kvpn-laptop-bench
CELL="cluster, 0 ms"
on_laptop() { "$HERE/laptop.sh" exec $LAPTOP "$@"; }
k() { "$HERE/k" "$@"; }
namespace() { echo "kvpn-bench-$1"; }
distance() { "$BENCHES/delaylink/link.sh" "$1" $LAPTOP eth0 "${@:2}"; }
# shellcheck disable=SC2317  # the trap calls it
clean_up() {
  on_laptop kvpn disconnect --all >/dev/null 2>&1 || true
  distance down || true
  "$HERE/laptop.sh" stop $LAPTOP || true
  k delete namespace "$(namespace userspace)" "$(namespace kernel)" --ignore-not-found --wait=false >/dev/null || true
}
trap clean_up EXIT

# note COLUMN FIGURE VALUE: report.py knows the figures' names.
note() { printf '%s\t%s\t%s\t%s\n' "$CELL" "$1" "$2" "$3" >>"$OUTPUT.tsv"; }
# take COLUMN "FIGURE.." COMMAND..: a command that prints a value a figure; what fails is said and left out.
take() {
  local column=$1 figures values i=0
  read -ra figures <<<"$2"
  shift 2
  if ! read -ra values < <(timeout 60 "$@" 2>/dev/null) || [ ${#values[@]} != ${#figures[@]} ]; then
    echo "# $CELL, $column: ${figures[*]}: failed" >>"$OUTPUT.tsv"
    return 0
  fi
  for f in "${figures[@]}"; do note "$column" "$f" "${values[i++]}"; done
}
laptop_measure=("$HERE/laptop.sh" exec "$LAPTOP" measure)
# throughput COLUMN HTTP
throughput() {
  local streams way
  for streams in 1 4; do for way in up down; do
    take "$1" $way$streams "${laptop_measure[@]}" $way "$2" "$LENGTH" $streams
  done; done
}
# latency COLUMN HTTP LINES
latency() {
  local load
  take "$1" "idle-p50 idle-p99" "${laptop_measure[@]}" requests "http://$2/" 1000
  take "$1" connections "${laptop_measure[@]}" connections "$3" "$LENGTH"
  "${laptop_measure[@]}" up "$2" 4 1 >/dev/null 2>&1 &
  load=$!
  sleep 1.5
  take "$1" "loaded-p50 loaded-p99" "${laptop_measure[@]}" requests "http://$2/" 200
  wait $load || true
}
# far OPEN CLOSE COLUMN HTTP: the same a longer way off, from a fresh connection: TCP takes the shortest round trip that it met for
# the path's own, for 10 s or more.
far() {
  [ "$RTT" != 0 ] || return 0
  local near=$CELL
  CELL="cluster, $RTT ms"
  distance up $NS_NET delay=$((RTT / 2))ms
  $1
  throughput "${@:3}"
  take "$3" "idle-p50 idle-p99" "${laptop_measure[@]}" requests "http://$4/" 50
  $2
  distance down
  CELL=$near
}
seconds_of() { local start; start=$(date +%s%N); "$@" >/dev/null 2>&1; echo "$((($(date +%s%N) - start) / 1000000))" | awk '{printf "%.3f", $1 / 1000}'; }
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
CLIENT='^[^ ]*kvpn(-helper)? (agent|helper)'

begin_forward() {
  on_laptop kubectl port-forward "pod/$pod" 18080:8080 19000:9000 >/dev/null 2>&1 &
  wait_for 20 port-forward on_laptop curl -fsS -o /dev/null http://127.0.0.1:18080/
}
end_forward() {
  on_laptop pkill -f 'kubectl port-forward' || true
  wait $! || true
}
port_forward() {
  begin_forward
  throughput port-forward 127.0.0.1:18080
  latency port-forward 127.0.0.1:18080 127.0.0.1:19000
  end_forward
  far begin_forward end_forward port-forward 127.0.0.1:18080
}
# Of the namespace and carrier that tunnel() has chosen.
connect() { on_laptop kvpn connect --gateway-namespace "$ns" --carrier "$carrier" >/dev/null 2>&1; }
disconnect() { on_laptop kvpn disconnect >/dev/null 2>&1; }
# tunnel DATAPATH CARRIER
tunnel() {
  local ns carrier column="kvpn $1, $2"
  ns=$(namespace "$1") carrier=$2
  note "$column" connect "$(seconds_of connect)"
  note "$column" client-idle "$(memory "$CLIENT")"
  note "$column" gateway-idle "$(gateway_memory "$ns")"
  take "$column" "name-p50 name-p99" "${laptop_measure[@]}" names echo.other.svc.cluster.local. 300
  throughput "$column" "$pod_ip:8080"
  latency "$column" "$pod_ip:8080" "$pod_ip:9000"
  note "$column" client-loaded "$(memory "$CLIENT")"
  note "$column" gateway-loaded "$(gateway_memory "$ns")"
  disconnect
  far connect disconnect "$column" "$pod_ip:8080"
}

mkdir -p "$(dirname "$OUTPUT")"
: >"$OUTPUT.tsv"
"$HERE/import-image.sh" "$KVPN_IMAGE_TAR" >/dev/null
"$HERE/laptop.sh" stop $LAPTOP
"$HERE/laptop.sh" start $LAPTOP plain own "$KVPN_BIN"
k rollout status deploy/echo --timeout=120s >/dev/null
pod=$(k get pods -l app=echo -o jsonpath='{.items[0].metadata.name}')
pod_ip=$(k get pods -l app=echo -o jsonpath='{.items[0].status.podIP}')
for datapath in userspace kernel; do
  k create namespace "$(namespace $datapath)" >/dev/null
  note "kvpn $datapath, api" connect-install "$(seconds_of on_laptop kvpn connect --gateway-namespace "$(namespace $datapath)" --datapath $datapath)"
  on_laptop kvpn disconnect >/dev/null 2>&1
done
for round in $(seq "$ROUNDS"); do
  say "round $round: kubectl port-forward"
  port_forward
  for datapath in userspace kernel; do for carrier in api udp; do
    say "round $round: kvpn $datapath datapath, $carrier carrier"
    tunnel $datapath $carrier
  done; done
done
echo "# image: $(stat -c %s "$KVPN_IMAGE_TAR" | awk '{printf "%.1f MB", $1 / 1e6}'); client program: $(stat -c %s "$KVPN_BIN" | awk '{printf "%.1f MB", $1 / 1e6}')" >>"$OUTPUT.tsv"
python3 "$BENCHES/tunnels/report.py" "$OUTPUT" port-forward
