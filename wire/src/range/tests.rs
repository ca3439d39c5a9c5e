//! Set arithmetic beside membership, address by address; special addresses by example.

use proptest::prelude::*;

use super::*;

fn nets(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn neighbours_are_joined_and_duplicates_go() {
    let got = aggregate(nets(&[
        "fd00::1/128",
        "10.0.1.0/24",
        "10.0.0.0/24",
        "10.0.0.7/32",
        "fd00::/128",
    ]));
    assert_eq!(got, nets(&["10.0.0.0/23", "fd00::/127"]));
}

#[test]
fn host_bits_do_not_matter() {
    assert_eq!(aggregate(nets(&["10.1.2.3/8"])), nets(&["10.0.0.0/8"]));
}

#[test]
fn a_hole_splits_a_range() {
    let got = subtract(&nets(&["10.0.0.0/30"]), &nets(&["10.0.0.1/32"]));
    assert_eq!(got, nets(&["10.0.0.0/32", "10.0.0.2/31"]));
}

#[test]
fn everything_can_be_held() {
    let all = nets(&["0.0.0.0/0", "::/0"]);
    assert_eq!(aggregate(all.clone()), all);
    assert_eq!(subtract(&all, &all), []);
    let without_last = subtract(
        &all,
        &nets(&[
            "255.255.255.255/32",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
        ]),
    );
    assert_eq!(without_last.len(), 32 + 128);
}

#[test]
fn overlap_is_symmetric() {
    let [a, b, c] = nets(&["10.0.0.0/8", "10.96.0.0/12", "11.0.0.0/8"])
        .try_into()
        .unwrap();
    assert!(overlaps(&a, &b) && overlaps(&b, &a) && !overlaps(&b, &c));
    assert!(any_overlap(&[c, a], &[b]));
    assert_eq!(intersect(&[a], &[b, c]), [b]);
}

#[test]
fn forbidden_destinations() {
    for text in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",
        "169.254.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "100.100.100.200",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "fd00:ec2::254",
        "fd20:ce::254",
    ] {
        assert!(is_forbidden_destination(text.parse().unwrap()), "{text}");
    }
    for text in [
        "10.96.0.1",
        "1.1.1.1",
        "240.0.0.1",
        "100.64.0.1",
        "fd00::1",
        "2001:db8::1",
        "64:ff9b::101:101",
        "::ffff:10.0.0.1",
    ] {
        assert!(!is_forbidden_destination(text.parse().unwrap()), "{text}");
    }
}

#[test]
fn private_addresses() {
    for text in [
        "10.1.1.1",
        "172.31.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "fd00::1",
        "::ffff:10.0.0.1",
    ] {
        assert!(is_private(text.parse().unwrap()), "{text}");
    }
    for text in [
        "172.32.0.1",
        "100.128.0.1",
        "8.8.8.8",
        "2001:db8::1",
        "198.19.0.1",
        "127.0.0.1",
    ] {
        assert!(!is_private(text.parse().unwrap()), "{text}");
    }
}

#[test]
fn tunnel_addresses() {
    for text in ["198.19.255.254", "fd6b:7670:6eff::1", "::ffff:198.19.0.1"] {
        assert!(is_tunnel(text.parse().unwrap()), "{text}");
    }
    assert!(
        !is_tunnel("198.18.0.1".parse().unwrap())
            && !is_tunnel("fd6b:7670:6f00::1".parse().unwrap())
    );
}

/// Ranges within 10.0.0.0/24, so that every address can be asked for.
fn small() -> impl Strategy<Value = Vec<IpNetwork>> {
    let net = (any::<u8>(), 24u8..=32)
        .prop_map(|(last, prefix)| IpNetwork::new(IpAddr::from([10, 0, 0, last]), prefix).unwrap());
    prop::collection::vec(net, 0..6)
}

proptest! {
    #[test]
    fn subtraction_is_membership(from in small(), what in small()) {
        let rest = subtract(&from, &what);
        for last in 0..=255u8 {
            let address = IpAddr::from([10, 0, 0, last]);
            prop_assert_eq!(contains(&rest, address), contains(&from, address) && !contains(&what, address));
        }
        prop_assert_eq!(aggregate(rest.clone()), rest);
    }

    #[test]
    fn any_ranges_can_be_subtracted(
        a in prop::collection::vec((any::<u128>(), 0u8..=128), 0..5),
        b in prop::collection::vec((any::<u128>(), 0u8..=128), 0..5),
    ) {
        let nets = |list: Vec<(u128, u8)>| -> Vec<IpNetwork> {
            list.into_iter().map(|(bits, prefix)| IpNetwork::new(Ipv6Addr::from_bits(bits).into(), prefix).unwrap()).collect()
        };
        let (a, b) = (nets(a), nets(b));
        prop_assert!(!any_overlap(&subtract(&a, &b), &b));
    }
}
