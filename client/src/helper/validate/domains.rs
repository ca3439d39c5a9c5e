//! Which names may go to the session's stub.
//!
//! Must not judge ranges, but for those that reverse zones stand for.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use ipnetwork::IpNetwork;
use kvpn_wire::name::is_public_tld;
use kvpn_wire::range::overlaps;

use super::ranges::limits;
use crate::helper::exceptions::Exceptions;
use crate::helper::protocol::{DnsConfig, MAX_DOMAINS};

/// Second-level labels under which country registries sell names.
const REGISTRY_LABELS: [&str; 10] = [
    "ac", "co", "com", "edu", "go", "gov", "ne", "net", "or", "org",
];

/// What of a DNS configuration is accepted, and why not the rest.
///
/// # Errors
/// Servers that are not the session's own stub, or too many domains: nothing of it can be used.
pub(in crate::helper) fn dns(
    dns: DnsConfig,
    addresses: &[IpNetwork],
    routes: &[IpNetwork],
    exceptions: &Exceptions,
) -> Result<(DnsConfig, Vec<String>)> {
    ensure!(
        !dns.servers.is_empty(),
        "names were given without a server for them"
    );
    ensure!(
        dns.search.len() + dns.routing.len() <= MAX_DOMAINS,
        "more than {MAX_DOMAINS} domains"
    );
    for server in &dns.servers {
        ensure!(
            addresses
                .iter()
                .any(|address| address.contains(*server) && address.ip() != *server),
            "the DNS server {server} is not in the session's own block of addresses"
        );
    }
    let mut refused = Vec::new();
    let mut judge = |names: Vec<String>| -> Vec<String> {
        let judged = names
            .into_iter()
            .map(|name| domain(&name, routes, exceptions));
        judged
            .filter_map(|judged| judged.map_err(|why| refused.push(why)).ok())
            .collect()
    };
    let (search, routing) = (judge(dns.search), judge(dns.routing));
    Ok((
        DnsConfig {
            servers: dns.servers,
            search,
            routing,
        },
        refused,
    ))
}

/// A domain that may go to the stub, in the form that the system is given.
fn domain(name: &str, routes: &[IpNetwork], exceptions: &Exceptions) -> Result<String, String> {
    let plain = name.strip_prefix('~').unwrap_or(name);
    let plain = plain
        .strip_suffix('.')
        .unwrap_or(plain)
        .to_ascii_lowercase();
    if plain.is_empty() {
        return Err(
            "the root domain is every name there is: kvpn only takes the cluster's".to_owned(),
        );
    }
    let labels: Vec<&str> = plain.split('.').collect();
    if plain.len() > 253 || !labels.iter().copied().all(is_label) {
        return Err(format!("`{}` is no domain name", name.escape_debug()));
    }
    match labels.as_slice() {
        [.., "in-addr", "arpa"] | [.., "ip6", "arpa"] => {
            reverse_zone(&plain, &labels, routes, exceptions)?
        }
        ["localhost"] | [.., "arpa"] => {
            return Err(format!("`{plain}` is reserved for the system"));
        }
        _ if exceptions.allow_domain(&plain) => {}
        [top] if is_public_tld(top) => {
            return Err(format!(
                "`{plain}` is a top-level domain of the public DNS; use the names' longer forms"
            ));
        }
        [_, top] if is_public_tld(top) => {
            return Err(format!("`{plain}` is a domain of the public DNS"));
        }
        [_, second, top]
            if top.len() == 2 && is_public_tld(top) && REGISTRY_LABELS.contains(second) =>
        {
            return Err(format!("`{plain}` is a domain of the public DNS"));
        }
        _ => {}
    }
    Ok(plain)
}

fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(plain)
}

/// A reverse zone belongs to a range that is routed, and is no wider than a route may be.
fn reverse_zone(
    plain: &str,
    labels: &[&str],
    routes: &[IpNetwork],
    exceptions: &Exceptions,
) -> Result<(), String> {
    let zone = zone_range(labels).ok_or_else(|| format!("`{plain}` is no reverse zone"))?;
    limits(zone, exceptions)?;
    if !routes.iter().any(|route| overlaps(route, &zone)) {
        return Err(format!(
            "`{plain}` is the reverse zone of {zone}, of which nothing is routed"
        ));
    }
    Ok(())
}

/// `96.10.in-addr.arpa` is 10.96.0.0/16; `0.8.b.f.ip6.arpa` is fb80::/16.
fn zone_range(labels: &[&str]) -> Option<IpNetwork> {
    let (digits, family) = labels.split_at(labels.len().checked_sub(2)?);
    if family[0] == "in-addr" {
        let mut octets = [0; 4];
        for (octet, label) in octets.iter_mut().zip(digits.iter().rev()) {
            *octet = label.parse().ok()?;
        }
        let prefix = u8::try_from(digits.len()).ok()?.checked_mul(8)?;
        return IpNetwork::new(IpAddr::from(octets), prefix).ok();
    }
    let mut octets = [0u8; 16];
    for (place, label) in digits.iter().rev().enumerate() {
        let nibble = u8::from_str_radix(label, 16)
            .ok()
            .filter(|_| label.len() == 1)?;
        *octets.get_mut(place / 2)? |= if place % 2 == 0 { nibble << 4 } else { nibble };
    }
    let prefix = u8::try_from(digits.len()).ok()?.checked_mul(4)?;
    IpNetwork::new(IpAddr::from(octets), prefix).ok()
}
