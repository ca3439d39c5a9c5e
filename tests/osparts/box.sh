#!/bin/bash
# box.sh: a laptop to break. The machine's / stays visible, but /etc, /run and /var/lib/kvpn are private copies, the
# network is a new namespace (or one that exists), and processes die with the box. Real programs look after its names, if
# asked to, from the Debian of root.sh: systemd-resolved, NetworkManager, openresolv, Debian's resolvconf.
# Must not change anything outside of the box but the folder of its own state under /run.
#
#   box.sh up NAME [--netns NS] [--names WHO] [--dns ADDRESS]...  start it
#   box.sh in NAME CMD...                                         run CMD in it; its exit status
#   box.sh down NAME                                              end it
#   box.sh run [--netns NS] [--names WHO] [--dns ADDRESS]... -- CMD...
#
# WHO is resolved, nm-default or nm-dnsmasq (NetworkManager, which writes resolv.conf itself or has a dnsmasq), openresolv,
# openresolv-new (a later Debian's), debian-resolvconf, or plain (nobody). In the box,
# $KVPN_BOX_ROOT is the Debian's root then: `chroot $KVPN_BOX_ROOT getent hosts web` asks
# through nss-resolve, `chroot $KVPN_BOX_ROOT dig web` has dig, dnsmasq, resolvectl, nmcli and musl. But with resolved, /etc
# is the Debian's too. --dns are the servers that WHO asks; without it, those of the namespace's own resolv.conf. With
# NetworkManager they are those of a connection `up` on the interface up1 (10.99.1.1/24). Only root can do this.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=/run/kvpn-box

fail() { echo "box: $*" >&2; exit 1; }

options() {
    netns='' who='' servers=() rest=()
    while [ $# -gt 0 ]; do
        case $1 in
        --netns) netns=$2; shift 2 ;;
        --names) who=$2; shift 2 ;;
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
    case $who in
    '' | plain | resolved | nm-default | nm-dnsmasq | openresolv | openresolv-new | debian-resolvconf) ;;
    *) fail "$who looks after no names here" ;;
    esac
    [ -z "$who" ] || root=$("$here/root.sh")
    [ -z "$netns" ] || [ ! -e "/etc/netns/$netns/resolv.conf" ] || conf=/etc/netns/$netns/resolv.conf
    mkdir -p "$state/$name"
    # Several boxes may come up at once.
    mkdir -m 700 /var/lib/kvpn 2>/dev/null || [ -d /var/lib/kvpn ]
    cp "$conf" "$state/$name/resolv.conf" 2>/dev/null || : >"$state/$name/resolv.conf"
    local enter=(unshare --net)
    [ -z "$netns" ] || enter=(nsenter "--net=/run/netns/$netns")
    setsid -f "${enter[@]}" unshare --mount --pid --ipc --uts --fork --kill-child --propagation private \
        "${BASH_SOURCE[0]}" inside "$state/$name" "$root" "${netns:-}" "$who" "${servers[@]}" </dev/null >"$state/$name/log" 2>&1
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
    local own=$1 root=$2 netns=$3 who=$4 pid work=/tmp
    shift 4
    # shellcheck disable=SC2064  # a function's variables are gone when its shell ends
    trap "touch '$own/failed'" EXIT
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
    # shellcheck disable=SC2046  # a list of addresses
    [ $# -gt 0 ] || set -- $(awk '$1 == "nameserver" {print $2}' "$own/resolv.conf")
    case $who in
    plain) share_etc "$work/root" ;;
    resolved) start_resolved "$work/root" "$@" ;;
    nm-*) share_etc "$work/root"; start_network_manager "$work/root" "${who#nm-}" "$@" ;;
    openresolv | openresolv-new | debian-resolvconf) share_etc "$work/root"; start_resolvconf "$work" "${who#debian-}" "$@" ;;
    esac
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
    # Read-only: a writable one means that udev runs here, and NetworkManager would wait for it.
    mount -t sysfs -o ro kvpn-sys "$2/root/sys"
}

# Who renames a file over /etc/resolv.conf in the Debian does it for the machine's programs too.
share_etc() {
    rm -f "$1/etc/resolv.conf"
    cp /etc/resolv.conf "$1/etc/resolv.conf"
    mount --bind "$1/etc" /etc
    # nss-resolve is not asked.
    sed -i 's/^hosts:.*/hosts: files dns/' /etc/nsswitch.conf
}

start_bus() {
    mkdir -p /run/dbus
    chroot "$1" dbus-daemon --system --fork --nopidfile
}

# Waits up to 5 s until a command succeeds.
await() {
    for _ in $(seq 250); do
        ! "$@" >/dev/null 2>&1 || return 0
        sleep 0.02
    done
    return 1
}

start_resolved() {
    local root=$1
    shift
    mkdir -p "$root/etc/systemd/resolved.conf.d" /run/systemd/resolve
    printf '[Resolve]\nDNS=%s\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n' "$*" >"$root/etc/systemd/resolved.conf.d/box.conf"
    ln -sfn ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
    chroot "$root" chown systemd-resolve: /run/systemd/resolve
    start_bus "$root"
    chroot "$root" /lib/systemd/systemd-resolved </dev/null >/run/resolved.log 2>&1 &
    await answers_to_resolve1 "$root" || { cat /run/resolved.log >&2; fail "systemd-resolved did not start within 5 s"; }
    ln -sfn ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
}

answers_to_resolve1() {
    chroot "$1" busctl --no-pager list --acquired | grep -q org.freedesktop.resolve1
}

# $2 is NetworkManager's own word (dns=).
start_network_manager() {
    local root=$1 dns=$2
    shift 2
    printf '%s\n' '[main]' plugins=keyfile "dns=$dns" rc-manager=file 'no-auto-default=*' '[connectivity]' enabled=false \
        '[keyfile]' unmanaged-devices=interface-name:up0 >/etc/NetworkManager/NetworkManager.conf
    mkdir -p /run/NetworkManager
    start_bus "$root"
    ip link add up0 type veth peer name up1
    ip link set up0 up
    chroot "$root" NetworkManager --no-daemon </dev/null >/run/nm.log 2>&1 &
    await chroot "$root" nmcli -t general status || { cat /run/nm.log >&2; fail "NetworkManager did not start within 5 s"; }
    chroot "$root" nmcli connection add type ethernet ifname up1 con-name up ip4 10.99.1.1/24 ipv4.dns "$*" \
        ipv4.dns-search corp.example ipv6.method disabled >/run/nmcli.log
    chroot "$root" nmcli connection up up >>/run/nmcli.log || { cat /run/nm.log /run/nmcli.log >&2; fail "NetworkManager has no network"; }
}

# The package's programs and settings laid over the machine's and the Debian's.
start_resolvconf() {
    local work=$1 package=$2 folder part
    shift 2
    cp -a "$work/root/opt/$package/etc/." /etc/
    for folder in sbin lib; do
        [ -d "/usr/$folder" ] && mkdir -p "$work/$folder" "$work/$folder.work"
        for part in "$work/root/opt/$package"{,/usr}/"$folder"; do [ ! -d "$part" ] || cp -a "$part/." "$work/$folder/"; done
        mount -t overlay -o "lowerdir=/usr/$folder,upperdir=$work/$folder,workdir=$work/$folder.work" kvpn-resolvconf "/usr/$folder"
    done
    if [ "$package" = resolvconf ]; then
        mkdir -p /run/resolvconf/interface
        ln -sfn ../run/resolvconf/resolv.conf /etc/resolv.conf
        resolvconf --enable-updates
    fi
    # From 3.17 on it fails where the file is not its own yet.
    { printf 'nameserver %s\n' "$@"; echo 'search corp.example'; } | resolvconf -a up1.dhcp 2>/run/resolvconf.log || resolvconf -u ||
        { cat /run/resolvconf.log >&2; fail "resolvconf does not work"; }
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
