#!/bin/bash
# Builds the kit that the cluster runs from: programs, Debian packages (unpacked, not installed) and
# images. Sources are the Go module proxy (through go) and Debian (through apt-get), nothing else.
# The kit lies in the cache under a key of its inputs, so it is built once for all checkouts; it is
# moved there whole, so a broken build never looks like a kit, and a second build.sh waits for the first.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
kit=$CACHE/$(kit_key)
if [ -e "$kit/complete" ]; then touch "$kit"; say "the kit is built already: $kit"; exit 0; fi
command -v go >/dev/null || { say "go is missing: install Go 1.21 or newer (it fetches the exact version itself)"; exit 1; }
command -v gcc >/dev/null || { say "gcc is missing: apt-get install gcc"; exit 1; }
mkdir -p "$CACHE"
exec 9>"$CACHE/build.lock"
flock -n 9 || { say "another build.sh is at work; waiting for it"; flock 9; }
[ ! -e "$kit/complete" ] || { say "the other one has built the kit: $kit"; exit 0; }

work=$CACHE/building
rm -rf "$work"
mkdir -p "$work"/{bin,deb,laptop,images,log,debs}
use_kit "$work"
export GOFLAGS=${GOFLAGS:--buildvcs=false} CGO_ENABLED=0
# shellcheck disable=SC2317  # the trap calls it
cleanup() {
  local status=$?
  set +e
  [ $status != 0 ] || return
  mkdir -p "$CACHE/failed-log"
  cp "$work"/log/* "$CACHE/failed-log/" 2>/dev/null
  say "the build ended early; nothing of it is used; logs: $CACHE/failed-log"
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

make_part() { step "$work/log/$1.log" "$@"; }
# go_build FOLDER OUTPUT PACKAGE [LDFLAGS]
go_build() { (cd "$HERE/$1" && go build -v -trimpath -ldflags "-s -w ${4:-}" -o "$work/bin/$2" "$3"); }
# unpack FOLDER PACKAGE...
unpack() {
  local into=$1 f
  shift
  # Without `set -e` here: a caller that looks at the status switches it off.
  rm -f "$work"/debs/*
  (cd "$work/debs" && apt-get download "$@") || return 1
  for f in "$work"/debs/*.deb; do dpkg -x "$f" "$into" || return 1; done
}

say "building the test cluster's kit into $kit (about 5 minutes on 2 cores the first time, 15 s with Go's cache)"
apt-cache show containerd >/dev/null 2>&1 || make_part package-lists apt-get update
# Container runtime, CNI plugins and nft of the nodes; musl for a program with the other C library.
make_part node-packages unpack "$work/deb" containerd runc containernetworking-plugins nftables libnftables1 \
  libnftnl11 libmnl0 libxtables12 libjansson4 libedit2 libbsd0 libmd0 libgmp10 busybox-static musl-dev
# What a laptop with systemd-resolved has; laid over the machine's own root, only in the laptop.
make_part laptop-packages unpack "$work/laptop" systemd-resolved libnss-resolve libsystemd-shared \
  dbus-daemon dbus-system-bus-common libdbus-1-3 libapparmor1 libexpat1
# The machine's /lib and /bin are links into /usr; folders laid over them would hide all that is there.
for d in bin sbin lib; do
  [ ! -d "$work/laptop/$d" ] || { mkdir -p "$work/laptop/usr/$d"; cp -a "$work/laptop/$d/." "$work/laptop/usr/$d/"; rm -rf "${work:?}/laptop/$d"; }
done
# nft is not installed, so it is told where its libraries lie.
cat >"$work/bin/nft" <<'W'
#!/bin/sh
deb=$(dirname "$(dirname "$(readlink -f "$0")")")/deb
LD_LIBRARY_PATH=$(echo "$deb"/usr/lib/*-linux-gnu) exec "$deb/usr/sbin/nft" "$@"
W
chmod +x "$work/bin/nft"

# Kubernetes, etcd and kubectl: one program of many names, linked once. Unstamped it would call itself v0.0.0.
stamp=
for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamp+=" -X $p.gitVersion=v$KUBE_VERSION -X $p.gitMajor=${KUBE_VERSION%%.*}"
  stamp+=" -X $p.gitMinor=$(cut -d. -f2 <<<"$KUBE_VERSION") -X $p.gitTreeState=clean"
done
make_part kubernetes go_build kube kube-all . "$stamp"
for a in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet etcd kubectl; do
  ln -s kube-all "$work/bin/$a"
done
make_part coredns go_build coredns coredns .
for p in pause echo measure traffic; do make_part "$p" go_build programs "$p" "./$p"; done
musl=$(echo "$work"/deb/usr/lib/*-linux-musl)
make_part musl-lookup gcc -O1 -static -nostdinc -isystem "$(echo "$work"/deb/usr/include/*-linux-musl)" -nostartfiles -nodefaultlibs \
  -o "$work/bin/musl-lookup" "$musl/crt1.o" "$musl/crti.o" "$HERE/programs/lookup/lookup.c" "$musl/libc.a" -lgcc "$musl/crtn.o"

# Images. busybox makes `kubectl exec` and cp useful; its applets are links.
say "images ..."
image() { "$HERE/../../gateway/image.sh" -o "$work/images/$1.tar" -r "kvpn.test/$1:1" -e "$2" "$work/root/$1" >/dev/null; }
mkdir -p "$work"/root/{pause,coredns,echo/bin,echo/etc,echo/tmp}
cp "$work/bin/pause" "$work/root/pause/pause"
cp "$work/bin/coredns" "$work/root/coredns/coredns"
cp "$work/bin/echo" "$work/root/echo/bin/echo-server"
cp "$work/bin/traffic" "$work/bin/measure" "$work/root/echo/bin/"
cp "$work/deb/bin/busybox" "$work/root/echo/bin/busybox"
for a in $("$work/deb/bin/busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$work/root/echo/bin/$a"; done
echo 'root:x:0:0:root:/root:/bin/sh' >"$work/root/echo/etc/passwd"
image pause /pause
image coredns /coredns
image echo /bin/echo-server

rm -rf "$work/root" "$work/debs" "$kit"
touch "$work/complete"
mv "$work" "$kit"
# Kits of older checkouts go after two weeks without use; one in use by a running cluster stays.
find "$CACHE" -mindepth 1 -maxdepth 1 -type d -mtime +14 -name '????????????????' ! -path "$(cat "$STATE/kit" 2>/dev/null || true)" -exec rm -rf {} +
say "built: $kit ($(du -sh "$kit" | cut -f1)) in $((SECONDS / 60)) min $((SECONDS % 60)) s"
