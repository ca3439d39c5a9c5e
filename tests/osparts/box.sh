#!/bin/bash
# box.sh: a laptop to break. The machine's / stays visible, but /etc, /run and /var/lib/kvpn are private copies, the
# network is a new namespace (or one that exists), and processes die with the box. With --resolved a real
# systemd-resolved serves it, from the Debian of root.sh, on a D-Bus of its own.
# Must not change anything outside of the box but the folder of its own state under /run.
#
#   box.sh up NAME [--netns NS] [--resolved [--dns ADDRESS]...]   start it
#   box.sh in NAME CMD...                                         run CMD in it; its exit status
#   box.sh down NAME                                              end it
#   box.sh run [--netns NS] [--resolved [--dns ADDRESS]...] -- CMD...
#
# In the box, $KVPN_BOX_ROOT is the Debian's root (with --resolved): `chroot $KVPN_BOX_ROOT getent hosts web` asks
# through nss-resolve, `chroot $KVPN_BOX_ROOT dig web` has dig, dnsmasq, resolvectl and musl. --dns are the servers
# that resolved asks; without it, those of the namespace's own resolv.conf. Only root can do this.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=/run/kvpn-box

fail() { echo "box: $*" >&2; exit 1; }

options() {
    netns='' resolved='' servers=() rest=()
    while [ $# -gt 0 ]; do
        case $1 in
        --netns) netns=$2; shift 2 ;;
        --resolved) resolved=yes; shift ;;
        --dns) servers+=("$2"); shift 2 ;;
        --) shift; rest=("$@"); return ;;
        *) fail "unknown option $1" ;;
        esac
    done
}

up() {
    local name=$1 root='' conf=/etc/resolv.conf pid
    shift
    options "$@"
    [ ! -e "$state/$name" ] || fail "$name is up already (or was not ended: box.sh down $name)"
    [ -z "$resolved" ] || root=$("$here/root.sh")
    [ -z "$netns" ] || [ ! -e "/etc/netns/$netns/resolv.conf" ] || conf=/etc/netns/$netns/resolv.conf
    mkdir -p "$state/$name"
    # Several boxes may come up at once.
    mkdir -m 700 /var/lib/kvpn 2>/dev/null || [ -d /var/lib/kvpn ]
    cp "$conf" "$state/$name/resolv.conf" 2>/dev/null || : >"$state/$name/resolv.conf"
    local enter=(unshare --net)
    [ -z "$netns" ] || enter=(nsenter "--net=/run/netns/$netns")
    setsid -f "${enter[@]}" unshare --mount --pid --ipc --uts --fork --kill-child --propagation private \
        "${BASH_SOURCE[0]}" inside "$state/$name" "$root" "${netns:-}" "${servers[@]}" </dev/null >"$state/$name/log" 2>&1
    until [ -e "$state/$name/ready" ]; do
        if [ -e "$state/$name/failed" ]; then
            cat "$state/$name/log" >&2
            down "$name"
            fail "$name did not come up"
        fi
        sleep 0.02
    done
}

# In the new namespaces, as their first process.
inside() {
    local own=$1 root=$2 netns=$3 pid work=/tmp
    shift 3
    trap 'touch "$own/failed"' EXIT
    # /proc is still the outer one, so this is the process id that the outside sees.
    read -r pid _ </proc/self/stat
    echo "$pid" >"$own/pid"
    mount -t proc proc /proc
    work=$own/work
    mkdir "$work"
    mount -t tmpfs -o mode=755 kvpn-box "$work"
    mkdir "$work/etc" "$work/etc.work" "$work/run"
    mount -t overlay -o "lowerdir=/etc,upperdir=$work/etc,workdir=$work/etc.work" kvpn-etc /etc
    rm -f /etc/resolv.conf
    cp "$own/resolv.conf" /etc/resolv.conf
    mount -t tmpfs -o mode=700 kvpn-state /var/lib/kvpn
    [ -n "$netns" ] || ip link set lo up
    [ -z "$root" ] || prepare_root "$root" "$work"
    private_run "$own" "$work"
    [ -z "$root" ] || start_resolved "$work/root" "$own/resolv.conf" "$@"
    touch "$own/ready"
    trap - EXIT
    exec sleep infinity
}

# An empty /run, but for named network namespaces and the boxes' own state.
private_run() {
    mount -t tmpfs -o mode=755 kvpn-run "$2/run"
    mkdir -p "$2/run/netns" "$2/run/kvpn-box" "$2/run/lock"
    [ ! -d /run/netns ] || mount --rbind /run/netns "$2/run/netns"
    mount --rbind /run/kvpn-box "$2/run/kvpn-box"
    mount --rbind "$2/run" /run
    [ ! -d "$2/root/run" ] || mount --rbind "$2/run" "$2/root/run"
}

prepare_root() {
    mkdir "$2/root" "$2/root.upper" "$2/root.work"
    mount -t overlay -o "lowerdir=$1,upperdir=$2/root.upper,workdir=$2/root.work" kvpn-root "$2/root"
    mount --rbind /proc "$2/root/proc"
    mount --rbind /dev "$2/root/dev"
}

start_resolved() {
    local root=$1 before=$2
    shift 2
    # shellcheck disable=SC2046  # a list of addresses
    [ $# -gt 0 ] || set -- $(awk '$1 == "nameserver" {print $2}' "$before")
    mkdir -p "$root/etc/systemd/resolved.conf.d" /run/dbus /run/systemd/resolve
    printf '[Resolve]\nDNS=%s\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n' "$*" >"$root/etc/systemd/resolved.conf.d/box.conf"
    ln -sfn ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
    chroot "$root" chown systemd-resolve: /run/systemd/resolve
    chroot "$root" dbus-daemon --system --fork --nopidfile
    chroot "$root" /lib/systemd/systemd-resolved </dev/null >/run/resolved.log 2>&1 &
    for _ in $(seq 250); do
        if chroot "$root" busctl --no-pager list --acquired 2>/dev/null | grep -q org.freedesktop.resolve1; then
            ln -sfn ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
            return
        fi
        sleep 0.02
    done
    cat /run/resolved.log >&2
    fail "systemd-resolved did not start within 5 s"
}

within() {
    local name=$1 pid
    shift
    pid=$(cat "$state/$name/pid" 2>/dev/null) || fail "$name is not up"
    # shellcheck disable=SC2016  # expanded by the inner shell
    exec nsenter "--target=$pid" --mount --net --pid --ipc --uts -- \
        env "KVPN_BOX_ROOT=$state/$name/work/root" /bin/bash -c 'cd "$1" && shift && exec "$@"' box "$PWD" "$@"
}

down() {
    local name=$1 pid
    pid=$(cat "$state/$name/pid" 2>/dev/null) || pid=
    # Only a process that is still this box's: it sees the box's own folder under its work mount.
    if [ -n "$pid" ] && grep -q " $state/$name/work " "/proc/$pid/mountinfo" 2>/dev/null; then
        kill -KILL "$pid"
        while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
    fi
    rm -rf --one-file-system "${state:?}/$name"
}

[ "$(id -u)" = 0 ] || fail "needs root: it makes namespaces and mounts in them"
[ $# -ge 1 ] || fail "see the head of this file"
action=$1
shift
case $action in
up | down) [ $# -ge 1 ] || fail "$action needs a name"; "$action" "$@" ;;
in) [ $# -ge 2 ] || fail "in needs a name and a command"; within "$@" ;;
inside) inside "$@" ;;
run)
    options "$@"
    [ ${#rest[@]} -gt 0 ] || fail "run needs a command after --"
    name=run-$$
    trap 'down "$name"' EXIT
    up "$name" "$@"
    command=("${rest[@]}")
    status=0
    "${BASH_SOURCE[0]}" in "$name" "${command[@]}" || status=$?
    exit $status
    ;;
*) fail "unknown action $action" ;;
esac
