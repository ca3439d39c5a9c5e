//! Every form of DESIGN.md (Names), and those that must stay foreign.

use super::*;

fn scope() -> Scope {
    Scope::new(&names())
}

fn names() -> Names {
    Names {
        namespace: "orders".to_owned(),
        domain: "cluster.local".to_owned(),
        namespaces: ["default", "kube-system", "dev", "local"]
            .map(str::to_owned)
            .to_vec(),
        own_domain: Some("eu-orders.kvpn.internal".to_owned()),
        reverse: vec![
            "10.96.0.0/12".parse().unwrap(),
            "fd00:10:96::/112".parse().unwrap(),
        ],
    }
}

fn means(asked: &str, record_type: RecordType) -> Option<String> {
    match scope().meaning(&Name::from_ascii(asked).unwrap(), record_type) {
        Meaning::Cluster(name) => Some(name.to_ascii()),
        Meaning::Foreign => None,
    }
}

#[track_caller]
fn cluster_name(asked: &str, expected: &str) {
    assert_eq!(
        means(asked, RecordType::A).as_deref(),
        Some(expected),
        "{asked}"
    );
}

#[track_caller]
fn foreign(asked: &str) {
    assert_eq!(means(asked, RecordType::A), None, "{asked}");
}

#[test]
fn every_form_becomes_absolute() {
    cluster_name("web", "web.orders.svc.cluster.local.");
    cluster_name("web.", "web.orders.svc.cluster.local.");
    cluster_name("web.default", "web.default.svc.cluster.local.");
    cluster_name("web.default.svc", "web.default.svc.cluster.local.");
    cluster_name(
        "web.default.svc.cluster.local",
        "web.default.svc.cluster.local.",
    );
    cluster_name("db-0.db.default", "db-0.db.default.svc.cluster.local.");
    cluster_name("db-0.db.default.svc", "db-0.db.default.svc.cluster.local.");
    cluster_name("1-2-3-4.default.pod", "1-2-3-4.default.pod.cluster.local.");
    cluster_name(
        "1-2-3-4.default.pod.cluster.local",
        "1-2-3-4.default.pod.cluster.local.",
    );
    cluster_name("_http._tcp.web", "_http._tcp.web.orders.svc.cluster.local.");
    cluster_name(
        "_http._tcp.web.default",
        "_http._tcp.web.default.svc.cluster.local.",
    );
    cluster_name(
        "_http._tcp.web.default.svc",
        "_http._tcp.web.default.svc.cluster.local.",
    );
}

#[test]
fn a_namespace_unknown_so_far_works_with_svc() {
    cluster_name("web.new.svc", "web.new.svc.cluster.local.");
    foreign("web.new");
}

#[test]
fn the_connected_namespace_is_known_without_being_listed() {
    cluster_name("web.orders", "web.orders.svc.cluster.local.");
}

#[test]
fn what_a_search_list_makes_is_asked_as_it_is() {
    cluster_name(
        "web.other.orders.svc.cluster.local",
        "web.other.orders.svc.cluster.local.",
    );
    cluster_name(
        "web.orders.svc.cluster.local.svc.cluster.local",
        "web.orders.svc.cluster.local.svc.cluster.local.",
    );
    cluster_name(
        "www.example.com.orders.svc.cluster.local",
        "www.example.com.orders.svc.cluster.local.",
    );
    cluster_name("cluster.local", "cluster.local.");
}

#[test]
fn case_is_kept_and_does_not_matter() {
    cluster_name("WeB.DeFaUlT", "WeB.DeFaUlT.svc.cluster.local.");
    cluster_name(
        "wEb.default.SVC.Cluster.LOCAL",
        "wEb.default.SVC.Cluster.LOCAL.",
    );
}

#[test]
fn public_and_special_names_are_foreign() {
    foreign("example.com");
    foreign("printer.local");
    foreign("foo.dev");
    foreign("localhost");
    foreign("web.default.example.com");
    foreign(".");
    foreign("_spf._x.com");
}

#[test]
fn a_namespace_named_like_a_public_domain_works_with_svc() {
    cluster_name("web.dev.svc", "web.dev.svc.cluster.local.");
}

#[test]
fn questions_about_top_level_zones_are_foreign() {
    assert_eq!(means("com", RecordType::NS), None);
    assert_eq!(means("com", RecordType::DS), None);
}

#[test]
fn reverse_names_of_cluster_ranges() {
    cluster_name("1.0.96.10.in-addr.arpa.", "1.0.96.10.in-addr.arpa.");
    cluster_name("1.0.111.10.in-addr.arpa", "1.0.111.10.in-addr.arpa.");
    foreign("1.0.112.10.in-addr.arpa.");
    foreign("10.in-addr.arpa.");
    foreign("x.in-addr.arpa.");
    let v6 = Name::from("fd00:10:96::a".parse::<IpAddr>().unwrap()).to_ascii();
    cluster_name(&v6, &v6);
}

#[test]
fn a_name_too_long_to_expand_is_foreign() {
    let label = "a".repeat(60);
    foreign(&format!("{label}.{label}.{label}.{label}.default"));
}

#[test]
fn routing_domains_hold_everything_but_public_ones() {
    let domains = names().routing_domains();
    for domain in [
        "cluster.local",
        "svc",
        "pod",
        "default",
        "kube-system",
        "orders",
        "96.10.in-addr.arpa",
        "111.10.in-addr.arpa",
    ] {
        assert!(
            domains.iter().any(|d| d == domain),
            "{domain} in {domains:?}"
        );
    }
    for domain in ["dev", "local", "112.10.in-addr.arpa"] {
        assert!(
            !domains.iter().any(|d| d == domain),
            "{domain} in {domains:?}"
        );
    }
    assert!(
        domains.contains(
            &"0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa".to_owned()
        ),
        "{domains:?}"
    );
}

#[test]
fn below_its_own_domain_a_session_answers_every_form() {
    for (form, expected) in [
        ("web", "web.orders.svc.cluster.local."),
        ("web.default", "web.default.svc.cluster.local."),
        // Also namespaces that are not known, or public domains.
        ("web.hidden", "web.hidden.svc.cluster.local."),
        ("web.dev", "web.dev.svc.cluster.local."),
        ("web.default.svc", "web.default.svc.cluster.local."),
        ("db-0.db.default", "db-0.db.default.svc.cluster.local."),
        ("1-2-3-4.default.pod", "1-2-3-4.default.pod.cluster.local."),
        (
            "web.default.svc.cluster.local",
            "web.default.svc.cluster.local.",
        ),
        ("_http._tcp.web", "_http._tcp.web.orders.svc.cluster.local."),
        (
            "_http._tcp.web.default",
            "_http._tcp.web.default.svc.cluster.local.",
        ),
    ] {
        cluster_name(&format!("{form}.EU-orders.kvpn.internal"), expected);
    }
    for other in [
        "eu-orders.kvpn.internal",
        "web.us-orders.kvpn.internal",
        "kvpn.internal",
        "_http._tcp.eu-orders.kvpn.internal",
    ] {
        foreign(other);
    }
    assert!(
        names()
            .routing_domains()
            .contains(&"eu-orders.kvpn.internal".to_owned())
    );
}
