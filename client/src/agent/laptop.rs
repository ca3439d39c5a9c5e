//! What this machine's own network is like before kvpn changes it: read only, without privileges.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kvpn_wire::range;

use crate::os::{Routes as _, platform};

/// Interfaces of kvpn's own start with this.
const OWN_INTERFACE: &str = "kvpn";

/// This machine's network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Laptop {
    /// Subnets that the machine is in, kvpn's own and unroutable ones left out.
    pub(crate) subnets: Vec<IpNetwork>,
    /// Everything that has an address or a route here, sessions of kvpn among it.
    pub(crate) taken: Vec<IpNetwork>,
    /// The resolvers that the machine asks, sessions of kvpn left out.
    pub(crate) resolvers: Vec<IpAddr>,
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
    let snapshot = platform::SystemRoutes::open()?.snapshot().await?;
    let own = |link: u32| {
        snapshot
            .links
            .get(&link)
            .is_some_and(|name| name.starts_with(OWN_INTERFACE))
    };
    let others = snapshot
        .addresses
        .iter()
        .filter(|address| !own(address.link) && is_routable(address.address.ip()));
    let subnets = others.map(|address| subnet(address.address)).collect();
    let addresses = snapshot
        .addresses
        .iter()
        .map(|address| subnet(address.address));
    let routes = snapshot
        .routes
        .iter()
        .map(|route| route.destination)
        .filter(|range| range.prefix() > 0);
    let taken = addresses.chain(routes).collect();
    let mut resolvers = platform::resolver_addresses();
    resolvers.retain(|address| !range::is_tunnel(*address));
    Ok(Laptop {
        subnets: range::aggregate(subnets),
        taken,
        resolvers,
    })
}

fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

fn subnet(address: IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;

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
