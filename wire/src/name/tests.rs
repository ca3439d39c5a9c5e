//! Names by example, and no text that panics.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> DnsName {
    text.parse().unwrap()
}

#[test]
fn labels_are_rfc_1123s() {
    for good in ["a", "web-1", "0", "x1", &"a".repeat(63)] {
        assert_eq!(
            good.parse::<Namespace>().map(String::from).as_deref(),
            Ok(good)
        );
    }
    for (bad, why) in [
        ("", BadName::Empty),
        ("-a", BadName::Character),
        ("a-", BadName::Character),
        ("A", BadName::Character),
        ("a.b", BadName::Character),
        ("a_b", BadName::Character),
        ("ü", BadName::Character),
        (&"a".repeat(64), BadName::TooLong),
    ] {
        assert_eq!(bad.parse::<ServiceName>(), Err(why), "{bad}");
    }
}

#[test]
fn names_are_lower_case_without_the_last_dot() {
    assert_eq!(
        name("Web.Default.svc.Cluster.LOCAL.").as_str(),
        "web.default.svc.cluster.local"
    );
    for bad in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a b",
        "ä.de",
        &"a.".repeat(128),
        &format!("{}.b", "a".repeat(64)),
    ] {
        assert!(bad.parse::<DnsName>().is_err(), "{bad}");
    }
}

#[test]
fn suffixes_match_whole_labels() {
    let zone = name("example.com");
    assert!(zone.is_within(&zone) && name("a.b.example.com").is_within(&zone));
    assert!(!name("notexample.com").is_within(&zone) && !name("com").is_within(&zone));
    assert_eq!(
        name("_http._tcp.example.com").prefix_of(&zone),
        Some("_http._tcp")
    );
    assert_eq!(zone.prefix_of(&zone), None);
    assert_eq!(name("a").within(&zone), Ok(name("a.example.com")));
}

#[test]
fn the_cluster_domain_is_read_from_a_search_list() {
    let domain = |search: &[&str]| {
        ClusterDomain::from_search_list(search.iter().copied()).map(|d| d.to_string())
    };
    let search = [
        "team-a.svc.corp.example",
        "svc.corp.example",
        "corp.example",
        "lan",
    ];
    assert_eq!(domain(&search).as_deref(), Some("corp.example"));
    assert_eq!(domain(&search[1..]).as_deref(), Some("corp.example"));
    assert_eq!(domain(&search[2..]), None);
    assert_eq!(ClusterDomain::default().to_string(), "cluster.local");
}

#[test]
fn the_list_of_top_level_domains_is_sorted_and_whole() {
    let tlds: Vec<&str> = PUBLIC_TLDS.lines().collect();
    assert!(tlds.is_sorted() && tlds.len() > 1200);
    assert!(tlds.iter().all(|tld| label::check(tld).is_ok()));
}

#[test]
fn namespaces_that_would_hijack_a_public_domain_are_known() {
    for public in [
        "com", "dev", "APP", "io", "ci", "qa", "de", "arpa", "xn--p1ai",
    ] {
        assert!(is_public_tld(public), "{public}");
    }
    for free in [
        "default",
        "kube-system",
        "staging",
        "test",
        "db",
        "local",
        "",
    ] {
        assert!(!is_public_tld(free), "{free}");
    }
    assert!(is_special_use("Local") && !is_special_use("default"));
}

#[test]
fn reverse_names_go_both_ways() {
    let v4: IpAddr = "10.96.0.10".parse().unwrap();
    let v6: IpAddr = "fd00::1:2".parse().unwrap();
    assert_eq!(reverse_name(v4).as_str(), "10.0.96.10.in-addr.arpa");
    assert!(reverse_name(v6).as_str().starts_with("2.0.0.0.1.0."));
    for address in [v4, v6] {
        assert_eq!(parse_reverse(&reverse_name(address)), Some(address));
    }
    for bad in [
        "96.10.in-addr.arpa",
        "1.2.3.4.5.in-addr.arpa",
        "01.0.0.10.in-addr.arpa",
        "a.ip6.arpa",
        "example.com",
    ] {
        assert_eq!(parse_reverse(&name(bad)), None, "{bad}");
    }
}

#[test]
fn reverse_zones_cover_exactly_the_range() {
    let zones = |range: &str| -> Vec<String> {
        reverse_zones(range.parse().unwrap())
            .into_iter()
            .map(String::from)
            .collect()
    };
    assert_eq!(zones("10.0.0.0/8"), ["10.in-addr.arpa"]);
    assert_eq!(
        zones("10.96.0.0/15"),
        ["96.10.in-addr.arpa", "97.10.in-addr.arpa"]
    );
    assert_eq!(zones("10.96.0.0/12").len(), 16);
    assert_eq!(zones("10.0.0.128/25").len(), 128);
    assert_eq!(zones("fd00::/8"), ["d.f.ip6.arpa"]);
    assert_eq!(zones("fd00::/7"), ["c.f.ip6.arpa", "d.f.ip6.arpa"]);
    assert!(zones("0.0.0.0/0").is_empty() && zones("::/0").is_empty());
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,300}") {
        drop(text.parse::<Namespace>());
        is_public_tld(&text);
        if let Ok(name) = text.parse::<DnsName>() {
            prop_assert_eq!(name.as_str().parse(), Ok(name.clone()));
            prop_assert!(name.label_count() > 0);
            parse_reverse(&name);
        }
    }

    #[test]
    fn every_address_has_a_reverse_name(bits in any::<u128>()) {
        let address = IpAddr::from(bits.to_be_bytes());
        prop_assert_eq!(parse_reverse(&reverse_name(address)), Some(address));
    }
}
