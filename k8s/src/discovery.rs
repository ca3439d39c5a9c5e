//! Which ranges, namespaces and nodes the cluster has, as far as this user may see.

mod look;
mod ranges;

use crate::{Cluster, Error, GatewayPod, gateway::NodeAddresses};
use ipnetwork::IpNetwork;
use look::Look;
use std::{collections::BTreeSet, net::IpAddr};

/// More single addresses would make the routing table long; names bring the others as they resolve.
const MOST_OBSERVED: usize = 512;

/// What discovery found. Every list may be empty: then names and `--cidr` have to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Discovery {
    /// Ranges of Services.
    pub service_ranges: Vec<IpNetwork>,
    /// Ranges of pods; only ranges that cover every pod address seen.
    pub pod_ranges: Vec<IpNetwork>,
    /// All namespaces, or `None` when the user may not list them.
    pub namespaces: Option<Vec<String>>,
    /// Addresses of the nodes that are known.
    pub node_addresses: Vec<IpAddr>,
    /// Addresses of Services and pods seen that no range above covers, to be routed one by one.
    pub observed: Vec<IpAddr>,
    /// What could not be seen and what that costs: sentences for `-v` and `doctor`.
    pub notes: Vec<String>,
}

impl Cluster {
    /// Finds the cluster's ranges as DESIGN.md (Ranges) says, with whatever rights there are.
    ///
    /// Two rounds of requests, side by side, each request within 10 s.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Unauthorized`]; rights that are missing only shorten the answer.
    pub async fn discover(
        &self,
        namespace: &str,
        gateway: &GatewayPod,
    ) -> Result<Discovery, Error> {
        let places: BTreeSet<&str> = [namespace, gateway.namespace.as_str()].into();
        let look = Look::new(self).await?;
        let (cidrs, namespaces, nodes, pods) = tokio::try_join!(
            look.service_cidrs(),
            look.namespaces(),
            look.nodes(),
            look.pods(&places)
        )?;
        let mut found = Discovery::default();
        found.add_namespaces(namespaces);
        found.add_nodes(
            nodes.as_ref().map(|nodes| nodes.addresses.as_slice()),
            gateway,
        );
        let mut pod_addresses: BTreeSet<IpAddr> = pods.iter().copied().collect();
        pod_addresses.extend(&gateway.pod_ips);
        let node_ranges = nodes.map(|nodes| nodes.pod_cidrs).unwrap_or_default();
        let (services, pools) = tokio::try_join!(
            services_if(cidrs.is_none(), &look, &places),
            pools_unless_covered(&look, node_ranges, &pod_addresses),
        )?;
        found.add_services(cidrs, services);
        found.add_pods(pools, &pod_addresses);
        Ok(found)
    }
}

/// The Services, which are needed only where there are no ServiceCIDRs.
async fn services_if(
    needed: bool,
    look: &Look<'_>,
    places: &BTreeSet<&str>,
) -> Result<Option<look::Services>, Error> {
    if needed {
        look.services(places).await.map(Some)
    } else {
        Ok(None)
    }
}

/// The nodes' ranges if they hold all pods seen, else the network plugins' pools.
async fn pools_unless_covered(
    look: &Look<'_>,
    node_ranges: Vec<IpNetwork>,
    pods: &BTreeSet<IpAddr>,
) -> Result<Vec<Vec<IpNetwork>>, Error> {
    if ranges::cover(&node_ranges, pods) {
        Ok(vec![node_ranges])
    } else {
        look.pools().await
    }
}

impl Discovery {
    fn add_namespaces(&mut self, namespaces: Option<Vec<String>>) {
        if namespaces.is_none() {
            let note =
                "namespaces cannot be listed: names of other namespaces need --dns-namespace";
            self.notes.push(note.to_owned());
        }
        self.namespaces = namespaces;
    }

    fn add_nodes(&mut self, nodes: Option<&[NodeAddresses]>, gateway: &GatewayPod) {
        match nodes {
            Some(nodes) => {
                self.node_addresses = nodes.iter().flat_map(NodeAddresses::all).collect()
            }
            None => {
                self.node_addresses.clone_from(&gateway.host_ips);
                self.notes.push(
                    "nodes cannot be listed: only the gateway's own node is known".to_owned(),
                );
            }
        }
    }

    fn add_services(&mut self, cidrs: Option<Vec<IpNetwork>>, services: Option<look::Services>) {
        match (cidrs, services) {
            (Some(cidrs), _) => self.service_ranges = kvpn_wire::range::aggregate(cidrs),
            (
                None,
                Some(look::Services {
                    whole_cluster: true,
                    addresses,
                }),
            ) => {
                self.service_ranges = ranges::smallest_around(&addresses);
                self.notes.push("the cluster shows no ServiceCIDR: the Service range is taken from the Services there are".to_owned());
            }
            (
                None,
                Some(look::Services {
                    whole_cluster: false,
                    addresses,
                }),
            ) => {
                self.observe(addresses);
                self.notes.push("the Service range cannot be seen: Services of your namespace are routed one by one, others as their names resolve; --cidr adds a range".to_owned());
            }
            (None, None) => {}
        }
    }

    /// The first of `candidates` that covers every pod seen; else the pods themselves.
    fn add_pods(&mut self, candidates: Vec<Vec<IpNetwork>>, seen: &BTreeSet<IpAddr>) {
        match candidates
            .into_iter()
            .find(|candidate| ranges::cover(candidate, seen))
        {
            Some(ranges) => self.pod_ranges = kvpn_wire::range::aggregate(ranges),
            None => {
                self.observe(seen.clone());
                self.notes.push("no pod range covers the pods there are: pods are routed one by one, others as their names resolve; --cidr adds a range".to_owned());
            }
        }
    }

    fn observe(&mut self, addresses: BTreeSet<IpAddr>) {
        let room = MOST_OBSERVED.saturating_sub(self.observed.len());
        if addresses.len() > room {
            self.notes.push(format!(
                "{} of {} addresses are not routed beforehand",
                addresses.len() - room,
                addresses.len()
            ));
        }
        self.observed.extend(addresses.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests;
