//! The gateway's manifests, from the readable YAML in `k8s/manifests` with the chosen values put in.
//!
//! Values are set in the parsed objects, never pasted into text: no name or image can break out of its place.

use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

const ACCOUNT: &str = include_str!("../manifests/account.yaml");
const SERVICE: &str = include_str!("../manifests/service.yaml");
const GATEWAY: &str = include_str!("../manifests/gateway.yaml");
const GATEWAY_KERNEL: &str = include_str!("../manifests/gateway-kernel.yaml");

/// Label with kvpn's version, on every object and on the pod.
pub(crate) const VERSION_LABEL: &str = "app.kubernetes.io/version";
/// Label with the datapath that was asked for, on the StatefulSet and the pod.
pub(crate) const DATAPATH_LABEL: &str = "kvpn.dev/datapath";
/// Finds gateways, whoever installed them (kvpn, Helm, an admin).
pub(crate) const GATEWAY_SELECTOR: &str = "app.kubernetes.io/name=kvpn-gateway";
/// Finds what kvpn itself installed, and may change and remove.
pub(crate) const OURS_SELECTOR: &str =
    "app.kubernetes.io/name=kvpn-gateway,app.kubernetes.io/managed-by=kvpn";

/// How the gateway reaches the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum DatapathChoice {
    /// The unprivileged pod; the gateway uses the kernel only if it finds that it may.
    #[default]
    Auto,
    /// The unprivileged pod (Pod Security `restricted`), userspace TCP/IP.
    Userspace,
    /// uid 0, NET_ADMIN and /dev/net/tun: needs a namespace that allows Pod Security `privileged`.
    Kernel,
}

impl DatapathChoice {
    /// The word of the command line, the label and `KVPN_DATAPATH`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Userspace => "userspace",
            Self::Kernel => "kernel",
        }
    }

    /// The choice that a label names; anything else counts as `Auto`.
    pub(crate) fn from_label(label: &str) -> Self {
        [Self::Userspace, Self::Kernel]
            .into_iter()
            .find(|choice| choice.as_str() == label)
            .unwrap_or_default()
    }
}

/// How the gateway's UDP port is offered outside the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum UdpExposure {
    /// A port of every node.
    #[default]
    NodePort,
    /// An address of the cloud's load balancer.
    LoadBalancer,
    /// Not at all: only the `api` carrier.
    None,
}

/// What to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySpec {
    /// The namespace, which must exist.
    pub namespace: String,
    /// The gateway's image.
    pub image: String,
    /// `imagePullPolicy`; `IfNotPresent` when not given.
    pub pull_policy: Option<String>,
    /// Name of a Secret of the same namespace with registry credentials.
    pub pull_secret: Option<String>,
    /// Which pod template.
    pub datapath: DatapathChoice,
    /// How many gateways, at least 1; from 2 on they avoid each other's nodes.
    pub replicas: u8,
    /// How UDP 51820 is offered.
    pub udp: UdpExposure,
    /// kvpn's version, for the label.
    pub version: String,
    /// Whether the gateway's own Role and RoleBinding are wanted.
    pub rbac: bool,
    /// Ranges that the gateway's policy may reach beyond its defaults (`KVPN_ALLOW`), as CIDRs.
    pub allow: Vec<String>,
    /// Addresses of the cluster's nodes (`KVPN_NODE_ADDRESSES`), which the gateway refuses to reach; `install` fills it in when empty.
    pub node_addresses: Vec<IpAddr>,
    /// Where UDP may reach the gateway (`KVPN_UDP_ENDPOINTS`), which it tells clients; `install` fills it in when empty.
    pub udp_endpoints: Vec<SocketAddr>,
}

impl GatewaySpec {
    /// One unprivileged gateway with a UDP node port and its Role.
    pub fn new(namespace: &str, image: &str, version: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            image: image.to_owned(),
            pull_policy: None,
            pull_secret: None,
            datapath: DatapathChoice::default(),
            replicas: 1,
            udp: UdpExposure::default(),
            version: version.to_owned(),
            rbac: true,
            allow: Vec::new(),
            node_addresses: Vec::new(),
            udp_endpoints: Vec::new(),
        }
    }
}

/// The objects to apply, in the order to apply them.
pub fn manifest(spec: &GatewaySpec) -> Vec<Value> {
    let account = documents(ACCOUNT)
        .into_iter()
        .filter(|object| spec.rbac || object["kind"] == "ServiceAccount");
    let mut objects: Vec<Value> = account.collect();
    objects.push(service(spec));
    objects.push(stateful_set(spec));
    for object in &mut objects {
        place(object, &spec.namespace);
        object["metadata"]["labels"][VERSION_LABEL] = spec.version.clone().into();
    }
    objects
}

/// Objects as one YAML stream, for `kubectl apply -f -`.
pub fn to_yaml(objects: &[Value]) -> String {
    let texts = objects
        .iter()
        .map(|object| serde_saphyr::to_string(object).expect("JSON values have a YAML form"));
    texts.collect::<Vec<_>>().join("---\n")
}

/// The objects of one of our YAML files.
pub(crate) fn documents(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).expect("a test parses every one of our files")
}

/// Puts an object, and the subjects it names, into a namespace.
pub(crate) fn place(object: &mut Value, namespace: &str) {
    object["metadata"]["namespace"] = namespace.into();
    for subject in object
        .get_mut("subjects")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        subject["namespace"] = namespace.into();
    }
}

fn service(spec: &GatewaySpec) -> Value {
    let mut service = only(documents(SERVICE));
    let target = &mut service["spec"];
    match spec.udp {
        UdpExposure::NodePort => target["type"] = "NodePort".into(),
        UdpExposure::LoadBalancer => target["type"] = "LoadBalancer".into(),
        UdpExposure::None => {
            target["type"] = "ClusterIP".into();
            target["clusterIP"] = "None".into();
        }
    }
    if spec.replicas > 1 && spec.udp != UdpExposure::None {
        // A session lives in one gateway: its node's port must not lead to another's.
        target["externalTrafficPolicy"] = "Local".into();
    }
    service
}

fn stateful_set(spec: &GatewaySpec) -> Value {
    let template = match spec.datapath {
        DatapathChoice::Auto | DatapathChoice::Userspace => GATEWAY,
        DatapathChoice::Kernel => GATEWAY_KERNEL,
    };
    let mut set = only(documents(template));
    let datapath = Value::from(spec.datapath.as_str());
    set["metadata"]["labels"][DATAPATH_LABEL] = datapath.clone();
    set["spec"]["replicas"] = spec.replicas.max(1).into();
    let pod = &mut set["spec"]["template"];
    pod["metadata"]["labels"][DATAPATH_LABEL] = datapath;
    pod["metadata"]["labels"][VERSION_LABEL] = spec.version.clone().into();
    if let Some(secret) = &spec.pull_secret {
        pod["spec"]["imagePullSecrets"] = json!([{ "name": secret }]);
    }
    fill_container(&mut pod["spec"]["containers"][0], spec);
    set
}

fn fill_container(container: &mut Value, spec: &GatewaySpec) {
    container["image"] = spec.image.clone().into();
    if let Some(policy) = &spec.pull_policy {
        container["imagePullPolicy"] = policy.clone().into();
    }
    let env = container["env"]
        .as_array_mut()
        .expect("the template has an env list");
    for variable in env
        .iter_mut()
        .filter(|variable| variable["name"] == "KVPN_DATAPATH")
    {
        variable["value"] = spec.datapath.as_str().into();
    }
    let lists = [
        ("KVPN_ALLOW", spec.allow.join(",")),
        ("KVPN_NODE_ADDRESSES", joined(&spec.node_addresses)),
        ("KVPN_UDP_ENDPOINTS", joined(&spec.udp_endpoints)),
    ];
    let given = lists.into_iter().filter(|(_, list)| !list.is_empty());
    env.extend(given.map(|(name, list)| json!({ "name": name, "value": list })));
}

fn joined<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn only(documents: Vec<Value>) -> Value {
    documents
        .into_iter()
        .next()
        .expect("a test counts the documents of every one of our files")
}

#[cfg(test)]
mod tests;
