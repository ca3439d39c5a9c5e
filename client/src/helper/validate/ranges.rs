//! Which ranges may go into the tunnel.
//!
//! Must not judge names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use kvpn_wire::range::overlaps;

use super::Surroundings;
use crate::helper::exceptions::Exceptions;

/// Ranges that nobody on the internet owns: RFC 1918, 6598 (CGNAT), 2544 (benchmarks; the tunnel's own), 4193.
const PRIVATE: [IpNetwork; 6] = [
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([100, 64, 0, 0], 10),
    v4([198, 18, 0, 0], 15),
    v6(0xfc00, 7),
];
/// Never routed, whole or in part: this host, loopback, link-local (metadata services among it), multicast, reserved,
/// broadcast; and IPv6 that means IPv4 (mapped, NAT64, 6to4), which would reach around the IPv4 rules.
const FORBIDDEN: [IpNetwork; 10] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([224, 0, 0, 0], 3),
    // `::/96` holds unspecified, loopback and the old IPv4-compatible addresses.
    IpNetwork::V6(Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 96).expect("a valid prefix")),
    IpNetwork::V6(
        Ipv6Network::new_checked(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96)
            .expect("a valid prefix"),
    ),
    IpNetwork::V6(
        Ipv6Network::new_checked(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96)
            .expect("a valid prefix"),
    ),
    v6(0x2002, 16),
    v6(0xfe80, 10),
    v6(0xff00, 8),
];
/// Shortest prefixes: a private /8 is a whole cluster; a public IPv4 /16 a large cloud network, and for IPv6 a /32
/// is one provider's.
const MIN_PRIVATE_PREFIX: u8 = 8;
const MIN_PUBLIC_PREFIX_V4: u8 = 16;
const MIN_PUBLIC_PREFIX_V6: u8 = 32;

/// Whether a range may go into the tunnel: what the user should know, or why not.
///
/// # Errors
/// The reason, as text for the user.
pub(in crate::helper) fn route(
    range: IpNetwork,
    around: &Surroundings<'_>,
) -> Result<Vec<String>, String> {
    limits(range, around.exceptions)?;
    connected(range, around)?;
    single(range, around)?;
    if let Some(resolver) = around.loses_resolver(range) {
        return Err(format!(
            "{range} holds the machine's DNS server {resolver}, which would be out of reach; use `--exclude {resolver}/{}`",
            host_prefix(*resolver)
        ));
    }
    if let Some(other) = around
        .other_routes()
        .find(|other| other.in_main_table && other.destination == range)
    {
        return Err(format!(
            "{range} has a route through {} already; end that VPN, or use `--exclude {range}`",
            around.name(other.link)
        ));
    }
    Ok(conflicts(range, around))
}

/// The limits that hold on every machine, but for those that its administrator has lifted.
pub(in crate::helper) fn limits(range: IpNetwork, exceptions: &Exceptions) -> Result<(), String> {
    if let Some(forbidden) = FORBIDDEN
        .iter()
        .find(|forbidden| overlaps(forbidden, &range))
    {
        return Err(match range.prefix() {
            0 => format!("{range} is everything: kvpn never takes the default route"),
            _ => format!("{range} overlaps {forbidden}, which never goes into a tunnel"),
        });
    }
    let (kind, shortest) = if PRIVATE.iter().any(|private| covers(*private, range)) {
        ("a private range", MIN_PRIVATE_PREFIX)
    } else if range.is_ipv4() {
        ("a public range", MIN_PUBLIC_PREFIX_V4)
    } else {
        ("a public range", MIN_PUBLIC_PREFIX_V6)
    };
    if range.prefix() < shortest && !exceptions.allow_range(range) {
        return Err(format!(
            "{range} is too wide: {kind} may be a /{shortest} at most, unless /etc/kvpn/helper.toml allows it"
        ));
    }
    Ok(())
}

/// Subnets that the machine is on stay its own, but for [`single`] addresses: pods whose range overlaps the LAN.
fn connected(range: IpNetwork, around: &Surroundings<'_>) -> Result<(), String> {
    let subnet = around
        .others()
        .find(|other| !is_host(other.address) && covers(network(other.address), range));
    let Some(subnet) = subnet else {
        return Ok(());
    };
    let link = around.name(Some(subnet.link));
    let net = network(subnet.address);
    let ends = [net.network(), net.broadcast()];
    if !is_host(range) {
        return Err(format!(
            "{range} is in {net}, the subnet of {link}, which stays this machine's own; use `--exclude {net}`"
        ));
    }
    if ends.contains(&range.ip()) {
        return Err(format!("{} stands for all of {net}", range.ip()));
    }
    Ok(())
}

/// A single address may be taken out of what others have, unless the machine itself has or needs it, or has found somebody there:
/// who may use the helper must not come between the machine and its neighbours.
fn single(range: IpNetwork, around: &Surroundings<'_>) -> Result<(), String> {
    if !is_host(range) {
        return Ok(());
    }
    let address = range.ip();
    let who = if around.others().any(|other| other.address.ip() == address) {
        "this machine itself"
    } else if around
        .other_routes()
        .any(|route| route.gateway == Some(address))
    {
        "this machine's router"
    } else if around.resolvers.contains(&address) {
        "this machine's DNS server"
    } else if around.snapshot.neighbours.contains(&address) {
        "a neighbour in this machine's own network"
    } else {
        return Ok(());
    };
    Err(format!("{address} is {who}, and stays outside the tunnel"))
}

/// What else the machine routes there. The longer prefix wins; equal ones were refused.
fn conflicts(range: IpNetwork, around: &Surroundings<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    for other in around
        .other_routes()
        .filter(|other| other.destination.prefix() > 0)
    {
        let (theirs, link) = (other.destination, around.name(other.link));
        if !other.in_main_table && overlaps(&theirs, &range) {
            notes.push(format!("{theirs} goes through {link} by a routing table that may be asked before {range} is"));
        } else if covers(range, theirs) && theirs != range {
            notes.push(format!("{theirs}, a part of {range}, stays with {link}"));
        } else if covers(theirs, range) && theirs != range {
            notes.push(format!(
                "{range} is taken out of {theirs}, which goes through {link}"
            ));
        }
    }
    notes
}

pub(super) fn covers(wide: IpNetwork, narrow: IpNetwork) -> bool {
    wide.prefix() <= narrow.prefix() && wide.contains(narrow.network())
}

fn is_host(range: IpNetwork) -> bool {
    range.prefix() == host_prefix(range.ip())
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The range that an address with a prefix is in.
pub(in crate::helper) fn network(address: IpNetwork) -> IpNetwork {
    match address {
        IpNetwork::V4(address) => IpNetwork::V4(
            Ipv4Network::new_checked(address.network(), address.prefix()).unwrap_or(address),
        ),
        IpNetwork::V6(address) => IpNetwork::V6(
            Ipv6Network::new_checked(address.network(), address.prefix()).unwrap_or(address),
        ),
    }
}

const fn v4(octets: [u8; 4], prefix: u8) -> IpNetwork {
    let [a, b, c, d] = octets;
    IpNetwork::V4(
        Ipv4Network::new_checked(Ipv4Addr::new(a, b, c, d), prefix).expect("a valid prefix"),
    )
}

const fn v6(first: u16, prefix: u8) -> IpNetwork {
    IpNetwork::V6(
        Ipv6Network::new_checked(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), prefix)
            .expect("a valid prefix"),
    )
}
