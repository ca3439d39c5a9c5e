//! Which names are the cluster's, and what the system's resolver is told about them.
//!
//! Pure: takes what was found out and makes the core's [`Names`] and the helper's [`DnsConfig`] of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kvpn_client_core::Names;
use kvpn_wire::control::SessionGrant;
use kvpn_wire::name::is_public_tld;

use crate::agent::places::SessionName;
use crate::helper::DnsConfig;

/// The domain of nearly every cluster, for those that do not say.
const USUAL_DOMAIN: &str = "cluster.local";
/// Below it each session has a domain of its own.
const OWN_DOMAINS: &str = "kvpn.internal";
/// Most zones that one range becomes: 7 bits between two octets.
const MAX_ZONES: u32 = 128;
/// Most domains that the helper is asked to route; it takes no more than 1024.
const MAX_DOMAINS: usize = 1000;

/// The cluster's domain, from the search list of a pod: `NAMESPACE.svc.DOMAIN svc.DOMAIN DOMAIN`.
pub(crate) fn domain(search: &[String]) -> String {
    let after_svc = search.iter().filter_map(|entry| {
        let entry = entry.trim_end_matches('.');
        entry
            .strip_prefix("svc.")
            .or_else(|| entry.split_once(".svc.").map(|(_, domain)| domain))
    });
    after_svc
        .into_iter()
        .find(|domain| !domain.is_empty())
        .unwrap_or(USUAL_DOMAIN)
        .to_ascii_lowercase()
}

/// The names of a cluster of which nothing is known but what the gateway granted and which namespaces there are; without ranges
/// for PTR.
pub(crate) fn known(
    connected: &str,
    grant: &SessionGrant,
    visible: Option<&[String]>,
    wanted: &[String],
) -> Names {
    Names {
        namespace: connected.to_owned(),
        domain: domain(&grant.cluster.search),
        namespaces: namespaces(connected, visible, wanted),
        own_domain: None,
        reverse: Vec::new(),
    }
}

/// A domain that this session alone answers, whatever names other clusters have; `.internal` is nobody's in the public DNS (ICANN
/// Board resolution 2024.07.29.06). `others` are taken.
pub(crate) fn own_domain(session: &SessionName, others: &[String]) -> String {
    let tame = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let label: String = session.as_str().chars().map(tame).collect();
    let label = match label.trim_matches('-') {
        "" => "session",
        label => label,
    };
    let numbered = (2..).map(|number| format!("{label}-{number}.{OWN_DOMAINS}"));
    std::iter::once(format!("{label}.{OWN_DOMAINS}"))
        .chain(numbered)
        .find(|domain| !others.contains(domain))
        .expect("the numbers do not end")
}

/// Every namespace that is known, the connected one first.
pub(crate) fn namespaces(
    connected: &str,
    visible: Option<&[String]>,
    wanted: &[String],
) -> Vec<String> {
    let others: BTreeSet<&String> = visible.unwrap_or_default().iter().chain(wanted).collect();
    let others = others
        .into_iter()
        .filter(|namespace| *namespace != connected)
        .cloned();
    std::iter::once(connected.to_owned())
        .chain(others)
        .collect()
}

/// What the system's resolver is told: where to ask, in which domain to look short names up, which domains to
/// send. A namespace that is a public top-level domain too (`dev`, `app`) is not sent: its names would hide the
/// public ones.
pub(crate) fn dns_config(servers: Vec<IpAddr>, names: &Names) -> DnsConfig {
    let search = vec![format!("{}.svc.{}", names.namespace, names.domain)];
    let fixed = [names.domain.clone(), "svc".to_owned(), "pod".to_owned()];
    let fixed = fixed.into_iter().chain(names.own_domain.clone());
    let zones = names.reverse.iter().flat_map(|range| reverse_zones(*range));
    let namespaces = names
        .namespaces
        .iter()
        .filter(|namespace| !is_public_tld(namespace))
        .cloned();
    let mut seen = BTreeSet::new();
    let routing = fixed
        .chain(zones)
        .chain(namespaces)
        .filter(|domain| seen.insert(domain.clone()));
    DnsConfig {
        servers,
        search,
        routing: routing.take(MAX_DOMAINS).collect(),
    }
}

/// Namespaces whose `SERVICE.NAMESPACE` cannot be routed, because the namespace is a public top-level domain too.
pub(crate) fn hidden_namespaces(names: &Names) -> Vec<&str> {
    names
        .namespaces
        .iter()
        .map(String::as_str)
        .filter(|namespace| is_public_tld(namespace))
        .collect()
}

/// The reverse zones of a range, at octet (IPv4) or nibble (IPv6) boundaries. None for ranges below a /24 or a
/// /124: the zone would take names of strangers along.
fn reverse_zones(range: IpNetwork) -> Vec<String> {
    match range {
        IpNetwork::V4(range) => {
            let Some(octets) = (1..=3_u8).find(|octets| range.prefix() <= octets * 8) else {
                return Vec::new();
            };
            let step = 1_u32 << (32 - u32::from(octets) * 8);
            let zone = |n: u32| Ipv4Addr::from(u32::from(range.network()).wrapping_add(n * step));
            (0..count(octets * 8, range.prefix()))
                .map(|n| zone_v4(zone(n), octets))
                .collect()
        }
        IpNetwork::V6(range) => {
            let Some(nibbles) = (1..=31_u8).find(|nibbles| range.prefix() <= nibbles * 4) else {
                return Vec::new();
            };
            let step = 1_u128 << (128 - u32::from(nibbles) * 4);
            let zone = |n: u32| {
                Ipv6Addr::from(u128::from(range.network()).wrapping_add(u128::from(n) * step))
            };
            (0..count(nibbles * 4, range.prefix()))
                .map(|n| zone_v6(zone(n), nibbles))
                .collect()
        }
    }
}

fn count(zone_bits: u8, prefix: u8) -> u32 {
    1_u32
        .checked_shl(u32::from(zone_bits.saturating_sub(prefix)))
        .unwrap_or(MAX_ZONES)
        .min(MAX_ZONES)
}

/// RFC 1035, section 3.5.
fn zone_v4(address: Ipv4Addr, octets: u8) -> String {
    let labels: Vec<String> = address.octets()[..usize::from(octets)]
        .iter()
        .rev()
        .map(u8::to_string)
        .collect();
    format!("{}.in-addr.arpa", labels.join("."))
}

/// RFC 3596, section 2.5.
fn zone_v6(address: Ipv6Addr, nibbles: u8) -> String {
    let all = address
        .octets()
        .into_iter()
        .flat_map(|byte| [byte >> 4, byte & 15]);
    let kept: Vec<u8> = all.take(usize::from(nibbles)).collect();
    let labels: Vec<String> = kept
        .iter()
        .rev()
        .map(|nibble| format!("{nibble:x}"))
        .collect();
    format!("{}.ip6.arpa", labels.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(namespaces: &[&str], reverse: &[&str]) -> Names {
        Names {
            namespace: namespaces[0].into(),
            domain: "cluster.local".into(),
            namespaces: namespaces
                .iter()
                .map(|namespace| (*namespace).to_owned())
                .collect(),
            own_domain: None,
            reverse: reverse.iter().map(|range| range.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn the_domain_is_read_from_a_pods_search_list() {
        let search = |list: &[&str]| {
            list.iter()
                .map(|entry| (*entry).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            domain(&search(&[
                "kvpn.svc.corp.example",
                "svc.corp.example",
                "corp.example",
                "lan"
            ])),
            "corp.example"
        );
        assert_eq!(domain(&search(&["lan", "svc.k8s.test."])), "k8s.test");
        assert_eq!(domain(&[]), "cluster.local");
    }

    #[test]
    fn the_connected_namespace_comes_first_and_once() {
        let visible = ["b".to_owned(), "shop".to_owned()];
        assert_eq!(
            namespaces("shop", Some(&visible), &["a".to_owned()]),
            ["shop", "a", "b"]
        );
        assert_eq!(namespaces("shop", None, &[]), ["shop"]);
    }

    #[test]
    fn a_namespace_that_is_a_public_domain_is_not_routed() {
        let config = dns_config(vec![], &names(&["payments", "dev"], &[]));
        assert_eq!(config.search, ["payments.svc.cluster.local"]);
        assert_eq!(config.routing, ["cluster.local", "svc", "pod", "payments"]);
        assert_eq!(
            hidden_namespaces(&names(&["payments", "dev"], &[])),
            ["dev"]
        );
    }

    #[test]
    fn reverse_zones_lie_on_label_boundaries() {
        let zones = |range: &str| reverse_zones(range.parse().unwrap());
        assert_eq!(zones("10.96.0.0/16"), ["96.10.in-addr.arpa"]);
        assert_eq!(
            zones("10.244.0.0/23"),
            ["0.244.10.in-addr.arpa", "1.244.10.in-addr.arpa"]
        );
        assert_eq!(zones("10.96.0.0/12").len(), 16);
        assert_eq!(zones("10.0.0.0/8"), ["10.in-addr.arpa"]);
        assert!(zones("10.0.0.1/32").is_empty());
        assert_eq!(
            zones("fd00:10:96::/112"),
            ["0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa"]
        );
        assert_eq!(zones("fd00::/15").len(), 2);
    }

    #[test]
    fn each_session_has_a_domain_of_its_own() {
        let domain =
            |session: &str, others: &[String]| own_domain(&session.parse().unwrap(), others);
        let first = domain("kind-EU.default", &[]);
        assert_eq!(first, "kind-eu-default.kvpn.internal");
        let second = domain("kind-eu_default", std::slice::from_ref(&first));
        assert_eq!(second, "kind-eu-default-2.kvpn.internal");
        assert_eq!(domain("_", &[]), "session.kvpn.internal");
        let names = Names {
            own_domain: Some(first.clone()),
            ..names(&["payments"], &[])
        };
        assert!(dns_config(Vec::new(), &names).routing.contains(&first));
    }
}
