//! What is routed, what stays outside, what appears elsewhere.

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
