#!/bin/bash
# demo.sh: `make demo`. Shows on a real Kubernetes what `kvpn connect` and `kvpn expose` do, each claim with its proof, and
# takes everything away again, also after a failure or Ctrl-C. The Kubernetes is the test cluster, or, with
# KUBECONFIG set, yours: then the gateway's image is KVPN_GATEWAY_IMAGE or is loaded into kind or k3d.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
ROOT=$(cd "$HERE/../.." && pwd)
cd "$ROOT"
KVPN_BIN=${KVPN_BIN:-$ROOT/target/debug/kvpn} KVPN_IMAGE_TAR=${KVPN_IMAGE_TAR:-$ROOT/target/kvpn-gateway.tar}
LAPTOP=kvpn-laptop-demo
proofs=0 failures=0 connected='' exposed='' booted='' installed=''
ours() { [ -z "${KUBECONFIG:-}" ] || [ "$KUBECONFIG" = "$STATE/kubeconfig" ]; }

# shellcheck disable=SC2317  # the traps call it
clean_up() {
  local status=$?
  trap - EXIT INT TERM
  [ -z "$exposed" ] || on_laptop kvpn unexpose --all >/dev/null 2>&1 || true
  [ -z "$connected" ] || on_laptop kvpn disconnect >/dev/null 2>&1 || true
  [ -z "$installed" ] || on_laptop kvpn gateway uninstall >/dev/null 2>&1 || true
  if ours; then
    "$HERE/laptop.sh" stop "$LAPTOP" >/dev/null 2>&1 || true
    [ -z "$booted" ] || "$HERE/down.sh"
  fi
  if [ "$status" != 0 ]; then say "the demo ended early; everything it made is gone again"; fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# The laptop is one of the test cluster's, or with your own cluster this machine.
on_laptop() {
  if ours; then "$HERE/laptop.sh" exec "$LAPTOP" "$@"
  elif [ "$1" = kvpn ]; then shift; "$KVPN_BIN" "$@"
  else "$@"; fi
}
# prove CLAIM PATTERN COMMAND...: runs the command on the laptop; its output must match.
prove() {
  local claim=$1 pattern=$2 output
  shift 2
  output=$(on_laptop "$@" 2>&1) || true
  proofs=$((proofs + 1))
  if grep -qE -- "$pattern" <<<"$output"; then
    printf 'ok    %-46s %s\n' "$claim" "$(grep -E -m 1 -- "$pattern" <<<"$output" | cut -c1-110)"
  else
    failures=$((failures + 1))
    printf 'FAIL  %-46s %s\n' "$claim" "$output"
  fi
}

install_packages() {
  local p missing=''
  for p in iproute2 curl openssl gcc iputils-ping procps; do dpkg -s "$p" >/dev/null 2>&1 || missing+=" $p"; done
  [ -n "$missing" ] || return 0
  say "installing$missing"
  apt-get update -qq >/dev/null
  # shellcheck disable=SC2086  # a list of words
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}
start_test_cluster() {
  if [ "$(id -u)" != 0 ]; then
    say "the test cluster needs root: sudo env PATH=\"\$PATH\" HOME=\"\$HOME\" make demo"
    say "with a cluster of your own (KUBECONFIG) it does not"
    exit 1
  fi
  "$HERE/build.sh"
  [ -e "$STATE/nodes" ] || { booted=yes; "$HERE/up.sh" >/dev/null; }
  "$HERE/import-image.sh" "$KVPN_IMAGE_TAR" >/dev/null
  "$HERE/k" rollout status deploy/echo --timeout=120s >/dev/null
  "$HERE/laptop.sh" stop "$LAPTOP"
  "$HERE/laptop.sh" start "$LAPTOP" plain own "$KVPN_BIN"
}
load_image() {
  local context
  [ -z "${KVPN_GATEWAY_IMAGE:-}" ] || return 0
  context=$(kubectl config current-context)
  case $context in
    kind-*) kind load image-archive "$KVPN_IMAGE_TAR" --name "${context#kind-}" ;;
    k3d-*) k3d image import "$KVPN_IMAGE_TAR" -c "${context#k3d-}" ;;
    *) say "push $KVPN_IMAGE_TAR to a registry that $context pulls from, and set KVPN_GATEWAY_IMAGE to its name"; exit 1 ;;
  esac
}
traces() { on_laptop bash -c 'ip route; ip -6 route; ip -o link | cut -d: -f2; cat /etc/resolv.conf'; }

[ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || install_packages
mkdir -p target
step target/demo-client.log "building the client" make build
step target/demo-image.log "building the gateway's image" make image
if ours; then unset KUBECONFIG; start_test_cluster; else load_image; fi
before=$(traces)
if ours; then
  service=$("$HERE/k" get service echo -o jsonpath='{.spec.clusterIP}')
  pod=$("$HERE/k" get pods -l app=echo -o jsonpath='{.items[0].status.podIP}')
  service6=$("$HERE/k" get service echo -o jsonpath='{.spec.clusterIPs[1]}')
  prove "before: the Service cannot be reached" 'unreachable|Couldn.t connect' curl -sS -m 3 "http://$service/"
fi
# On the test cluster the gateway is always the one that was just built.
if ours; then on_laptop kvpn gateway uninstall >/dev/null 2>&1 || true; fi
on_laptop kvpn gateway status >/dev/null 2>&1 || installed=yes
say "kvpn connect"
connected=yes
on_laptop kvpn -q connect
if ours; then
  prove "a Service by its short name" '^host=echo-' curl -sS -m 5 http://echo/
  prove "a Service of another namespace" '^host=echo-' curl -sS -m 5 http://echo.other/
  prove "its full name, over IPv6" '^host=echo-.*client=\[' curl -6 -sS -m 5 http://echo.default.svc.cluster.local/
  prove "a Service's address" '^host=echo-' curl -sS -m 5 "http://$service/"
  prove "a Service's IPv6 address" '^host=echo-' curl -sS -m 5 -g "http://[$service6]/"
  prove "a pod's address" "^host=echo-.*pod_ip=$pod" curl -sS -m 5 "http://$pod:8080/"
  prove "a pod answers ping" ' 0% packet loss' ping -c 1 -W 2 "$pod"
  prove "a StatefulSet's pod by name" '^host=db-0' curl -sS -m 5 http://db-0.db.default:8080/
  prove "a closed port is refused, not connected" 'refused|Couldn.t connect' curl -sS -m 5 "http://$pod:9999/"
  prove "a public name goes where it went" '^host=public-host' curl -sS -m 5 http://example.com/
  prove "the gateway pod has no privilege" '^65532$' kubectl get pod -A -l app.kubernetes.io/name=kvpn-gateway \
    -o 'jsonpath={.items[0].spec.securityContext.runAsUser}{.items[0].spec.containers[0].securityContext.runAsUser}'
else
  prove "the API server's Service by name" '^[0-9a-f]+[.:]' getent hosts kubernetes.default.svc.cluster.local
  prove "and through the tunnel" 'gitVersion|Unauthorized|Forbidden' curl -ksS -m 5 https://kubernetes.default.svc.cluster.local/version
fi
if ours; then
  say "kvpn expose"
  service_object() { "$HERE/k" get service echo -o jsonpath='{.spec}'; }
  spec=$(service_object)
  on_laptop bash -c "traffic serve -name laptop -http 127.0.0.1:8080 -grpc '' -lines '' >/dev/null 2>&1 &"
  exposed=yes
  on_laptop kvpn -q expose --detach 8080:80 as echo --match 'x-demo: yes'
  # kube-proxy takes changes once a second.
  prove "a request that matches comes to the laptop" '^X-Served-By: laptop' bash -c \
    'for _ in {1..50}; do curl -sSi -m 5 -H "x-demo: yes" http://echo/ | grep X-Served-By && break; sleep 0.1; done'
  prove "any other goes to the Service's own pods" '^host=echo-' curl -sS -m 5 http://echo/
  prove "who has it is known" 'echo .*x-demo: yes' kvpn list
  on_laptop kvpn -q unexpose echo
  exposed=''
  prove "afterwards the pods answer everything" '^host=echo-' curl -sS -m 5 -H 'x-demo: yes' http://echo/
  proofs=$((proofs + 1))
  if [ "$(service_object)" = "$spec" ]; then echo "ok    the Service is what it was"
  else failures=$((failures + 1)); echo "FAIL  the Service is not what it was: $(service_object)"; fi
fi
on_laptop kvpn status | grep -E '^ (state|gateway|carrier .*in use|interface|traffic)'
on_laptop kvpn disconnect
connected=''
proofs=$((proofs + 1))
if [ "$(traces)" = "$before" ]; then echo "ok    after disconnect: routes, links and resolv.conf are as before"
else failures=$((failures + 1)); echo "FAIL  after disconnect: something is left"; diff <(echo "$before") <(traces) || true; fi
echo "$((proofs - failures)) proofs, $failures failed, in $SECONDS s"
exit $((failures > 0))
