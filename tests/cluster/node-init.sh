#!/bin/bash
# PID 1 of node $1, started by up.sh inside the node's own network, mount, PID, UTS and IPC
# namespaces. When it dies the kernel kills everything in the PID namespace (pods included)
# and drops every mount, so nothing can be left behind.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
N=$1 NAME=$(node_name "$1") IP=$(node_ip "$1") D=$STATE/$(node_name "$1") P=$STATE/pki
SERVICE_RANGES=$SERVICE_RANGE POD_RANGES=$POD_RANGE
RANGES="[{\"subnet\": \"$(pod_cidr "$N")\"}]" ROUTES='{"dst": "0.0.0.0/0"}'
if dual; then
  SERVICE_RANGES=$SERVICE_RANGE,$SERVICE_RANGE6 POD_RANGES=$POD_RANGE,$POD_RANGE6
  RANGES="$RANGES, [{\"subnet\": \"$(pod_cidr6 "$N")\"}]" ROUTES="$ROUTES, {\"dst\": \"::/0\"}"
fi
hostname "$NAME"

# Mounts of our own that never travel out; shared among themselves, as kubelet wants.
mount --make-rprivate / && mount --make-rshared /
mount --bind "$D/run" /run
mount --bind "$D/log" /var/log
mount --bind "$D/varlib" /var/lib

# kubelet wants some machine-wide sysctls. It is shown files that already hold the values,
# so the machine's real ones are neither read nor changed.
mkdir -p "$D/sysctl"
for s in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
         kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  f=$D/sysctl/$(tr / . <<<"${s%=*}"); echo "${s#*=}" >"$f"
  mount --bind "$f" "/proc/sys/${s%=*}"
done

start() { local n=$1; shift; "$@" >>"$D/log/$n.log" 2>&1 & echo "$n pid $! (in the node's PID namespace)"; }

cat >"$D/containerd.toml" <<T
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "kvpn.test/pause:1"
  restrict_oom_score_adj = true   # without CAP_SYS_RESOURCE no process may lower its score
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$DEB/usr/lib/cni"
    conf_dir = "$D/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "$DEB/usr/sbin/runc"
T
# ptp, not bridge: every pod hangs on a routed veth pair, so bridge-nf-call-iptables and
# iptables do not come into it.
mkdir -p "$D/cni"
cat >"$D/cni/10-kvpn.conflist" <<C
{"cniVersion": "0.4.0", "name": "kvpn", "plugins": [
  {"type": "ptp", "mtu": 1500, "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [$RANGES],
            "routes": [$ROUTES]}}]}
C
# What leaves the cluster bears the node's address, as with every CNI: kvpn-net knows no way to a pod.
leaving() { # FAMILY OWN-PODS NOT-TO
  nft -f - <<T
table $1 kvpn-leaving {
  chain out {
    type nat hook postrouting priority srcnat
    oifname eth0 $1 saddr $2 $1 daddr != { $3 } masquerade
  }
}
T
}
leaving ip "$(pod_cidr "$N")" "$POD_RANGE, $NODE_RANGE"
! dual || leaving ip6 "$(pod_cidr6 "$N")" "$POD_RANGE6, $NODE_RANGE6"
start containerd containerd --config "$D/containerd.toml"

if [ "$N" = 1 ]; then
  start etcd etcd --name kvpn --data-dir /var/lib/etcd --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster kvpn=http://127.0.0.1:2380
  start kube-apiserver kube-apiserver --bind-address=0.0.0.0 --advertise-address="$IP" --secure-port=6443 \
    --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range="$SERVICE_RANGES" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --client-ca-file="$P/ca.crt" --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" \
    --kubelet-certificate-authority="$P/ca.crt" --kubelet-client-certificate="$P/apiserver-kubelet.crt" \
    --kubelet-client-key="$P/apiserver-kubelet.key" --kubelet-preferred-address-types=InternalIP \
    --requestheader-client-ca-file="$P/ca.crt" --requestheader-allowed-names=front-proxy \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key"
  wait_for 60 "the API server" kubectl --kubeconfig="$P/admin.kubeconfig" get --raw /readyz
  start kube-controller-manager kube-controller-manager --kubeconfig="$P/kcm.kubeconfig" \
    --authentication-kubeconfig="$P/kcm.kubeconfig" --authorization-kubeconfig="$P/kcm.kubeconfig" \
    --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true \
    --service-account-private-key-file="$P/sa.key" --root-ca-file="$P/ca.crt" \
    --cluster-signing-cert-file="$P/ca.crt" --cluster-signing-key-file="$P/ca.key" \
    --cluster-cidr="$POD_RANGES" --allocate-node-cidrs=false --kube-api-qps=300 --kube-api-burst=600
  start kube-scheduler kube-scheduler --kubeconfig="$P/scheduler.kubeconfig" \
    --authentication-kubeconfig="$P/scheduler.kubeconfig" --authorization-kubeconfig="$P/scheduler.kubeconfig" \
    --bind-address=127.0.0.1 --leader-elect=false
else
  wait_for 60 "the API server" kubectl --kubeconfig="$P/admin.kubeconfig" get --raw /readyz
fi

wait_for 30 containerd ctr version
for i in "$IMAGES"/*.tar; do ctr -n k8s.io images import "$i" >>"$D/log/images.log" 2>&1; done

echo "nameserver $PUBLIC_DNS" >"$D/resolv.conf"
cat >"$D/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$P/ca.crt"}}
authorization: {mode: Webhook}
tlsCertFile: $P/$NAME.crt
tlsPrivateKeyFile: $P/$NAME.key
address: 0.0.0.0
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$NAME
cgroupsPerQOS: true
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
protectKernelDefaults: true
clusterDNS: [$DNS_IP]
clusterDomain: cluster.local
resolvConf: $D/resolv.conf
volumePluginDir: /var/lib/kubelet/plugins-exec
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%", nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%", imagefs.inodesFree: "0%"}
maxPods: 100
nodeStatusUpdateFrequency: 4s
registerNode: true
Y
start kubelet kubelet --config="$D/kubelet.yaml" --kubeconfig="$P/$NAME.kubeconfig" \
  --hostname-override="$NAME" --node-ip="$IP$(! dual || echo ",$(node_ip6 "$N")")"

cat >"$D/kube-proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: "$P/proxy.kubeconfig"}
clusterCIDR: $POD_RANGES
hostnameOverride: $NAME
nodePortAddresses: [primary]
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {syncPeriod: 30s, minSyncPeriod: 0s}
Y
start kube-proxy kube-proxy --config="$D/kube-proxy.yaml"

touch "$D/started"
while :; do wait -n || true; sleep 0.2; done   # reaps orphans; ends with the namespace
