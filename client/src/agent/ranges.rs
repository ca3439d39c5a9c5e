//! Which ranges go into the tunnel: what the cluster has and the user wants, without what must stay outside, and in virtual ranges
//! what another session has.
//!
//! Pure: takes what was found out, decides, and says what the user should know.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kvpn_client_core::{Mapping, Netmap};
use kvpn_k8s::Discovery;
use kvpn_wire::control::SessionGrant;
use kvpn_wire::range;

use crate::agent::laptop::{Laptop, Occupied};
use crate::agent::message::Start;
use crate::agent::report::OverlapReport;
use crate::agent::virtual_ranges::{self, Foreign, NoRoom};

/// A note names so many of an interface's ranges.
const NAMED: usize = 3;

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
    /// This machine.
    pub(crate) laptop: Laptop,
    /// What the user's sessions with other clusters route.
    pub(crate) foreign: Vec<Foreign>,
    /// What this session routes already, if it stands.
    pub(crate) standing: Vec<IpNetwork>,
    /// The virtual ranges that it has.
    pub(crate) mappings: Vec<Mapping>,
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
            laptop: laptop.clone(),
            ..Self::default()
        }
    }

    /// Ranges of the cluster.
    fn cluster(&self) -> Vec<IpNetwork> {
        range::aggregate([self.discovered.as_slice(), &self.wanted].concat())
    }

    /// Single addresses outside of these ranges.
    fn single(&self, cluster: &[IpNetwork]) -> Vec<IpNetwork> {
        let single = self.observed.iter().copied();
        hosts(single.filter(|address| !range::contains(cluster, *address)))
    }

    /// What names keep and programs reach directly, or not at all.
    fn untouched(&self) -> Vec<IpNetwork> {
        let addresses = self.indispensable.iter().chain(&self.nodes);
        range::aggregate([self.excluded.clone(), hosts(addresses.copied())].concat())
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
    /// Ranges that go into the tunnel; disjoint, sorted. Virtual ones in place of those that they stand for.
    pub(crate) routes: Vec<IpNetwork>,
    /// Ranges whose reverse names the cluster answers; the same.
    pub(crate) reverse: Vec<IpNetwork>,
    /// What does not go into the tunnel even if a name has such an address.
    pub(crate) outside: Vec<IpNetwork>,
    /// What appears in virtual ranges.
    pub(crate) netmap: Netmap,
    /// What stays with others on this machine.
    pub(crate) overlaps: Vec<OverlapReport>,
    /// What the user should know, a sentence each.
    pub(crate) notes: Vec<String>,
}

/// A range cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Conflict {
    /// The user asked for a part of a network of this machine.
    #[error(
        "--cidr {wanted} lies inside {} of {}, a network that this machine is in",
        .subnet.range,
        .subnet.interface
    )]
    Swallowed {
        /// What was asked for.
        wanted: IpNetwork,
        /// Where the machine is.
        subnet: Occupied,
    },
    /// Another session has it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl Conflict {
    /// What the user can do.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Swallowed { .. } => "name a smaller range, or leave that network".to_owned(),
            Self::NoRoom(NoRoom { range, .. }) => format!(
                "end that session (`kvpn disconnect`), or leave the range out with --exclude {range}"
            ),
        }
    }
}

/// Decides what is routed.
///
/// # Errors
///
/// [`Conflict`]
pub(crate) fn plan(findings: &Findings) -> Result<Plan, Conflict> {
    let Findings {
        excluded, laptop, ..
    } = findings;
    for &wanted in &findings.wanted {
        let mut subnets = laptop.subnets.iter();
        if let Some(subnet) = subnets.find(|subnet| encloses(subnet.range, wanted)) {
            let subnet = subnet.clone();
            return Err(Conflict::Swallowed { wanted, subnet });
        }
    }
    let cluster = findings.cluster();
    let single = findings.single(&cluster);
    let untouched = findings.untouched();
    let in_use = hosts(laptop.in_use.iter().copied());
    let outside = range::aggregate([untouched.as_slice(), &in_use].concat());
    let mappings = mappings(findings, &cluster, &single)?;
    let everything = range::subtract(&[cluster.as_slice(), &single].concat(), excluded);
    let (real, shown) = split(&everything, &mappings);
    let overlaps = overlaps(&real, laptop);
    let theirs: Vec<IpNetwork> = overlaps.iter().map(|overlap| overlap.with).collect();
    let indispensable = hosts(findings.indispensable.iter().copied());
    let whole = range::subtract(&real, &[theirs.as_slice(), &indispensable].concat());
    let mut routes = range::aggregate([whole, shown].concat());
    // One by one: the helper lets nothing wider into a subnet of the machine's.
    let seen = range::intersect(&hosts(findings.observed.iter().copied()), &real);
    let seen = seen.iter().flat_map(|range| hosts(range.iter()));
    routes.extend(seen.filter(|host| {
        range::any_overlap(&[*host], &theirs)
            && !range::any_overlap(&[*host], &outside)
            && !theirs.contains(host)
    }));
    routes.sort_unstable();
    let (reverse, reverse_shown) = split(&range::subtract(&cluster, excluded), &mappings);
    Ok(Plan {
        routes,
        reverse: range::aggregate([reverse, reverse_shown].concat()),
        notes: [
            notes(&overlaps),
            mapping_notes(findings, &mappings, &everything),
        ]
        .concat(),
        netmap: Netmap::new(mappings, untouched),
        outside,
        overlaps,
    })
}

fn hosts(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpNetwork> {
    addresses.map(IpNetwork::from).collect()
}

fn encloses(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.contains(inner.network()) && outer.prefix() <= inner.prefix()
}

/// Virtual ranges for what other sessions have. What this session has had before the others came stays real.
fn mappings(
    findings: &Findings,
    cluster: &[IpNetwork],
    single: &[IpNetwork],
) -> Result<Vec<Mapping>, NoRoom> {
    let Findings {
        excluded,
        laptop,
        standing,
        mappings,
        ..
    } = findings;
    let wanted = |range: &&IpNetwork| !range::subtract(&[**range], excluded).is_empty();
    let own: Vec<IpNetwork> = (cluster.iter().chain(single).filter(wanted).copied()).collect();
    let shown: Vec<IpNetwork> = mappings.iter().map(Mapping::shown).collect();
    let real = range::subtract(standing, &shown);
    let is_new = |range: &IpNetwork| !range::any_overlap(&[*range], &real);
    let new: Vec<IpNetwork> = own.iter().copied().filter(is_new).collect();
    let had: Vec<IpNetwork> = own.iter().copied().filter(|range| !is_new(range)).collect();
    let left = |range: &IpNetwork| {
        !range::subtract(&[*range], &[excluded.as_slice(), &had].concat()).is_empty()
    };
    let foreign: Vec<Foreign> = (findings.foreign.iter())
        .filter(|foreign| left(&foreign.range))
        .cloned()
        .collect();
    let addresses = findings.indispensable.iter().chain(&findings.nodes);
    let taken = [
        laptop.taken.clone(),
        own,
        excluded.clone(),
        hosts(addresses.copied()),
    ]
    .concat();
    virtual_ranges::choose(&new, &foreign, mappings, &taken)
}

/// What stays as it is, and the images of the rest.
fn split(ranges: &[IpNetwork], mappings: &[Mapping]) -> (Vec<IpNetwork>, Vec<IpNetwork>) {
    let mapped: Vec<IpNetwork> = mappings.iter().map(Mapping::real).collect();
    let images = mappings.iter().flat_map(|mapping| {
        let parts = range::intersect(ranges, &[mapping.real()]);
        parts.into_iter().filter_map(|part| mapping.image(part))
    });
    (range::subtract(ranges, &mapped), images.collect())
}

/// What of the cluster's ranges other interfaces lead to: subnets of this machine, and routes at least as long.
pub(crate) fn overlaps(cluster: &[IpNetwork], laptop: &Laptop) -> Vec<OverlapReport> {
    let mut overlaps = Vec::new();
    for range in cluster {
        let subnets = laptop.subnets.iter();
        let subnets = subnets.filter(|subnet| range::overlaps(range, &subnet.range));
        let routes = laptop.routes.iter();
        let routes = routes.filter(|route| encloses(*range, route.range));
        overlaps.extend(subnets.chain(routes).map(|occupied| OverlapReport {
            range: *range,
            with: occupied.range,
            interface: occupied.interface.clone(),
        }));
    }
    overlaps
}

/// A sentence for each range and interface.
fn notes(overlaps: &[OverlapReport]) -> Vec<String> {
    let mut grouped: BTreeMap<(IpNetwork, &str), Vec<IpNetwork>> = BTreeMap::new();
    for overlap in overlaps {
        let with = grouped
            .entry((overlap.range, &overlap.interface))
            .or_default();
        with.push(overlap.with);
    }
    let sentence = |((range, interface), with): ((IpNetwork, &str), Vec<IpNetwork>)| {
        let named: Vec<String> = with.iter().take(NAMED).map(IpNetwork::to_string).collect();
        let more = match with.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "the cluster's range {range} overlaps {}{more} of {interface} on this machine; that part stays there, except single addresses that a cluster name resolves to",
            named.join(", ")
        )
    };
    grouped.into_iter().map(sentence).collect()
}

fn mapping_notes(
    findings: &Findings,
    mappings: &[Mapping],
    everything: &[IpNetwork],
) -> Vec<String> {
    let used = mappings
        .iter()
        .filter(|mapping| range::any_overlap(&[mapping.real()], everything));
    let sentence = |mapping: &Mapping| {
        let (real, shown) = (mapping.real(), mapping.shown());
        let mut foreign = findings.foreign.iter();
        let holder = foreign.find(|foreign| range::overlaps(&foreign.range, &real))?;
        Some(format!(
            "{real} is the session {}'s already: this cluster's addresses there appear as {shown}",
            holder.session
        ))
    };
    used.filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn occupied(range: &str, interface: &str) -> Occupied {
        Occupied {
            range: range.parse().unwrap(),
            interface: interface.to_owned(),
        }
    }

    fn laptop(subnets: &[(&str, &str)], routes: &[(&str, &str)]) -> Laptop {
        let all = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(range, interface)| occupied(range, interface))
                .collect()
        };
        Laptop {
            subnets: all(subnets),
            routes: all(routes),
            ..Laptop::default()
        }
    }

    fn foreign(range: &str) -> Vec<Foreign> {
        let range = range.parse().unwrap();
        vec![Foreign {
            range,
            session: "a".to_owned(),
        }]
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
            laptop: laptop(&[("192.168.1.0/24", "wlan0")], &[]),
            ..Findings::default()
        };
        let plan = plan(&findings).unwrap();
        assert_eq!(plan.routes, nets(&["192.168.0.0/24"]));
        assert_eq!(plan.notes.len(), 1);
        assert!(
            plan.notes[0].contains("192.168.1.0/24 of wlan0"),
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
            laptop: laptop(&[("192.168.1.0/24", "wlan0")], &[]),
            ..Findings::default()
        };
        let subnet = occupied("192.168.1.0/24", "wlan0");
        let wanted = findings.wanted[0];
        assert_eq!(
            plan(&findings).unwrap_err(),
            Conflict::Swallowed { wanted, subnet }
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

    #[test]
    fn a_vpns_longer_routes_stay_its_own_and_a_shorter_one_does_not() {
        let findings = Findings {
            discovered: nets(&["10.96.0.0/16"]),
            laptop: laptop(&[], &[("10.96.4.0/22", "tun0"), ("10.0.0.0/8", "tun0")]),
            ..Findings::default()
        };
        let plan = plan(&findings).unwrap();
        assert!(range::contains(&plan.routes, addresses(&["10.96.8.1"])[0]));
        assert!(!range::contains(&plan.routes, addresses(&["10.96.5.1"])[0]));
        assert_eq!(plan.overlaps.len(), 1);
        assert!(
            plan.notes[0].contains("10.96.4.0/22 of tun0"),
            "{}",
            plan.notes[0]
        );
    }

    #[test]
    fn an_equal_route_leaves_single_addresses_only() {
        let findings = Findings {
            discovered: nets(&["10.96.0.0/16"]),
            observed: addresses(&["10.96.0.10", "10.96.0.1", "10.96.0.2", "10.96.0.3"]),
            indispensable: addresses(&["10.96.0.1"]),
            laptop: Laptop {
                in_use: addresses(&["10.96.0.2"]),
                ..laptop(&[], &[("10.96.0.0/16", "tun0"), ("10.96.0.3/32", "tun0")])
            },
            ..Findings::default()
        };
        let plan = plan(&findings).unwrap();
        assert_eq!(plan.routes, nets(&["10.96.0.10/32"]));
        assert_eq!(plan.reverse, nets(&["10.96.0.0/16"]));
        assert!(range::contains(&plan.outside, addresses(&["10.96.0.2"])[0]));
    }

    #[test]
    fn observed_addresses_in_the_machines_subnet_are_routed_one_by_one() {
        let findings = Findings {
            discovered: nets(&["172.17.0.0/16"]),
            observed: addresses(&["172.17.0.8", "172.17.0.9"]),
            laptop: laptop(&[("172.17.0.0/16", "docker0")], &[]),
            ..Findings::default()
        };
        let plan = plan(&findings).unwrap();
        assert_eq!(plan.routes, nets(&["172.17.0.8/32", "172.17.0.9/32"]));
        assert!(plan.notes[0].contains("docker0"), "{}", plan.notes[0]);
    }

    #[test]
    fn another_clusters_equal_range_makes_ours_appear_elsewhere() {
        let findings = Findings {
            discovered: nets(&["10.96.0.0/12", "10.244.0.0/16"]),
            excluded: nets(&["10.100.0.0/16"]),
            indispensable: addresses(&["203.0.113.1"]),
            foreign: foreign("10.96.0.0/16"),
            ..Findings::default()
        };
        let plan = plan(&findings).unwrap();
        let image = range::subtract(&nets(&["100.64.0.0/12"]), &nets(&["100.68.0.0/16"]));
        assert_eq!(plan.routes, [nets(&["10.244.0.0/16"]), image].concat());
        assert_eq!(plan.reverse, plan.routes);
        assert_eq!(
            plan.notes,
            [
                "10.96.0.0/12 is the session a's already: this cluster's addresses there appear as 100.64.0.0/12"
            ]
        );
        let shown = plan.netmap.shown(addresses(&["10.97.0.1"])[0]);
        assert_eq!(shown, Some(addresses(&["100.65.0.1"])[0]));
    }

    #[test]
    fn an_excluded_range_gets_no_virtual_one() {
        let findings = Findings {
            discovered: nets(&["10.96.0.0/16"]),
            excluded: nets(&["10.96.0.0/12"]),
            foreign: foreign("10.96.0.0/16"),
            ..Findings::default()
        };
        let plan = plan(&findings).unwrap();
        assert_eq!((plan.routes, plan.netmap.is_empty()), (vec![], true));
    }

    #[test]
    fn what_stands_stays_real_when_another_session_comes() {
        let mut findings = Findings {
            discovered: nets(&["10.96.0.0/16"]),
            standing: nets(&["10.96.0.0/16"]),
            foreign: foreign("10.96.0.0/24"),
            ..Findings::default()
        };
        let first = plan(&findings).unwrap();
        assert_eq!(
            (first.routes, first.netmap.is_empty()),
            (nets(&["10.96.0.0/16"]), true)
        );
        findings.discovered.extend(nets(&["10.244.0.0/16"]));
        findings.foreign.extend(foreign("10.244.0.0/24"));
        let then = plan(&findings).unwrap();
        assert_eq!(then.routes, nets(&["10.96.0.0/16", "100.64.0.0/16"]));
    }

    #[test]
    fn without_room_it_is_a_conflict() {
        let findings = Findings {
            discovered: nets(&["10.0.0.0/8"]),
            foreign: foreign("10.0.0.0/8"),
            ..Findings::default()
        };
        let conflict = plan(&findings).unwrap_err();
        assert!(
            conflict.hint().contains("--exclude 10.0.0.0/8"),
            "{conflict}"
        );
    }
}
