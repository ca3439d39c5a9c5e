#!/bin/bash
# build.sh [-q] OUT KVPN [STATIC_KVPN]: everything that a release is made of, into the folder OUT, from a kvpn that was built: .deb, .rpm,
# an archive with krew's manifest, the source with Homebrew's formula, the gateway's chart, the SBOM, checksums; and the
# client's image, if there is a static kvpn. -q packs quickly instead of small. Dates are those of the last commit, so that equal inputs give equal files.
set -euo pipefail
deb=() rpm=()
if [ "${1:-}" = -q ]; then
  deb=(--fast) rpm=(--payload-compress gzip)
  shift
fi
[ $# = 2 ] || [ $# = 3 ] || { sed -n 's/^# \(build.sh.*\)/usage: \1/p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(realpath "$1") kvpn=$(realpath "$2") static=${3:+$(realpath "$3")}
cd "$(dirname "$0")/../.."
here=client/package
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
repository=$(sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
arch=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
# Where client/Cargo.toml finds what goes into .deb and .rpm.
root=target/package

file() { install -D -m "${3:-644}" "$1" "$root/$2"; }
archive() { tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner "$@" | gzip -n9; }
sum() { sha256sum "$1" | cut -d' ' -f1; }
fill() {
  sed -e "s|@VERSION@|$version|g" -e "s|@REPOSITORY@|$repository|g" -e "s|@ARCH@|$arch|g" -e "s|@SOURCE@|$source|g" \
    -e "s|@SOURCE_SHA256@|$(sum "$out/$source")|g" -e "s|@ARCHIVE@|$plugin|g" -e "s|@ARCHIVE_SHA256@|$(sum "$out/$plugin")|g" "$1"
}

rm -rf "$root"
file "$kvpn" kvpn 755
strip "$root/kvpn"
mkdir -p "$root/man"
"$kvpn" man --directory "$root/man"
gzip -n9 "$root"/man/*
"$kvpn" completion bash >"$root/kvpn.bash"
"$kvpn" completion zsh >"$root/_kvpn"
"$kvpn" completion fish >"$root/kvpn.fish"
sed '1s|.*|# Comes with the package.|; s|@PROGRAM@|/usr/bin/kvpn|' client/service/kvpn-helper.service >"$root/kvpn-helper.service"

cargo deb --quiet "${deb[@]}" --no-build --no-strip -p kvpn-client --output "$out/"
cargo generate-rpm -p client --auto-req builtin "${rpm[@]}" --output "$out/"

plugin=kvpn-$version-linux-$arch.tar.gz source=kvpn-$version.tar.gz
archive -C "$root" -c kvpn -C "$PWD" LICENSE README.md >"$out/$plugin"
git archive --prefix="kvpn-$version/" HEAD | gzip -n9 >"$out/$source"
fill $here/krew.yaml.in >"$out/kvpn.yaml"
fill $here/kvpn.rb.in >"$out/kvpn.rb"
archive -h -C k8s --exclude='manifests/rbac-*' --transform='s,^chart,kvpn-gateway,' -c chart >"$out/kvpn-gateway-chart-$version.tgz"
if [ -n "$static" ]; then
  rm -rf "$root/image"
  file "$static" image/bin/kvpn 755
  gateway/image.sh -o "$out/kvpn-client-image-$version-$arch.tar" -r "docker.io/kvpn/client:$version" -e /bin/kvpn "$root/image"
fi
cargo sbom --cargo-package kvpn-client --output-format spdx_json_2_3 >"$out/kvpn-$version.spdx.json"
sums=$(cd "$out" && rm -f SHA256SUMS && sha256sum -- *)
echo "$sums" | tee "$out/SHA256SUMS"
