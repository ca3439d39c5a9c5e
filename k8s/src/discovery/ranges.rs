//! Set questions about addresses and ranges. No IO.

use ipnetwork::IpNetwork;
use std::{collections::BTreeSet, net::IpAddr};

/// No Service range is larger; addresses further apart belong to several.
const LARGEST_V4: u8 = 8;
const LARGEST_V6: u8 = 64;
/// What is routed around each address when there are several ranges.
const AROUND_V4: u8 = 24;
const AROUND_V6: u8 = 120;

/// Whether the ranges hold every address; nothing covers nothing.
pub(super) fn cover(ranges: &[IpNetwork], addresses: &BTreeSet<IpAddr>) -> bool {
    !addresses.is_empty()
        && addresses
            .iter()
            .all(|address| ranges.iter().any(|range| range.contains(*address)))
}

/// The smallest range a family that holds all addresses.
///
/// It lies within the real range, because that is one prefix and holds them too; so it is never too wide.
/// Only a cluster with several Service ranges breaks that, and such a cluster has ServiceCIDR objects.
pub(super) fn smallest_around(addresses: &BTreeSet<IpAddr>) -> Vec<IpNetwork> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().partition(|address| address.is_ipv4());
    let mut ranges = around(&v4, LARGEST_V4, AROUND_V4);
    ranges.extend(around(&v6, LARGEST_V6, AROUND_V6));
    ranges
}

fn around(addresses: &[IpAddr], largest: u8, each: u8) -> Vec<IpNetwork> {
    let (Some(first), Some(last)) = (addresses.iter().min(), addresses.iter().max()) else {
        return Vec::new();
    };
    let length = common_prefix(*first, *last);
    if length >= largest {
        return network(*first, length).into_iter().collect();
    }
    let ranges = addresses
        .iter()
        .filter_map(|address| network(*address, each))
        .collect();
    kvpn_wire::range::aggregate(ranges)
}

/// How many leading bits two addresses of one family share.
fn common_prefix(one: IpAddr, other: IpAddr) -> u8 {
    let bits = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    };
    u8::try_from(bits).unwrap_or(0)
}

/// The range of this length around an address.
fn network(address: IpAddr, length: u8) -> Option<IpNetwork> {
    let range = IpNetwork::new(address, length).ok()?;
    IpNetwork::new(range.network(), length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn around_texts(texts: &[&str]) -> Vec<String> {
        smallest_around(&addresses(texts))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_guess_holds_all_and_is_as_small_as_can_be() {
        assert_eq!(around_texts(&["10.96.0.1", "10.96.0.10"]), ["10.96.0.0/28"]);
        assert_eq!(around_texts(&["10.96.0.1", "10.111.3.4"]), ["10.96.0.0/12"]);
        assert_eq!(
            around_texts(&["10.96.0.1", "fd00:10:96::1", "fd00:10:96::f00"]),
            ["10.96.0.1/32", "fd00:10:96::/116"]
        );
        assert!(around_texts(&[]).is_empty());
    }

    #[test]
    fn far_apart_addresses_are_not_bridged() {
        assert_eq!(
            around_texts(&["10.96.0.1", "172.20.0.1"]),
            ["10.96.0.0/24", "172.20.0.0/24"]
        );
    }

    #[test]
    fn ranges_cover_only_what_they_hold() {
        let ranges = [
            "10.244.1.0/24".parse().unwrap(),
            "10.244.2.0/24".parse().unwrap(),
        ];
        assert!(cover(&ranges, &addresses(&["10.244.1.4", "10.244.2.4"])));
        assert!(!cover(&ranges, &addresses(&["10.244.1.4", "10.244.3.4"])));
        assert!(!cover(&ranges, &addresses(&[])));
    }
}
