//! What the helper accepts. The agent is unprivileged and may be anyone's program, so every value is judged here
//! again, against fixed limits and against what the machine has: a session gets cluster ranges and cluster names,
//! never the machine's own network.
//!
//! Pure: must not read the machine's state itself, nor change anything.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use ipnetwork::IpNetwork;
use kvpn_wire::range::{overlaps, tunnel_ranges};

use super::exceptions::Exceptions;
use crate::os::{Address, Route, Snapshot};

mod domains;
mod ranges;
#[cfg(test)]
mod tests;

pub(super) use domains::dns;
use ranges::covers;
pub(super) use ranges::limits;
pub(super) use ranges::{network, route};

/// Linux: IFNAMSIZ less the final zero.
const MAX_INTERFACE_NAME: usize = 15;

/// The machine that a range is judged against.
pub(super) struct Surroundings<'a> {
    /// Interfaces, addresses and routes; those of `own_link` are left out of account.
    pub(super) snapshot: &'a Snapshot,
    /// Index of the session's own interface.
    pub(super) own_link: Option<u32>,
    /// Servers that the machine's resolver asks.
    pub(super) resolvers: &'a [IpAddr],
    /// What the administrator allows beyond the limits.
    pub(super) exceptions: &'a Exceptions,
}

/// An interface name that is not a path, an option or a pattern.
pub(super) fn interface_name(name: &str) -> Result<()> {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
    ensure!(
        (1..=MAX_INTERFACE_NAME).contains(&name.len())
            && name.chars().all(plain)
            && name.starts_with(|first: char| first.is_ascii_alphanumeric()),
        "`{}` cannot be an interface's name: up to {MAX_INTERFACE_NAME} letters, digits, `-`, `_` and `.`, a letter or \
         digit first",
        name.escape_debug()
    );
    Ok(())
}

/// An MTU that IPv6 allows (RFC 8200, 5).
pub(super) fn mtu(mtu: u16) -> Result<()> {
    ensure!(
        mtu >= 1280,
        "an MTU of {mtu} is less than IPv6 needs (1280)"
    );
    Ok(())
}

/// Tunnel addresses: at most one a family, from kvpn's own ranges, and on no other interface's subnet.
pub(super) fn addresses(addresses: &[IpNetwork], around: &Surroundings<'_>) -> Result<()> {
    ensure!(!addresses.is_empty(), "a session needs a tunnel address");
    ensure!(
        addresses.len() <= 2
            && addresses.iter().filter(|address| address.is_ipv4()).count() <= 1
            && addresses.iter().filter(|address| address.is_ipv6()).count() <= 1,
        "a session has one tunnel address a family"
    );
    let [tunnel_v4, tunnel_v6] = tunnel_ranges();
    for address in addresses {
        ensure!(
            covers(tunnel_v4, *address) || covers(tunnel_v6, *address),
            "{address} is no tunnel address: those are in {tunnel_v4} and {tunnel_v6}"
        );
        if let Some(other) = around
            .others()
            .find(|other| overlaps(&other.address, address))
        {
            bail!(
                "the tunnel address {address} overlaps {} on {}: the gateway has to give another one",
                other.address,
                around.name(Some(other.link))
            );
        }
    }
    Ok(())
}

impl Surroundings<'_> {
    /// Addresses of other interfaces.
    fn others(&self) -> impl Iterator<Item = &Address> {
        self.snapshot
            .addresses
            .iter()
            .filter(|address| Some(address.link) != self.own_link)
    }

    /// Routes of others. Other sessions' do not count: a user may have several with one cluster, whose ranges are
    /// equal; the elder one's routes hold then, and the younger one's when it ends.
    fn other_routes(&self) -> impl Iterator<Item = &Route> {
        self.snapshot
            .routes
            .iter()
            .filter(|route| route.link != self.own_link || route.link.is_none())
            .filter(|route| {
                !route
                    .link
                    .is_some_and(|link| self.snapshot.is_sessions(link))
            })
    }

    /// A resolver that only this range's route would lead to.
    fn loses_resolver(&self, range: IpNetwork) -> Option<&IpAddr> {
        self.resolvers.iter().find(|resolver| {
            let nearer = |route: &&Route| {
                route.destination.contains(**resolver)
                    && route.destination.prefix() > range.prefix()
            };
            range.contains(**resolver) && self.other_routes().find(nearer).is_none()
        })
    }

    fn name(&self, link: Option<u32>) -> &str {
        link.and_then(|link| self.snapshot.links.get(&link))
            .map_or("another interface", String::as_str)
    }
}
