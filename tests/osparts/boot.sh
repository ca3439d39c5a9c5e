#!/bin/bash
# boot.sh: a Debian (root.sh) with a real systemd as its first process, in namespaces and a cgroup of its own; 0.3 s.
# What it writes goes to memory and ends with it. Must not change anything outside but its state under /run.
#
#   boot.sh up NAME [--netns NETNS] [SOURCE:PATH]...   start it, in this network namespace or in an empty one of its own;
#                              SOURCE is to be seen in it at PATH, read only
#   boot.sh in NAME CMD...             run CMD in it as root; its exit status
#   boot.sh down NAME                  end it
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=/run/kvpn-booted
fail() { echo "boot: $*" >&2; exit 1; }

up() {
    local name=$1 root cgroups network=(unshare --net)
    shift
    if [ "${1:-}" = --netns ]; then
        network=(nsenter "--net=/run/netns/$2")
        shift 2
    fi
    [ ! -e "$state/$name" ] || fail "$name is up already (or was not ended: boot.sh down $name)"
    root=$("$here/root.sh")
    cgroups=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
    [ -n "$cgroups" ] || fail "there is no cgroup2 hierarchy"
    mkdir -p "$state/$name" "$cgroups/kvpn-$name"
    echo "$cgroups/kvpn-$name" >"$state/$name/cgroup"
    # It joins the cgroup before the cgroup namespace is made, whose root that is then.
    # shellcheck disable=SC2016  # that bash expands it
    setsid -f bash -c 'echo $BASHPID >"$1/cgroup.procs"; shift
        exec "$@"' \
        boot "$cgroups/kvpn-$name" "${network[@]}" \
        unshare --mount --pid --uts --ipc --cgroup --fork --kill-child --propagation private "${BASH_SOURCE[0]}" inside "$state/$name" "$root" "$@" </dev/null >"$state/$name/log" 2>&1
    local tries=0
    until inside_of "$name" systemctl is-system-running --wait >"$state/$name/running" 2>&1 || grep -q degraded "$state/$name/running"; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { cat "$state/$name/log" "$state/$name/running" >&2; down "$name"; fail "$name did not boot"; }
        sleep 0.05
    done
}

# In the new namespaces, as their first process.
inside() {
    local own=$1 root=$2 r=$1/root pid part
    shift 2
    read -r pid _ </proc/self/stat
    echo "$pid" >"$own/pid"
    mkdir "$own/memory" "$r"
    mount -t tmpfs -o mode=755 kvpn-boot "$own/memory"
    mkdir "$own/memory/upper" "$own/memory/work"
    mount -t overlay -o "lowerdir=$root,upperdir=$own/memory/upper,workdir=$own/memory/work" kvpn-root "$r"
    mount -t proc proc "$r/proc"
    mount -t sysfs -o ro sysfs "$r/sys"
    mount -t cgroup2 cgroup2 "$r/sys/fs/cgroup"
    for part in run tmp dev; do mount -t tmpfs -o mode=755 "$part" "$r/$part"; done
    chmod 1777 "$r/tmp"
    for part in null zero full random urandom tty; do touch "$r/dev/$part"; mount --bind "/dev/$part" "$r/dev/$part"; done
    mkdir -p "$r/dev/net" "$r/dev/pts" "$r/dev/shm"
    ln -s null "$r/dev/kmsg"
    ln -s /proc/self/fd "$r/dev/fd"
    mknod -m 666 "$r/dev/net/tun" c 10 200
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$r/dev/pts"
    ln -s pts/ptmx "$r/dev/ptmx"
    for part in "$@"; do
        mkdir -p "$r/$(dirname "${part#*:}")"
        touch "$r/${part#*:}"
        mount --bind -o ro "${part%%:*}" "$r/${part#*:}"
    done
    for part in systemd-networkd systemd-networkd-wait-online systemd-timesyncd console-getty apt-daily.timer apt-daily-upgrade.timer; do
        ln -sf /dev/null "$r/etc/systemd/system/${part%.timer}.$([[ $part = *.timer ]] && echo timer || echo service)"
    done
    : >"$r/etc/machine-id"
    mkdir "$r/.old"
    cd "$r"
    pivot_root . .old
    umount -l /.old
    rmdir /.old
    exec env -i container=kvpn PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        /lib/systemd/systemd --log-target=console --show-status=0
}

inside_of() {
    local name=$1 pid
    shift
    [ -e "$state/$name/pid" ] || { echo "not yet"; return 1; }
    pid=$(cat "$state/$name/pid")
    [ -S "/proc/$pid/root/run/systemd/private" ] || { echo "not yet"; return 1; }
    nsenter --target "$pid" --mount --net --pid --uts --ipc --cgroup \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}

down() {
    local name=$1 cgroup tries=0
    [ -e "$state/$name" ] || return 0
    cgroup=$(cat "$state/$name/cgroup")
    # All of its processes, and nobody else's.
    echo 1 >"$cgroup/cgroup.kill" 2>/dev/null || :
    while [ -d "$cgroup" ]; do
        find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || :
        tries=$((tries + 1))
        [ $tries -lt 100 ] || fail "processes of $name do not end"
        sleep 0.05
    done
    rm -rf --one-file-system "${state:?}/$name"
}

case ${1:-} in
up | inside | down) "$@" ;;
in) shift; inside_of "$@" ;;
*) sed -n '5,8s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
