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
    refuse_own_subnets(&findings.wanted, laptop)?;
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
    let seen = range::intersect(&seen(findings, &theirs, &outside), &real);
    // One by one: the helper lets nothing wider into a subnet of the machine's.
    routes.extend(seen.iter().flat_map(|range| hosts(range.iter())));
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

fn refuse_own_subnets(wanted: &[IpNetwork], laptop: &Laptop) -> Result<(), Conflict> {
    for &wanted in wanted {
        let mut subnets = laptop.subnets.iter();
        if let Some(subnet) = subnets.find(|subnet| encloses(subnet.range, wanted)) {
            let subnet = subnet.clone();
            return Err(Conflict::Swallowed { wanted, subnet });
        }
    }
    Ok(())
}

/// Addresses of the cluster that were seen in what others have.
fn seen(findings: &Findings, theirs: &[IpNetwork], outside: &[IpNetwork]) -> Vec<IpNetwork> {
    let mut seen = hosts(findings.observed.iter().copied());
    seen.retain(|host| {
        range::any_overlap(&[*host], theirs)
            && !range::any_overlap(&[*host], outside)
            && !theirs.contains(host)
    });
    seen
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
mod tests;
