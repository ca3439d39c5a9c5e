#!/bin/bash
# tools.sh: what the benches compare with, pinned, into ~/.cache/kvpn-tools: wireguard-go from Go modules, boringtun-cli and
# gotatun-cli from crates.io; wg, iperf3 and ethtool from Debian. Does nothing when all is there.
set -euo pipefail
TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/kvpn-tools
WIREGUARD_GO=v0.0.0-20260522210424-ecfc5a8d5446
BORINGTUN=0.7.1
GOTATUN=0.10.2
mkdir -p "$TOOLS"

missing=$(for p in ethtool iperf3 iproute2 iputils-ping wireguard-tools; do dpkg -s $p >/dev/null 2>&1 || echo $p; done)
if [ -n "$missing" ]; then
  apt-get update -qq
  # shellcheck disable=SC2086  # a list of words
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
# is_there NAME VERSION: whether the program of this version was installed.
is_there() { [ "$(cat "$TOOLS/$1.version" 2>/dev/null)" = "$2" ]; }
if ! is_there wireguard-go $WIREGUARD_GO; then
  echo "installing wireguard-go (once)" >&2
  GOBIN=$TOOLS/go/bin nice go install golang.zx2c4.com/wireguard@$WIREGUARD_GO
  echo $WIREGUARD_GO >"$TOOLS/wireguard-go.version"
fi
for tool in boringtun-cli:$BORINGTUN gotatun-cli:$GOTATUN; do
  name=${tool%:*} version=${tool#*:}
  is_there "$name" "$version" && continue
  echo "installing $name (once)" >&2
  nice cargo install --quiet --locked --force --root "$TOOLS" --target-dir "$TOOLS/build-bench" "$name@$version"
  rm -rf "$TOOLS/build-bench"
  echo "$version" >"$TOOLS/$name.version"
done
