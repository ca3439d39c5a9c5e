#!/bin/bash
# root.sh: prints the folder of a small Debian that holds the real parts the tests run (systemd-resolved,
# D-Bus, polkit, dnsmasq, dig, nss-resolve, NetworkManager). Built once, kept in the user's cache, keyed by this file's content.
# Must not change anything of the machine: debootstrap is unpacked from its package, not installed.
set -euo pipefail
suite=bookworm
packages=systemd,systemd-resolved,kmod,dbus,libnss-resolve,polkitd,libpam-systemd,iproute2,dnsmasq-base,bind9-dnsutils,musl,procps

# A later Debian, for its openresolv: since 3.13 that keeps its records elsewhere, since 3.17 it leaves others' files alone.
newer=forky
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

key=$(cat "${BASH_SOURCE[0]}" "$here/lookup.c" | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvpn-osparts
root=$cache/$key
say() { echo "osparts: $*" >&2; }

[ "$(id -u)" = 0 ] || { say "needs root (debootstrap and the namespaces do)"; exit 1; }
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ -f "$root/.complete" ]; then echo "$root"; exit 0; fi

work=$cache/$key.new
rm -rf --one-file-system "$work"
mkdir -p "$work/get" "$work/debootstrap"

# The machine's own mirror, so that no host name stands in this file.
command -v apt-get >/dev/null || { say "needs a Debian-like machine: apt-get is missing"; exit 1; }
# shellcheck disable=SC2016  # apt-get expands it
mirror=$(apt-get indextargets --format '$(REPO_URI)' "Release: $suite" | head -n1)
if [ -z "$mirror" ]; then
    mirror=${KVPN_DEBIAN_MIRROR:-}
    [ -n "$mirror" ] || { say "this machine has no source for Debian $suite: set KVPN_DEBIAN_MIRROR"; exit 1; }
fi

say "building Debian $suite in $root (about 1 min, once)"
bootstrap=$(command -v debootstrap || :)
if [ -z "$bootstrap" ]; then
    (cd "$work/get" && { apt-get -qq download debootstrap || { apt-get -qq update && apt-get -qq download debootstrap; }; } >"$work/log" 2>&1) ||
        { say "cannot fetch the package debootstrap: see $work/log"; exit 1; }
    dpkg-deb -x "$work"/get/debootstrap_*.deb "$work/debootstrap"
    bootstrap=$work/debootstrap/usr/sbin/debootstrap
    export DEBOOTSTRAP_DIR=$work/debootstrap/usr/share/debootstrap
fi
"$bootstrap" --variant=minbase --include="$packages,network-manager" "$suite" "$work/root" "$mirror" >"$work/log" 2>&1 9>&- ||
    { say "debootstrap failed, the end of $work/log:"; tail -n 20 "$work/log" >&2; exit 1; }

rm -rf "$work"/root/var/cache/apt/*.bin "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/* \
    "$work"/root/usr/share/doc "$work"/root/usr/share/man "$work"/root/usr/share/locale
# Two packages that cannot be installed beside systemd-resolved, unpacked: box.sh lays one of them over the machine's programs.
for package in openresolv resolvconf; do
    (cd "$work/get" && apt-get -qq download "$package") >>"$work/log" 2>&1 9>&- || { say "cannot fetch $package: see $work/log"; exit 1; }
    dpkg-deb -x "$work/get/$package"_*.deb "$work/root/opt/$package"
done
# The same of the later Debian, whose packages this machine's apt need not know.
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $newer main" >"$work/sources"
mkdir -p "$work/lists/partial" "$work/newer"
of_newer=(-o "Dir::Etc::SourceList=$work/sources" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/lists" -o Dir::Cache::pkgcache=
    -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none)
if (cd "$work/newer" && apt-get -qq "${of_newer[@]}" update && apt-get -qq "${of_newer[@]}" download openresolv) >>"$work/log" 2>&1 9>&-; then
    dpkg-deb -x "$work"/newer/openresolv_*.deb "$work/root/opt/openresolv-new"
else
    # Not every mirror has it, and its keys may have changed: the tests still run.
    tail -n 3 "$work/log" >&2
    say "cannot fetch $newer's openresolv: $suite's stands in for it"
    cp -a "$work/root/opt/openresolv" "$work/root/opt/openresolv-new"
fi
# Programs of Alpine's kind: musl's own resolver, in a program without libraries.
(cd "$work/get" && apt-get -qq download musl-dev) >>"$work/log" 2>&1 9>&- || { say "cannot fetch musl-dev: see $work/log"; exit 1; }
dpkg-deb -x "$work"/get/musl-dev_*.deb "$work/musl"
library=$(dirname "$(find "$work/musl" -name libc.a)")
cc -O1 -static -nostdinc -nostdlib -isystem "$work/musl/usr/include/${library##*/}" -o "$work/root/usr/local/bin/musl-lookup" "$library/crt1.o" \
    "$here/lookup.c" "$library/libc.a" "$(cc -print-libgcc-file-name)" >>"$work/log" 2>&1 || { say "lookup.c does not compile: see $work/log"; exit 1; }
touch "$work/root/.complete"
rm -rf --one-file-system "$root"
mv "$work/root" "$root"
rm -rf --one-file-system "$work"
say "built: $(du -sh "$root" | cut -f1)"
echo "$root"
