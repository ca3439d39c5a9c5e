#!/bin/bash
# check.sh: `make cross-check`. Type-checks the client and all below it, and the gateway's core, for Windows and macOS.
# ring, below boringtun, compiles C even for a check: MinGW does for Windows, zig (from PyPI) for macOS.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/tests/cross
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvpn-cross
packages=(kvpn-wire kvpn-netstack kvpn-client-core kvpn-gateway-core kvpn-k8s kvpn-client)

if ! command -v x86_64-w64-mingw32-gcc >/dev/null; then
  [ "$(id -u)" = 0 ] || { echo "missing: apt-get install gcc-mingw-w64-x86-64" >&2; exit 1; }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc-mingw-w64-x86-64-win32 mingw-w64-x86-64-dev >/dev/null
fi
if [ ! -e "$cache/zig/complete" ]; then
  mkdir -p "$cache"
  python3 -m venv "$cache/zig"
  "$cache/zig/bin/pip" install --quiet ziglang
  touch "$cache/zig/complete"
fi
rustup target add x86_64-pc-windows-gnu x86_64-apple-darwin

export KVPN_ZIG=$cache/zig/bin/python ZIG_GLOBAL_CACHE_DIR=$cache/zig-cache
export CC_x86_64_apple_darwin=$here/zigcc AR_x86_64_apple_darwin=$here/zigar
export SDKROOT=/nonexistent MACOSX_DEPLOYMENT_TARGET=11.0   # else cc asks xcrun for them
for target in x86_64-pc-windows-gnu x86_64-apple-darwin; do
  cargo check --locked --target "$target" "${packages[@]/#/-p=}"
  echo "$target: ${packages[*]} type-check"
done
