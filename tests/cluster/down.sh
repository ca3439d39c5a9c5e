#!/bin/bash
# Ends the cluster and removes everything it made: processes, cgroups, namespaces, state.
# Also what a broken up.sh left. It touches nothing that it did not make.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
for laptop in $("$HERE/laptop.sh" list); do "$HERE/laptop.sh" stop "$laptop"; done
cut_power $NS_NET
for n in $(seq "$(cat "$STATE/nodes" 2>/dev/null || echo 0)"); do "$HERE/node.sh" kill "$n"; done
for ns in $(ip netns list | awk '{print $1}'); do
  case $ns in "$NS_LAPTOP" | kvpn-laptop-* | "$NS_NET" | kvpn-node[1-9]) ip netns del "$ns" ;; esac
done
rm -rf --one-file-system "$STATE" || { say "could not remove all of $STATE"; exit 1; }
say "down"
