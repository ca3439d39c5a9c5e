#!/bin/bash
# link.sh: puts delaylink into a cable (veth pair) between two network namespaces, live, or takes it out again.
#
#   link.sh up NEAR_NS NEAR_IF FAR_NS [--mtu-frames] [OPTION=VALUE...]    e.g. up kvpn-laptop eth0 kvpn-net delay=10ms
#   link.sh set NEAR_NS NEAR_IF OPTION=VALUE...                           e.g. set kvpn-laptop eth0 loss=1% down.rate=50mbit
#   link.sh stat NEAR_NS NEAR_IF        link.sh down NEAR_NS NEAR_IF
#
# NEAR_IF is the cable's end in NEAR_NS, which does not change; its other end must be in FAR_NS. `up.OPTION` is from near to
# far. --mtu-frames makes both ends send frames of at most the MTU (gso_max_segs 1). Without it TSO frames of up to 64 KiB
# pass whole: faster, but one loss then takes up to 44 segments. It is on by itself when loss, dup, reorder or rate is asked for.
#
#   before:  NEAR_IF ------------------------------ FAR_IF (addresses)   FAR_NS
#   after:   NEAR_IF -- FAR_IF =delaylink= dlaN -- dlbN    (addresses)   FAR_NS
# dlbN takes over FAR_IF's addresses, routes and MAC: no neighbour entry becomes stale, no connection breaks.
set -euo pipefail
HERE=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
PROGRAM=${DELAYLINK:-$HERE/../../target/release/delaylink}
usage() { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 3 ] || usage
verb=$1 NEAR_NS=$2 NEAR_IF=$3
shift 3
RUN=/run/kvpn-delaylink/$NEAR_NS.$NEAR_IF
in_far() { nsenter --net="/run/netns/$FAR_NS" "$@"; }
far() { ip -n "$FAR_NS" "$@"; }
addresses() { far -o addr show dev "$1" | awk '$0 !~ /scope link/ {print $4}'; }
# move_addresses FILE FROM TO: addresses and the routes that name the interface.
move_addresses() {
  local a routes
  routes=$(for f in -4 -6; do far $f route show dev "$2" | awk -v f=$f '/ via | scope link/ && $0 !~ /proto kernel/ {print f, $0}'; done)
  while read -r a; do far addr del "$a" dev "$2" 2>/dev/null || true; done <"$1"
  while read -r a; do
    # shellcheck disable=SC2046  # a word or none
    far addr add "$a" dev "$3" $([[ $a != *:* ]] || echo nodad)
  done <"$1"
  # shellcheck disable=SC2086  # routes are words
  while read -r f a; do [ -z "$a" ] || far $f route replace $a dev "$3"; done <<<"$routes"
}

case $verb in
up)
  [ $# -ge 1 ] || usage
  FAR_NS=$1; shift
  [ -x "$PROGRAM" ] || { echo "link.sh: $PROGRAM is missing: cargo build --release -p kvpn-delaylink" >&2; exit 1; }
  [ ! -e "$RUN" ] || { echo "link.sh: up already: $RUN" >&2; exit 1; }
  index=$(ip -n "$NEAR_NS" -o link show "$NEAR_IF" | sed -n 's/^[0-9]*: [^@]*@if\([0-9]*\):.*/\1/p')
  FAR_IF=$(far -o link | sed -n "s/^$index: \([^@:]*\)[@:].*/\1/p")
  [ -n "$FAR_IF" ] || { echo "link.sh: the other end of $NEAR_IF is not in $FAR_NS" >&2; exit 1; }
  small='' options=()
  for word in "$@"; do case $word in
    --mtu-frames) small=1 ;;
    *loss=* | *dup=* | *reorder=* | *rate=*) small=1; options+=("$word") ;;
    *) options+=("$word") ;;
  esac; done
  mkdir -p "$RUN"
  mac=$(far -o link show dev "$FAR_IF" | sed 's/.*link\/ether \([0-9a-f:]*\).*/\1/')
  addresses "$FAR_IF" >"$RUN/addresses"
  printf '%s\n' "$FAR_NS" "$FAR_IF" "$mac" "dla$index" "dlb$index" >"$RUN/far"
  far link add "dla$index" type veth peer name "dlb$index"
  in_far sysctl -qw "net.ipv6.conf.dla$index.disable_ipv6=1" "net.ipv6.conf.$FAR_IF.disable_ipv6=1"
  # Two interfaces of one namespace must not have one MAC: the kernel would take the frames for its own.
  far link set "$FAR_IF" arp off address 02:00:00:00:dd:01
  far link set "dla$index" arp off up
  far link set "dlb$index" address "$mac" up
  move_addresses "$RUN/addresses" "$FAR_IF" "dlb$index"
  if [ -n "$small" ]; then
    ip -n "$NEAR_NS" link set "$NEAR_IF" gso_max_segs 1; far link set "dlb$index" gso_max_segs 1
  fi
  setsid nsenter --net="/run/netns/$FAR_NS" "$PROGRAM" run "$FAR_IF" "dla$index" --control "$RUN/control" "${options[@]}" >"$RUN/log" 2>&1 </dev/null &
  echo $! >"$RUN/pid"
  for _ in $(seq 250); do ! grep -q ready "$RUN/log" || exit 0; [ -e "/proc/$!" ] || break; sleep 0.02; done
  cat "$RUN/log" >&2; exit 1 ;;
set | stat)
  exec "$PROGRAM" ctl "$RUN/control" "$@" ;;
down)
  [ -e "$RUN/far" ] || exit 0
  { read -r FAR_NS; read -r FAR_IF; read -r mac; read -r dla; read -r dlb; } <"$RUN/far"
  if [ -e "$RUN/pid" ] && grep -qa delaylink "/proc/$(cat "$RUN/pid")/cmdline" 2>/dev/null; then kill "$(cat "$RUN/pid")"; fi
  ip -n "$NEAR_NS" link set "$NEAR_IF" gso_max_segs 65535
  # The MAC first: the link-local address is made from it.
  far link set "$dlb" address 02:00:00:00:dd:02
  far link set "$FAR_IF" arp on address "$mac"
  in_far sysctl -qw "net.ipv6.conf.$FAR_IF.disable_ipv6=0"
  move_addresses "$RUN/addresses" "$dlb" "$FAR_IF"
  far link del "$dla"
  rm -rf "$RUN" ;;
*) usage ;;
esac
