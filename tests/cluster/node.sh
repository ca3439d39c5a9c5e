#!/bin/bash
# node.sh start N | kill N: a node's "power button". kill is a power cut: every process of the
# node, pods included, is gone at once. start after it is a boot with the old disk.
# node.sh api-stop | api-start: the API server alone, as it was started. Everything else goes on.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
usage() { say "usage: node.sh start|kill N, api-stop, api-start"; exit 2; }
case $* in "start "? | "kill "? | api-stop | api-start) set -- "$1" "${2:-1}" ;; *) usage ;; esac
name=$(node_name "$2") D=$STATE/$(node_name "$2")

# One parent cgroup per node, in every v1 hierarchy or in the unified one.
make_cgroup() {
  local d f
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup/$1"
    for f in cpuset cpu io memory hugetlb pids; do
      echo "+$f" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
    done
    return
  fi
  for d in /sys/fs/cgroup/*/; do
    [ ! -L "${d%/}" ] || continue
    mkdir -p "$d$1"
    for f in cpuset.cpus cpuset.mems; do
      [ ! -e "$d$1/$f" ] || cat "$d$f" >"$d$1/$f"
    done
  done
}
remove_cgroup() {
  local r
  for r in /sys/fs/cgroup/*/"$1" /sys/fs/cgroup/"$1"; do
    [ -d "$r" ] || continue
    for _ in $(seq 100); do
      find "$r" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [ -d "$r" ] || break
      sleep 0.1
    done
    [ ! -d "$r" ] || say "$r is still there"
  done
}

case $1 in
start)
  ! alive "$name" || { say "$name is running"; exit 1; }
  rm -rf "$D/run"
  mkdir -p "$D"/{run,log,varlib}
  make_cgroup "$name"
  boot "$name" node-init.sh "$2" ;;
kill)
  cut_power "$name"
  remove_cgroup "$name" ;;
api-stop)
  pid=$(inside "$name" pgrep -x kube-apiserver)
  inside "$name" cat "/proc/$pid/cmdline" >"$D/apiserver.cmdline"
  inside "$name" kill -KILL "$pid"
  wait_for 5 "the API server's end" eval "! inside $name pgrep -x kube-apiserver" ;;
api-start)
  mapfile -d '' -t line <"$D/apiserver.cmdline"
  inside "$name" setsid "${line[@]}" >>"$D/log/kube-apiserver.log" 2>&1 </dev/null 9>&- & ;;
esac
