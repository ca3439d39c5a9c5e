//! Where a gateway's UDP port may answer from outside the cluster: candidates, to be probed.

use super::{GatewayPod, addresses};
use crate::{Cluster, Error, GATEWAY_NAME, cluster::call::Call};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use kube::{Api, ResourceExt as _, api::ListParams};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::timeout;

/// More candidates only cost probes.
const MOST_CANDIDATES: usize = 8;
/// How many nodes are looked at; more would make the environment of the gateway long.
const MOST_NODES: u32 = 200;
/// How long a load balancer's name may take to resolve.
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// A node's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeAddresses {
    pub(crate) name: String,
    pub(crate) external: Vec<IpAddr>,
    pub(crate) internal: Vec<IpAddr>,
}

impl NodeAddresses {
    pub(crate) fn of(node: &Node) -> Self {
        let listed = node
            .status
            .iter()
            .flat_map(|status| status.addresses.iter().flatten());
        let of_type = |kind: &str| {
            let entries = listed.clone().filter(|entry| entry.type_ == kind);
            addresses(entries.map(|entry| entry.address.as_str()))
        };
        Self {
            name: node.name_any(),
            external: of_type("ExternalIP"),
            internal: of_type("InternalIP"),
        }
    }

    /// All of them, those from outside first.
    pub(crate) fn all(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.external.iter().chain(&self.internal).copied()
    }
}

/// Node addresses with the node port, the gateway's own node first, external addresses before internal ones.
pub(crate) fn udp_candidates(
    nodes: &[NodeAddresses],
    own: Option<&str>,
    port: u16,
) -> Vec<SocketAddr> {
    let (first, others): (Vec<_>, Vec<_>) = nodes
        .iter()
        .partition(|node| Some(node.name.as_str()) == own);
    let mut candidates: Vec<SocketAddr> = first
        .iter()
        .flat_map(|node| node.all())
        .map(|ip| SocketAddr::new(ip, port))
        .collect();
    let external = others.iter().flat_map(|node| &node.external);
    let internal = others.iter().flat_map(|node| &node.internal);
    candidates.extend(
        external
            .chain(internal)
            .map(|ip| SocketAddr::new(*ip, port)),
    );
    candidates.truncate(MOST_CANDIDATES);
    candidates
}

impl Cluster {
    /// Where the gateway's UDP port may be reached from outside, best first: LoadBalancer addresses, then node addresses with
    /// the Service's node port (the gateway's own node first). Empty when the Service is headless, or nothing is known.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Unauthorized`]; rights that are missing only make the list shorter.
    pub async fn udp_endpoints(&self, gateway: &GatewayPod) -> Result<Vec<SocketAddr>, Error> {
        let api = self.api::<Service>(&gateway.namespace).await?;
        let call = Call::namespaced("get", "services", &gateway.namespace).named(GATEWAY_NAME);
        let (service, mut nodes) = tokio::join!(
            self.run(&call, api.get_opt(GATEWAY_NAME)),
            self.known_nodes()
        );
        let service = match service {
            Ok(Some(service)) => service,
            Ok(None) | Err(Error::Forbidden { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if nodes.is_empty() {
            let name = gateway.node.clone().unwrap_or_default();
            nodes.push(NodeAddresses {
                name,
                internal: gateway.host_ips.clone(),
                external: Vec::new(),
            });
        }
        let mut endpoints = load_balancer(&service).await;
        if let Some(port) = node_port(&service) {
            endpoints.extend(udp_candidates(&nodes, gateway.node.as_deref(), port));
        }
        endpoints.truncate(MOST_CANDIDATES);
        Ok(endpoints)
    }

    /// The nodes, if the user may list them.
    pub(crate) async fn known_nodes(&self) -> Vec<NodeAddresses> {
        let Ok(client) = self.client().await else {
            return Vec::new();
        };
        let params = ListParams::default().limit(MOST_NODES);
        let api = Api::<Node>::all(client);
        let nodes = self
            .run(&Call::cluster("list", "nodes"), api.list(&params))
            .await;
        let mut nodes: Vec<_> = nodes
            .iter()
            .flat_map(|nodes| &nodes.items)
            .map(NodeAddresses::of)
            .collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        nodes
    }
}

/// The Service's node port for UDP.
fn node_port(service: &Service) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let port = ports
        .iter()
        .find(|port| port.protocol.as_deref() == Some("UDP"))?;
    u16::try_from(port.node_port?).ok()
}

async fn load_balancer(service: &Service) -> Vec<SocketAddr> {
    let balancer = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let mut endpoints = Vec::new();
    for ingress in balancer
        .into_iter()
        .flat_map(|balancer| balancer.ingress.iter().flatten())
    {
        endpoints.extend(ingress_addresses(ingress).await);
    }
    endpoints
        .into_iter()
        .map(|ip| SocketAddr::new(ip, kvpn_wire::WIREGUARD_PORT))
        .collect()
}

async fn ingress_addresses(ingress: &LoadBalancerIngress) -> Vec<IpAddr> {
    if let Some(ip) = ingress.ip.as_ref().and_then(|ip| ip.parse().ok()) {
        return vec![ip];
    }
    let Some(name) = &ingress.hostname else {
        return Vec::new();
    };
    let lookup = timeout(LOOKUP_LIMIT, tokio::net::lookup_host((name.as_str(), 0))).await;
    lookup
        .map(|found| {
            found
                .into_iter()
                .flatten()
                .map(|address| address.ip())
                .collect()
        })
        .unwrap_or_default()
}
