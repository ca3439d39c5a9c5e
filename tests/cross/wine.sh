#!/bin/bash
# wine.sh: `make cross-wine`. Links kvpn.exe with MinGW and runs under wine what needs no driver: help, completion, the gateway's
# manifest, and what it says of commands that Windows has not. Its folder for wine is in the user's cache.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvpn-cross
wine=/usr/lib/wine/wine64
fail() { echo "wine.sh: $*" >&2; exit 1; }
for tool in x86_64-w64-mingw32-gcc $wine; do
  command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install wine64 gcc-mingw-w64-x86-64-win32 mingw-w64-x86-64-dev"
done

rustup -q target add x86_64-pc-windows-gnu
# Small rather than quick: it only says a few words.
CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc cargo build --locked --target x86_64-pc-windows-gnu -p kvpn-client \
  --config profile.dev.opt-level=0 --config 'profile.dev.package."*".opt-level=0' --config profile.dev.debug=false
program=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)/x86_64-pc-windows-gnu/debug/kvpn.exe

export WINEPREFIX=$cache/wine WINEDEBUG=-all DISPLAY=''
mkdir -p "$WINEPREFIX"
system=$WINEPREFIX/drive_c/windows/system32
if [ ! -d "$system" ]; then
  WINEDLLOVERRIDES='mscoree,mshtml=' $wine wineboot -i >/dev/null 2>&1
  /usr/lib/wine/wineserver64 -w
fi
[ -e "$system/bcryptprimitives.dll" ] ||
  x86_64-w64-mingw32-gcc -Os -shared -o "$system/bcryptprimitives.dll" tests/cross/bcryptprimitives.c -ladvapi32

# run CODE TEXT ARGUMENTS...: kvpn.exe has to end with this code and to say this.
run() {
  local code=0 said
  said=$($wine "$program" "${@:3}" 2>&1) || code=$?
  [ "$code" = "$1" ] || fail "kvpn.exe ${*:3}: exit code $code, not $1: $said"
  [[ $said == *"$2"* ]] || fail "kvpn.exe ${*:3} does not say \`$2\`: $said"
  echo "kvpn.exe ${*:3}: exit code $code, says: $2"
}
run 0 "Usage: kvpn.exe" --help
run 0 "kvpn $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)" --version
run 0 "complete -F _kvpn" completion bash
run 0 "kind: StatefulSet" -n demo gateway manifest
run 3 "not connected" status
run 1 "the kubeconfig cannot be used" connect
run 1 "not there for Windows" run -- cmd
run 2 "there is no command" conect
