#!/bin/bash
# clean.sh CMD...: runs CMD with $root, a Debian (root.sh) in which nobody was before. What CMD does to it stays in memory and
# is gone at the end. /proc is the machine's, without a network; no systemd runs in it. Only root can do this.
set -euo pipefail
lower=$("$(dirname "${BASH_SOURCE[0]}")/root.sh")
[ $# != 0 ] || { sed -n '2s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
# shellcheck disable=SC2016  # the inner shell expands it
exec unshare --mount --net --propagation private bash -euc '
  memory=/mnt lower=$1
  shift
  mount -t tmpfs -o mode=755 kvpn-clean "$memory"
  mkdir "$memory"/{upper,work,root}
  export root=$memory/root
  mount -t overlay -o "lowerdir=$lower,upperdir=$memory/upper,workdir=$memory/work" kvpn-clean "$root"
  mount --bind /proc "$root/proc"
  exec "$@"
' clean "$lower" "$@"
