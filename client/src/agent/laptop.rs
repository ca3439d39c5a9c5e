//! What this machine's own network is like before kvpn changes it: read only, without privileges.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kvpn_wire::range;

use crate::os::{Route, Routes as _, Snapshot, platform};

/// A range that an interface of this machine, other than kvpn's, leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Occupied {
    /// The range.
    pub(crate) range: IpNetwork,
    /// The interface's name.
    pub(crate) interface: String,
}

/// This machine's network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Laptop {
    /// Subnets that the machine is in, kvpn's own and unroutable ones left out.
    pub(crate) subnets: Vec<Occupied>,
    /// What else has a route beside the default one: other VPNs, above all. Kvpn's own are left out, and so are routes that no
    /// route of kvpn's could take precedence over, because another table has them.
    pub(crate) routes: Vec<Occupied>,
    /// What interfaces of kvpn's sessions lead to, this one's and other users' among them; their tunnel addresses left out.
    pub(crate) sessions: Vec<Occupied>,
    /// Single addresses that the machine itself has or speaks to: its own, next hops, neighbours that the kernel knows.
    pub(crate) in_use: Vec<IpAddr>,
    /// Everything that has an address or a route here, sessions of kvpn among it.
    pub(crate) taken: Vec<IpNetwork>,
    /// The resolvers that the machine asks, sessions of kvpn left out.
    pub(crate) resolvers: Vec<IpAddr>,
}

/// What carriers depend on. Differs after every change that may have broken one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    /// Interface and address; kvpn's own and unroutable ones left out.
    addresses: BTreeSet<(u32, IpNetwork)>,
    /// Interface and next hop of the default routes.
    defaults: BTreeSet<(Option<u32>, Option<IpAddr>)>,
}

impl Outline {
    fn of(snapshot: &Snapshot) -> Self {
        let others = snapshot.addresses.iter().filter(|address| {
            !snapshot.is_sessions(address.link) && is_routable(address.address.ip())
        });
        let defaults = snapshot
            .routes
            .iter()
            .filter(|route| route.destination.prefix() == 0);
        Self {
            addresses: others
                .map(|address| (address.link, address.address))
                .collect(),
            defaults: defaults.map(|route| (route.link, route.gateway)).collect(),
        }
    }
}

impl Laptop {
    /// Ranges from which a gateway must not take tunnel addresses; those of `own` blocks are ours to keep.
    pub(crate) fn avoided(&self, own: &[IpNetwork]) -> Vec<IpNetwork> {
        let is_own = |range: &IpNetwork| {
            own.iter()
                .any(|block| block.contains(range.ip()) && block.prefix() <= range.prefix())
        };
        range::aggregate(
            self.taken
                .iter()
                .copied()
                .filter(|range| !is_own(range))
                .collect(),
        )
    }
}

/// Looks at the machine's network.
///
/// # Errors
///
/// The system does not list interfaces or routes.
pub(crate) async fn look() -> anyhow::Result<Laptop> {
    let snapshot = snapshot().await?;
    let mut resolvers = platform::resolver_addresses();
    resolvers.retain(|address| !range::is_tunnel(*address));
    Ok(Laptop::of(&snapshot, resolvers))
}

/// What an interface other than kvpn's has.
fn occupied(snapshot: &Snapshot, link: Option<u32>, range: IpNetwork) -> Option<Occupied> {
    let is_others = link.is_none_or(|link| !snapshot.is_sessions(link));
    is_others.then(|| named(snapshot, link, range)).flatten()
}

/// What an interface of a session routes.
fn routed(snapshot: &Snapshot, route: &Route) -> Option<Occupied> {
    let is_sessions = route.link.is_some_and(|link| snapshot.is_sessions(link));
    (is_sessions && route.in_main_table && !range::is_tunnel(route.destination.ip()))
        .then(|| named(snapshot, route.link, route.destination))
        .flatten()
}

fn named(snapshot: &Snapshot, link: Option<u32>, range: IpNetwork) -> Option<Occupied> {
    let name = link.and_then(|link| snapshot.links.get(&link));
    let interface = name.map_or_else(|| "another interface".to_owned(), Clone::clone);
    is_routable(range.ip()).then(|| Occupied {
        range: subnet(range),
        interface,
    })
}

impl Laptop {
    fn of(snapshot: &Snapshot, resolvers: Vec<IpAddr>) -> Self {
        let addresses = snapshot.addresses.iter();
        let subnets: Vec<Occupied> = addresses
            .filter_map(|address| occupied(snapshot, Some(address.link), address.address))
            .collect();
        let routes = snapshot.routes.iter();
        let routes = routes
            .filter(|route| route.in_main_table && route.destination.prefix() > 0)
            .filter_map(|route| occupied(snapshot, route.link, route.destination))
            .filter(|route| !subnets.contains(route));
        Self {
            routes: routes.collect(),
            sessions: snapshot
                .routes
                .iter()
                .filter_map(|route| routed(snapshot, route))
                .collect(),
            in_use: in_use(snapshot),
            taken: taken(snapshot),
            subnets,
            resolvers,
        }
    }
}

fn in_use(snapshot: &Snapshot) -> Vec<IpAddr> {
    let own = snapshot.addresses.iter();
    let own = own.filter(|address| !snapshot.is_sessions(address.link));
    let hops = snapshot.routes.iter().filter_map(|route| route.gateway);
    own.map(|address| address.address.ip())
        .chain(hops)
        .chain(snapshot.neighbours.iter().copied())
        .collect()
}

fn taken(snapshot: &Snapshot) -> Vec<IpNetwork> {
    let addresses = snapshot
        .addresses
        .iter()
        .map(|address| subnet(address.address));
    let routes = snapshot
        .routes
        .iter()
        .map(|route| route.destination)
        .filter(|range| range.prefix() > 0);
    addresses.chain(routes).collect()
}

/// Everything at once.
///
/// # Errors
///
/// The system does not list interfaces or routes.
pub(crate) async fn snapshot() -> anyhow::Result<Snapshot> {
    platform::SystemRoutes::open()?.snapshot().await
}

/// Looks at what carriers depend on, and at what other interfaces have.
///
/// # Errors
///
/// The system does not list interfaces or routes.
pub(crate) async fn outline() -> anyhow::Result<(Outline, BTreeSet<Occupied>)> {
    let snapshot = snapshot().await?;
    let Laptop {
        subnets, routes, ..
    } = Laptop::of(&snapshot, Vec::new());
    let occupied = subnets.into_iter().chain(routes).collect();
    Ok((Outline::of(&snapshot), occupied))
}

fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_multicast(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_multicast(),
    }
}

fn subnet(address: IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Address;

    fn snapshot(addresses: &[(u32, &str)], routes: &[(&str, u32, Option<&str>)]) -> Snapshot {
        let links = [
            (1, "lo"),
            (2, "wlan0"),
            (3, "kvpn0"),
            (4, "veth1"),
            (5, "utun7"),
        ];
        Snapshot {
            links: links.map(|(link, name)| (link, name.to_owned())).into(),
            addresses: (addresses.iter())
                .map(|(link, address)| Address {
                    link: *link,
                    address: address.parse().unwrap(),
                })
                .collect(),
            routes: (routes.iter())
                .map(|(destination, link, gateway)| Route {
                    destination: destination.parse().unwrap(),
                    link: Some(*link),
                    gateway: gateway.map(|gateway| gateway.parse().unwrap()),
                    in_main_table: true,
                })
                .collect(),
            neighbours: vec!["192.168.1.30".parse().unwrap()],
        }
    }

    #[test]
    fn kvpns_own_doing_and_starting_containers_are_no_change() {
        let wlan = [(2, "192.168.1.7/24"), (1, "127.0.0.1/8")];
        let default = ("0.0.0.0/0", 2, Some("192.168.1.1"));
        let before = Outline::of(&snapshot(&wlan, &[default]));
        let ours = [wlan[0], (3, "198.19.0.2/32"), (4, "fe80::1/64")];
        let ours = snapshot(&ours, &[default, ("10.96.0.0/16", 3, None)]);
        assert_eq!(Outline::of(&ours), before);
    }

    #[test]
    fn another_address_or_next_hop_is_one() {
        let wlan = [(2, "192.168.1.7/24")];
        let hop = |hop| [("0.0.0.0/0", 2, Some(hop))];
        let before = Outline::of(&snapshot(&wlan, &hop("192.168.1.1")));
        for other in [
            snapshot(&[], &[]),
            snapshot(&wlan, &hop("192.168.1.254")),
            snapshot(&[(2, "192.168.1.8/24")], &hop("192.168.1.1")),
        ] {
            assert_ne!(Outline::of(&other), before);
        }
    }

    #[test]
    fn what_others_have_is_named_by_interface() {
        let addresses = [
            (2, "192.168.1.7/24"),
            (1, "127.0.0.1/8"),
            (3, "198.19.0.2/32"),
            (5, "198.19.0.6/32"),
        ];
        let routes = [
            ("0.0.0.0/0", 2, Some("192.168.1.1")),
            ("192.168.1.0/24", 2, None),
            ("10.96.4.0/24", 4, None),
            ("10.96.0.0/12", 3, None),
            ("100.64.0.0/12", 5, None),
            ("fe80::/64", 2, None),
        ];
        let laptop = Laptop::of(&snapshot(&addresses, &routes), Vec::new());
        let occupied = |range: &str, interface: &str| Occupied {
            range: range.parse().unwrap(),
            interface: interface.to_owned(),
        };
        assert_eq!(laptop.subnets, [occupied("192.168.1.0/24", "wlan0")]);
        assert_eq!(laptop.routes, [occupied("10.96.4.0/24", "veth1")]);
        let sessions = [
            occupied("10.96.0.0/12", "kvpn0"),
            occupied("100.64.0.0/12", "utun7"),
        ];
        assert_eq!(laptop.sessions, sessions);
        for used in ["192.168.1.7", "192.168.1.1", "192.168.1.30"] {
            assert!(laptop.in_use.contains(&used.parse().unwrap()), "{used}");
        }
    }

    #[test]
    fn a_sessions_own_block_is_not_avoided() {
        let nets = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<IpNetwork>>()
        };
        let taken = nets(&[
            "192.168.1.0/24",
            "198.19.0.4/30",
            "198.19.0.8/30",
            "fd6b:7670:6e00::2/128",
        ]);
        let laptop = Laptop {
            taken,
            ..Laptop::default()
        };
        let own = nets(&["198.19.0.6/30", "fd6b:7670:6e00::2/126"]);
        assert_eq!(
            laptop.avoided(&own),
            nets(&["192.168.1.0/24", "198.19.0.8/30"])
        );
        assert_eq!(laptop.avoided(&[]).len(), 4);
    }
}
