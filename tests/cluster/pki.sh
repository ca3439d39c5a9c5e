# shellcheck shell=bash
# Sourced by up.sh: a throw-away CA, certificates and kubeconfigs under $STATE/pki, and the kubeconfigs
# of users with few rights under $STATE/users (manifests/users.yaml gives them those).
P=$STATE/pki
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1" 2>/dev/null; }
# cert NAME SUBJECT EXTENDED-KEY-USAGE [SUBJECT-ALT-NAMES]
cert() {
  key "$P/$1.key"
  openssl req -new -key "$P/$1.key" -subj "$2" |
    openssl x509 -req -days 365 -CA "$P/ca.crt" -CAkey "$P/ca.key" -CAcreateserial -out "$P/$1.crt" \
      -extfile <(echo "extendedKeyUsage=$3"; [ -z "${4:-}" ] || echo "subjectAltName=$4") 2>/dev/null
}
# kubeconfig FILE NAMESPACE CREDENTIAL: CREDENTIAL is what stands under `user:`, as flow YAML.
kubeconfig() {
  cat >"$1" <<Y
apiVersion: v1
kind: Config
current-context: kvpn
clusters: [{name: kvpn, cluster: {server: "$API", certificate-authority-data: $(base64 -w0 "$P/ca.crt")}}]
contexts: [{name: kvpn, context: {cluster: kvpn, user: user, namespace: $2}}]
users: [{name: user, user: $3}]
Y
  chmod 600 "$1"
}
certificate_of() { echo "{client-certificate-data: $(base64 -w0 "$P/$1.crt"), client-key-data: $(base64 -w0 "$P/$1.key")}"; }
# json_string FILE: its text as a JSON string's inside.
json_string() { awk '{printf "%s\\n", $0}' "$1"; }
# exec_plugin NAME: a credential plugin that hands out NAME's certificate, as cloud logins do tokens.
exec_plugin() {
  cat >"$P/$1-plugin.sh" <<S
#!/bin/sh
cat <<'J'
{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"clientCertificateData":"$(json_string "$P/$1.crt")","clientKeyData":"$(json_string "$P/$1.key")"}}
J
S
  chmod 700 "$P/$1-plugin.sh"
  echo "{exec: {apiVersion: client.authentication.k8s.io/v1, command: \"$P/$1-plugin.sh\", interactiveMode: IfAvailable}}"
}
make_users() {
  local u
  mkdir -p "$STATE/users"
  for u in ns-admin ns-edit nobody; do
    cert "$u" "/CN=$u" clientAuth
    kubeconfig "$STATE/users/$u" restricted "$(certificate_of "$u")"
  done
  kubeconfig "$STATE/users/exec-plugin" default "$(exec_plugin admin)"
  kubeconfig "$STATE/users/hanging-plugin" default '{exec: {apiVersion: client.authentication.k8s.io/v1, command: sleep, args: ["600"], interactiveMode: Never}}'
  kubeconfig "$STATE/users/expired-token" default '{token: expired}'
}
make_pki() {
  local n c names
  mkdir -p "$P"
  chmod 700 "$P"
  key "$P/ca.key"
  key "$P/sa.key"
  openssl req -x509 -new -key "$P/ca.key" -days 365 -subj /CN=kvpn-test-ca -out "$P/ca.crt"
  openssl ec -in "$P/sa.key" -pubout -out "$P/sa.pub" 2>/dev/null
  names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost
  cert apiserver /CN=kube-apiserver serverAuth "$names,IP:127.0.0.1,IP:$KUBERNETES_SVC_IP,IP:$(node_ip 1),IP:$(node_ip6 1)"
  cert apiserver-kubelet /O=system:masters/CN=apiserver-kubelet clientAuth
  cert admin /O=system:masters/CN=admin clientAuth
  cert kcm /CN=system:kube-controller-manager clientAuth
  cert scheduler /CN=system:kube-scheduler clientAuth
  cert proxy /CN=system:kube-proxy clientAuth
  for n in $(seq "$NODES"); do
    c=$(node_name "$n")
    cert "$c" "/O=system:nodes/CN=system:node:$c" clientAuth,serverAuth "DNS:$c,IP:$(node_ip "$n")"
    kubeconfig "$P/$c.kubeconfig" default "$(certificate_of "$c")"
  done
  for c in admin kcm scheduler proxy; do kubeconfig "$P/$c.kubeconfig" default "$(certificate_of $c)"; done
  make_users
}
