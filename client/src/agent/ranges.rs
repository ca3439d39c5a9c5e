//! Which ranges go into the tunnel: what the cluster has and the user wants, without what must stay outside.
//!
//! Pure: takes what was found out, decides, and says what the user should know.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kvpn_k8s::Discovery;
use kvpn_wire::control::SessionGrant;
use kvpn_wire::range;

use crate::agent::laptop::Laptop;
use crate::agent::message::Start;

/// What was found out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// The cluster's Service and pod ranges.
    pub(crate) discovered: Vec<IpNetwork>,
    /// Single addresses of Services and pods that no discovered range covers.
    pub(crate) observed: Vec<IpAddr>,
    /// `--cidr`
    pub(crate) wanted: Vec<IpNetwork>,
    /// `--exclude`
    pub(crate) excluded: Vec<IpNetwork>,
    /// Addresses that the tunnel itself or the machine's names depend on: API server, carrier endpoints, resolvers.
    pub(crate) indispensable: Vec<IpAddr>,
    /// Addresses of the cluster's nodes, which a gateway does not let anybody reach.
    pub(crate) nodes: Vec<IpAddr>,
    /// Subnets that this machine is in.
    pub(crate) subnets: Vec<IpNetwork>,
}

impl Findings {
    /// Puts together what was learnt. `endpoints` are those of the API server and of the carriers.
    pub(crate) fn of(
        start: &Start,
        laptop: &Laptop,
        discovery: &Discovery,
        grant: &SessionGrant,
        endpoints: impl Iterator<Item = IpAddr>,
    ) -> Self {
        Self {
            discovered: [discovery.service_ranges.as_slice(), &discovery.pod_ranges].concat(),
            observed: observed(discovery, grant),
            wanted: start.ranges.clone(),
            excluded: start.exclude.clone(),
            indispensable: endpoints.chain(laptop.resolvers.iter().copied()).collect(),
            nodes: [
                discovery.node_addresses.as_slice(),
                &grant.cluster.node_addresses,
            ]
            .concat(),
            subnets: laptop.subnets.clone(),
        }
    }
}

/// Single addresses that are there even for a user who may see nothing: what the gateway sees from its pod.
fn observed(discovery: &Discovery, grant: &SessionGrant) -> Vec<IpAddr> {
    let facts = &grant.cluster;
    let seen = facts
        .kubernetes_service
        .iter()
        .chain(&facts.pod_addresses)
        .chain(&facts.nameservers);
    let seen = seen.filter(|address| range::is_private(**address));
    discovery.observed.iter().chain(seen).copied().collect()
}

/// What is routed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Ranges that go into the tunnel; disjoint, sorted.
    pub(crate) routes: Vec<IpNetwork>,
    /// Ranges whose reverse names the cluster answers.
    pub(crate) reverse: Vec<IpNetwork>,
    /// What does not go into the tunnel even if a name has such an address.
    pub(crate) outside: Vec<IpNetwork>,
    /// What the user should know, a sentence each.
    pub(crate) notes: Vec<String>,
}

/// A range that the user asked for cannot be had at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--cidr {wanted} lies inside {subnet}, a network that this machine is in")]
pub(crate) struct Swallowed {
    /// What was asked for.
    pub(crate) wanted: IpNetwork,
    /// Where the machine is.
    pub(crate) subnet: IpNetwork,
}

/// Decides what is routed.
///
/// # Errors
///
/// [`Swallowed`]
pub(crate) fn plan(findings: &Findings) -> Result<Plan, Swallowed> {
    for &wanted in &findings.wanted {
        if let Some(&subnet) = findings
            .subnets
            .iter()
            .find(|subnet| encloses(**subnet, wanted))
        {
            return Err(Swallowed { wanted, subnet });
        }
    }
    let cluster = range::aggregate([findings.discovered.as_slice(), &findings.wanted].concat());
    let single = findings
        .observed
        .iter()
        .copied()
        .filter(|address| !range::contains(&cluster, *address));
    let everything = cluster
        .iter()
        .copied()
        .chain(single.map(IpNetwork::from))
        .collect();
    let hosts = |addresses: &[IpAddr]| addresses.iter().copied().map(IpNetwork::from).collect();
    let indispensable: Vec<IpNetwork> = hosts(&findings.indispensable);
    let unroutable = [
        findings.excluded.as_slice(),
        &findings.subnets,
        &indispensable,
    ]
    .concat();
    let routes = range::aggregate(range::subtract(&range::aggregate(everything), &unroutable));
    let reverse = range::aggregate(range::subtract(&cluster, &findings.excluded));
    let nodes: Vec<IpNetwork> = hosts(&findings.nodes);
    let outside = range::aggregate([findings.excluded.as_slice(), &indispensable, &nodes].concat());
    Ok(Plan {
        routes,
        reverse,
        outside,
        notes: overlaps(&cluster, findings),
    })
}

fn encloses(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.contains(inner.network()) && outer.prefix() <= inner.prefix()
}

fn overlaps(cluster: &[IpNetwork], findings: &Findings) -> Vec<String> {
    let mut notes = Vec::new();
    for range in cluster {
        for subnet in &findings.subnets {
            if encloses(*range, *subnet) || encloses(*subnet, *range) {
                notes.push(format!(
                    "the cluster's range {range} overlaps {subnet}, a network that this machine is in; that part stays outside the tunnel, except single addresses that a cluster name resolves to"
                ));
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_clusters_ranges_are_routed() {
        let findings = Findings {
            discovered: nets(&[
                "10.96.0.0/16",
                "10.244.0.0/24",
                "10.244.1.0/24",
                "fd00:10:96::/112",
            ]),
            ..Findings::default()
        };
        let plan = plan(&findings).unwrap();
        assert_eq!(
            plan.routes,
            nets(&["10.96.0.0/16", "10.244.0.0/23", "fd00:10:96::/112"])
        );
        assert_eq!(plan.reverse, plan.routes);
        assert!(plan.notes.is_empty());
    }

    #[test]
    fn what_the_tunnel_depends_on_stays_outside() {
        let findings = Findings {
            discovered: nets(&["10.0.0.0/30"]),
            indispensable: addresses(&["10.0.0.1", "192.0.2.1"]),
            ..Findings::default()
        };
        assert_eq!(
            plan(&findings).unwrap().routes,
            nets(&["10.0.0.0/32", "10.0.0.2/31"])
        );
    }

    #[test]
    fn a_name_of_the_api_server_or_a_node_makes_no_route() {
        let findings = Findings {
            discovered: nets(&["10.96.0.0/16"]),
            excluded: nets(&["10.9.0.0/16"]),
            indispensable: addresses(&["172.31.2.11"]),
            nodes: addresses(&["172.31.2.12"]),
            ..Findings::default()
        };
        assert_eq!(
            plan(&findings).unwrap().outside,
            nets(&["10.9.0.0/16", "172.31.2.11/32", "172.31.2.12/32"])
        );
    }

    #[test]
    fn the_machines_own_subnet_stays_outside_and_is_said() {
        let findings = Findings {
            discovered: nets(&["192.168.0.0/23"]),
            subnets: nets(&["192.168.1.0/24"]),
            ..Findings::default()
        };
        let plan = plan(&findings).unwrap();
        assert_eq!(plan.routes, nets(&["192.168.0.0/24"]));
        assert_eq!(plan.notes.len(), 1);
        assert!(
            plan.notes[0].contains("192.168.1.0/24"),
            "{}",
            plan.notes[0]
        );
    }

    #[test]
    fn the_user_overrides() {
        let findings = Findings {
            discovered: nets(&["10.96.0.0/16"]),
            wanted: nets(&["203.0.113.0/24"]),
            excluded: nets(&["10.96.128.0/17"]),
            ..Findings::default()
        };
        assert_eq!(
            plan(&findings).unwrap().routes,
            nets(&["10.96.0.0/17", "203.0.113.0/24"])
        );
    }

    #[test]
    fn a_wanted_range_inside_the_machines_subnet_is_a_conflict() {
        let findings = Findings {
            wanted: nets(&["192.168.1.64/26"]),
            subnets: nets(&["192.168.1.0/24"]),
            ..Findings::default()
        };
        assert_eq!(
            plan(&findings).unwrap_err().subnet,
            nets(&["192.168.1.0/24"])[0]
        );
    }

    #[test]
    fn addresses_seen_are_routed_one_by_one() {
        let findings = Findings {
            discovered: nets(&["10.96.0.0/16"]),
            observed: addresses(&["10.96.0.10", "10.244.3.7", "10.244.3.8"]),
            ..Findings::default()
        };
        assert_eq!(
            plan(&findings).unwrap().routes,
            nets(&["10.96.0.0/16", "10.244.3.7/32", "10.244.3.8/32"])
        );
    }
}
