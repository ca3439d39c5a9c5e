//! What a hostile agent may not have, and what an honest one gets.

#![expect(
    clippy::unwrap_in_result,
    reason = "a test may unwrap, and these return what they judge"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proptest::prelude::*;

use kvpn_wire::range::overlaps;

use super::ranges::covers;
use super::{Surroundings, addresses, dns, interface_name, mtu, route};
use crate::helper::exceptions::Exceptions;
use crate::helper::protocol::DnsConfig;
use crate::os::{Address, Route, Snapshot};

const OWN: u32 = 9;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().copied().map(net).collect()
}

/// A laptop on 192.168.1.0/24 by Wi-Fi, with a VPN to 10.0.0.0/16, another by a table of its own, and a bridge.
fn laptop() -> Snapshot {
    let links = [
        (1, "lo"),
        (2, "wlan0"),
        (3, "wg0"),
        (4, "docker0"),
        (OWN, "kvpn0"),
        (10, "kvpn1"),
    ];
    let addresses = [
        (1, "127.0.0.1/8"),
        (2, "192.168.1.20/24"),
        (3, "10.0.9.9/32"),
        (4, "172.17.0.1/16"),
        (OWN, "198.19.0.2/30"),
    ];
    let route = |destination, link, gateway: Option<&str>, in_main_table| Route {
        destination: net(destination),
        link: Some(link),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        in_main_table,
    };
    Snapshot {
        links: BTreeMap::from(links.map(|(index, name)| (index, name.to_owned()))),
        addresses: addresses
            .map(|(link, address)| Address {
                link,
                address: net(address),
            })
            .to_vec(),
        routes: vec![
            route("0.0.0.0/0", 2, Some("192.168.1.1"), true),
            route("192.168.1.0/24", 2, None, true),
            route("172.17.0.0/16", 4, None, true),
            route("10.0.0.0/16", 3, None, true),
            route("100.64.0.0/10", 3, None, false),
            route("198.19.0.0/30", OWN, None, true),
            route("10.96.0.0/12", OWN, None, true),
            route("10.128.0.0/12", 10, None, true),
        ],
        neighbours: vec![
            "192.168.1.30".parse().unwrap(),
            "172.17.0.5".parse().unwrap(),
        ],
    }
}

fn judge(range: &str) -> Result<Vec<String>, String> {
    let snapshot = laptop();
    let resolvers: [IpAddr; 2] = ["192.168.1.1".parse().unwrap(), "10.55.0.2".parse().unwrap()];
    route(
        net(range),
        &Surroundings {
            snapshot: &snapshot,
            own_link: Some(OWN),
            resolvers: &resolvers,
            exceptions: &Exceptions::default(),
        },
    )
}

#[test]
fn cluster_ranges_are_taken() {
    for range in [
        "10.96.0.0/12",
        "10.244.0.0/16",
        "172.20.0.0/16",
        "fd00:10:244::/56",
        "203.0.0.0/16",
        "2001:db8::/32",
    ] {
        assert_eq!(judge(range), Ok(Vec::new()), "{range}");
    }
}

#[test]
fn what_is_never_a_cluster_is_refused() {
    for range in [
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0/1",
        "128.0.0.0/1",
        "127.0.0.0/8",
        "127.0.0.53/32",
        "169.254.169.254/32",
        "168.0.0.0/6",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "255.255.255.255/32",
        "0.0.0.0/8",
        "::1/128",
        "::/128",
        "fe80::/64",
        "ff02::1/128",
        "::ffff:10.0.0.0/104",
        "64:ff9b::/96",
        "2002::/16",
        "::10.0.0.1/128",
    ] {
        let refusal = judge(range).unwrap_err();
        assert!(refusal.contains("never"), "{range}: {refusal}");
    }
}

#[test]
fn too_wide_ranges_are_refused() {
    for range in [
        "8.0.0.0/7",
        "fc00::/7",
        "8.8.0.0/15",
        "1.0.0.0/8",
        "2001::/16",
        "2a00::/31",
        "10.0.0.0/7",
        "172.0.0.0/8",
    ] {
        let refusal = judge(range).unwrap_err();
        assert!(refusal.contains("too wide"), "{range}: {refusal}");
    }
    assert!(
        judge("10.0.0.0/8").unwrap_err().contains("10.55.0.2"),
        "the resolver behind the default route"
    );
}

#[test]
fn the_machines_own_subnet_stays_its_own_but_single_pods_in_it_can_be_reached() {
    let refusal = judge("192.168.1.0/24").unwrap_err();
    assert!(
        refusal.contains("wlan0") && refusal.contains("--exclude"),
        "{refusal}"
    );
    assert!(judge("192.168.1.128/25").unwrap_err().contains("wlan0"));
    for free in ["192.168.1.77/32", "172.17.0.6/32", "10.0.7.7/32"] {
        assert!(judge(free).is_ok(), "{free}");
    }
    for needed in [
        "192.168.1.20/32",
        "192.168.1.1/32",
        "192.168.1.0/32",
        "192.168.1.255/32",
        // Neighbours that the kernel knows, on the LAN and on a bridge; its own address on a VPN; its resolver behind one.
        "192.168.1.30/32",
        "172.17.0.5/32",
        "10.0.9.9/32",
        "10.55.0.2/32",
    ] {
        assert!(judge(needed).is_err(), "{needed}");
    }
    assert!(judge("192.168.0.0/16").unwrap()[0].contains("stays with wlan0"));
}

#[test]
fn an_identical_route_names_its_interface_and_an_overlap_is_told() {
    let refusal = judge("10.0.0.0/16").unwrap_err();
    assert!(refusal.contains("wg0"), "{refusal}");
    let notes = judge("10.0.128.0/17").unwrap();
    assert_eq!(
        notes,
        ["10.0.128.0/17 is taken out of 10.0.0.0/16, which goes through wg0"]
    );
    let notes = judge("100.64.0.0/12").unwrap();
    assert!(
        notes[0].contains("a routing table that may be asked before"),
        "{notes:?}"
    );
}

#[test]
fn a_range_that_this_or_another_session_has_is_no_conflict() {
    assert_eq!(judge("10.96.0.0/12"), Ok(Vec::new()));
    assert_eq!(judge("10.128.0.0/12"), Ok(Vec::new()));
}

#[test]
fn tunnel_addresses_are_kvpns_own_and_free() {
    let snapshot = laptop();
    let around = Surroundings {
        snapshot: &snapshot,
        own_link: None,
        resolvers: &[],
        exceptions: &Exceptions::default(),
    };
    assert!(addresses(&nets(&["198.19.4.2/30", "fd6b:7670:6e00::6/126"]), &around).is_ok());
    for wrong in [
        &["10.0.0.2/30"][..],
        &["198.18.0.2/30"],
        &["198.19.0.2/15"],
        &["fd6b::2/126"],
        &[],
        &["198.19.4.2/30", "198.19.8.2/30"],
        &["198.19.0.2/30"],
    ] {
        assert!(addresses(&nets(wrong), &around).is_err(), "{wrong:?}");
    }
}

#[test]
fn interface_names_are_plain() {
    for good in ["kvpn0", "kvpn-dev.1", "a", "abcdefghijklmno"] {
        assert!(interface_name(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        ".",
        "..",
        "-x",
        "a/b",
        "kvpn%d",
        "a b",
        "abcdefghijklmnop",
        "ä",
        "a\0",
    ] {
        assert!(interface_name(bad).is_err(), "{bad:?}");
    }
    assert!(mtu(1280).is_ok() && mtu(1279).is_err());
}

fn judge_domain(name: &str) -> Result<Vec<String>, Vec<String>> {
    let config = DnsConfig {
        servers: vec!["198.19.0.3".parse().unwrap()],
        search: Vec::new(),
        routing: vec![name.to_owned()],
    };
    let routes = nets(&["10.96.0.0/12", "fd00:10:96::/108"]);
    let (accepted, refused) = dns(
        config,
        &nets(&["198.19.0.2/30"]),
        &routes,
        &Exceptions::default(),
    )
    .unwrap();
    if refused.is_empty() {
        Ok(accepted.routing)
    } else {
        Err(refused)
    }
}

#[test]
fn cluster_domains_are_taken_in_one_form() {
    for (given, taken) in [
        ("cluster.local", "cluster.local"),
        ("~svc", "svc"),
        ("Shop-A.", "shop-a"),
        ("k8s.example.com", "k8s.example.com"),
        ("96.10.in-addr.arpa", "96.10.in-addr.arpa"),
        ("5.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa", ""),
        (
            "6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa",
            "6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa",
        ),
        ("a_b-c", "a_b-c"),
    ] {
        match taken {
            "" => assert!(judge_domain(given).is_err(), "{given}"),
            _ => assert_eq!(judge_domain(given), Ok(vec![taken.to_owned()]), "{given}"),
        }
    }
}

#[test]
fn public_names_and_the_root_are_refused() {
    for name in [
        ".",
        "~.",
        "",
        "com",
        "~dev",
        "app",
        "example.com",
        "bbc.co.uk",
        "co.uk",
        "arpa",
        "in-addr.arpa",
        "127.in-addr.arpa",
        "254.169.in-addr.arpa",
        "8.8.in-addr.arpa",
        "11.in-addr.arpa",
        "ip6.arpa",
        "localhost",
        "a..b",
        "a b",
        "x.in-addr.arpa",
        "1.2.3.4.5.in-addr.arpa",
        "ff.ip6.arpa",
        "a\nnameserver 1.2.3.4",
    ] {
        assert!(judge_domain(name).is_err(), "{name:?}");
    }
}

#[test]
fn the_server_is_the_sessions_own_stub() {
    let config = |server: &str| DnsConfig {
        servers: vec![server.parse().unwrap()],
        ..DnsConfig::default()
    };
    let own = nets(&["198.19.0.2/30"]);
    assert!(dns(config("198.19.0.3"), &own, &[], &Exceptions::default()).is_ok());
    for other in ["198.19.0.2", "198.19.0.4", "8.8.8.8", "127.0.0.1"] {
        assert!(
            dns(config(other), &own, &[], &Exceptions::default()).is_err(),
            "{other}"
        );
    }
    assert!(dns(DnsConfig::default(), &own, &[], &Exceptions::default()).is_err());
    let many = DnsConfig {
        search: vec!["a".to_owned(); 2000],
        ..config("198.19.0.3")
    };
    assert!(dns(many, &own, &[], &Exceptions::default()).is_err());
}

proptest! {
    #[test]
    fn no_accepted_range_touches_what_the_machine_lives_on(octets: [u8; 4], prefix in 0u8..=32) {
        let range = super::network(IpNetwork::new(IpAddr::from(octets), prefix).unwrap());
        if judge(&range.to_string()).is_ok() {
            prop_assert!(range.prefix() >= 8);
            for never in ["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "0.0.0.0/8", "192.168.1.1/32", "192.168.1.20/32", "192.168.1.30/32"] {
                // A wider range may hold the subnet, which has the longer prefix.
                prop_assert!(!overlaps(&net(never), &range) || covers(range, net("192.168.1.0/24")), "{}", range);
            }
        }
    }

    #[test]
    fn no_domain_text_gets_through_that_resolv_conf_would_read_otherwise(name in ".{0,80}") {
        if let Ok(accepted) = judge_domain(&name) {
            for domain in accepted {
                prop_assert!(!domain.contains(|c: char| c.is_whitespace() || c == '#' || c == ';'));
            }
        }
    }
}
