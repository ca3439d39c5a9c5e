#!/bin/bash
# Memory (PSS, MiB) of every process of the cluster, by program.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
for D in "$STATE"/kvpn-node*/; do
  name=$(basename "$D")
  alive "$name" || continue
  pid=$(cat "$D/pid") child=$(cat "/proc/$pid/task/$pid/children")
  ns=$(readlink "/proc/${child%% *}/ns/pid")
  echo "$name"
  for p in /proc/[0-9]*; do
    # a pod has a PID namespace of its own, below the node's: its cgroup tells whose it is
    [ "$(readlink "$p/ns/pid" 2>/dev/null)" = "$ns" ] || grep -q "/$name/" "$p/cgroup" 2>/dev/null || continue
    pss=$(awk '/^Pss:/{print $2}' "$p/smaps_rollup" 2>/dev/null)
    echo "${pss:-0} $(cat "$p/comm" 2>/dev/null)"
  done | awk '{a[$2]+=$1;t+=$1} END{for(i in a)printf "%8.1f %s\n",a[i]/1024,i; printf "%8.1f total\n",t/1024}' | sort -rn
done
