#!/bin/bash
# laptop.sh start NAME [plain|resolved [own|shared [PROGRAM]]]   boots a laptop; NAME: kvpn-laptop (up.sh's) or kvpn-laptop-...
#           exec NAME COMMAND...   runs a command on it, as root, in the caller's folder
#           stop NAME | list
# Each laptop hangs on a cable of its own at kvpn-net and sees the machine's files, but its writes (other
# than to the checkout and the cache) are its own and end with it. /etc/resolv.conf names the public
# resolver (plain), or systemd-resolved runs and does (resolved). `shared` lends it the machine's own network and
# resolver, for a cluster that is not the test cluster. PROGRAM is what `kvpn` means on it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
usage() { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
[ $# -ge 1 ] || usage

# Cable number N of a laptop gives its subnet, 172.31.(100+N).0/24; the first laptop's is 172.31.1.0/24.
free_cable() {
  local n
  for n in $(seq 1 99); do
    ip -n $NS_NET link show "cable$n" >/dev/null 2>&1 || { echo "$n"; return; }
  done
  say "99 laptops are running"; return 1
}
plug_in() {
  local name=$1 dev ip gw ip6 gw6 n
  if [ "$name" = $NS_LAPTOP ]; then
    dev=laptop ip=$LAPTOP_IP gw=$LAPTOP_GW ip6=$LAPTOP_IP6 gw6=$LAPTOP_GW6
  else
    n=$(free_cable)
    dev=cable$n ip=172.31.$((100 + n)).2 gw=172.31.$((100 + n)).1
    ip6=fd00:172:31:$((100 + n))::2 gw6=fd00:172:31:$((100 + n))::1
  fi
  add_ns "$name"
  # Its link-local address is there at once, and not a second later: tests compare before and after.
  ns_sysctl "$name" net.ipv6.conf.default.accept_dad=0
  link "$name" eth0 $NS_NET "$dev"
  ip -n "$name" addr add "$ip/24" dev eth0
  ip -n $NS_NET addr add "$gw/24" dev "$dev"
  ip -n "$name" route add default via "$gw"
  dual || return 0
  ip -n "$name" addr add "$ip6/64" dev eth0 nodad
  ip -n $NS_NET addr add "$gw6/64" dev "$dev" nodad
  ip -n "$name" route add default via "$gw6"
}
case ${2:-} in kvpn-laptop | kvpn-laptop-*) ;; *) [ "$1" = list ] || usage ;; esac
case $1 in
start)
  ! alive "$2" || { say "$2 is running"; exit 1; }
  mkdir -p "$STATE"
  exec 9>"$STATE/laptops.lock"
  flock 9
  rm -rf "${STATE:?}/$2"
  if [ "${4:-own}" = shared ]; then
    NETNS=/proc/self/ns/net boot "$2" laptop-init.sh "$2" machine "${5:-}"
  else
    [ -e "/run/netns/$2" ] || plug_in "$2"
    boot "$2" laptop-init.sh "$2" "${3:-plain}" "${5:-}"
  fi
  flock -u 9
  wait_for 10 "$2 (see $STATE/$2/init.log)" test -e "$STATE/$2/started" ;;
exec)
  name=$2
  shift 2
  export KUBECONFIG=${KUBECONFIG:-$STATE/kubeconfig}
  inside "$name" env -C "$PWD" "$@" ;;
stop)
  cut_power "$2"
  [ ! -e "/run/netns/$2" ] || ip netns del "$2"
  rm -rf "${STATE:?}/$2" ;;
list) for d in "$STATE"/kvpn-laptop*/; do [ ! -e "$d/pid" ] || basename "$d"; done ;;
*) usage ;;
esac
