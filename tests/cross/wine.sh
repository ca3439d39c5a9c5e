#!/bin/bash
# wine.sh: `make cross-wine`. Links kvpn.exe with MinGW and runs under wine what needs no driver: the client's unit tests (pipes, locks,
# processes, rules for names in the registry, sessions over loopback), then commands without a cluster and the processes behind them.
# Its folder for wine is in the user's cache.
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
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
small=(--config profile.dev.opt-level=0 --config 'profile.dev.package."*".opt-level=0' --config profile.dev.debug=false)
cargo build --locked --target x86_64-pc-windows-gnu -p kvpn-client "${small[@]}"
work=$(mktemp -d)
trap 'kill $deaf 2>/dev/null; rm -rf "$work"' EXIT
deaf=
program=$work/kvpn.exe
cp "$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)/x86_64-pc-windows-gnu/debug/kvpn.exe" "$program"

export WINEPREFIX=$cache/wine WINEDEBUG=-all DISPLAY=''
mkdir -p "$WINEPREFIX"
system=$WINEPREFIX/drive_c/windows/system32
if [ ! -d "$system" ]; then
  WINEDLLOVERRIDES='mscoree,mshtml=' $wine wineboot -i >/dev/null 2>&1
  /usr/lib/wine/wineserver64 -w
fi
[ -e "$system/bcryptprimitives.dll" ] ||
  x86_64-w64-mingw32-gcc -Os -shared -o "$system/bcryptprimitives.dll" tests/cross/bcryptprimitives.c -ladvapi32

CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=$wine cargo test --locked --target x86_64-pc-windows-gnu -p kvpn-client --lib \
  "${small[@]}" -- --test-threads=1 </dev/null

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
run 1 "\`kvpn run\` is not there for Windows" run -- cmd
run 1 "\`kvpn service\` is not there for Windows" service status
run 2 "there is no command" conect
run 2 "unexpected argument '--at-login'" connect --at-login

# Without a kubeconfig, and with one whose API server nobody is at.
run 3 "not connected" status
run 3 "not connected" disconnect
for command in connect list proxy "expose 8080 as web"; do
  # shellcheck disable=SC2086  # a command is several words
  run 1 "the kubeconfig cannot be used: there is none" $command
done

# kubeconfig SERVER: its path, as Windows has it.
kubeconfig() {
  echo "{apiVersion: v1, kind: Config, current-context: dead, contexts: [{name: dead, context: {cluster: dead, user: dead}}]," \
    "clusters: [{name: dead, cluster: {server: \"$1\"}}], users: [{name: dead, user: {token: x}}]}" >"$work/kubeconfig"
  echo "Z:${work//\//\\}\\kubeconfig"
}
KUBECONFIG=$(kubeconfig https://127.0.0.1:9)
export KUBECONFIG
for command in list restore proxy "expose 8080 as web" "expose 8080 as web --detach"; do
  # shellcheck disable=SC2086  # a command is several words
  run 5 "the API server https://127.0.0.1:9 cannot be reached" $command
done
run 3 "no process of yours exposes" unexpose web
run 1 "wintun.dll is not there" connect
run 1 "networks      skipped" doctor

# A session that never comes to be, since the API server accepts and says nothing: its agent, which has the helper within, can be
# asked and ended by others. The driver would only be looked for after that.
touch "$work/wintun.dll"
python3 -c 'import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
calls = []
while True: calls.append(server.accept())' >"$work/port" &
deaf=$!
until [ -s "$work/port" ]; do :; done
KUBECONFIG=$(kubeconfig "http://127.0.0.1:$(cat "$work/port")")
$wine "$program" connect </dev/null >"$work/said" 2>&1 &
connecting=$!
until $wine "$program" status 2>/dev/null | grep -q "connecting"; do
  kill -0 $connecting || fail "kvpn.exe connect ended: $(cat "$work/said")"
done
run 0 '"state": "connecting"' status -o json
run 0 "disconnected: dead.default" disconnect
code=0
wait $connecting || code=$?
[ $code = 1 ] || fail "kvpn.exe connect: exit code $code: $(cat "$work/said")"
run 3 "not connected" status
