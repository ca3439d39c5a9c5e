//! Names, keys and address ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kvpn_wire::name::{self, ClusterDomain, DnsName, Namespace, ServiceName};
use kvpn_wire::range::{self, IpNetwork};
use kvpn_wire::wireguard::{PresharedKey, PrivateKey, PublicKey};

/// Any text as names and keys.
pub(super) fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let namespace = text.parse::<Namespace>();
    assert_eq!(namespace.is_ok(), text.parse::<ServiceName>().is_ok());
    assert!(
        namespace.is_err() || text.parse::<DnsName>().is_ok(),
        "every label is a name"
    );
    let _ = (name::is_public_tld(text), name::is_special_use(text));
    let _ = ClusterDomain::from_search_list(text.split(' '));
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    assert_eq!(
        text.parse::<PresharedKey>().is_ok(),
        text.parse::<PrivateKey>().is_ok()
    );
    if let Ok(name) = text.parse::<DnsName>() {
        dns_name(&name);
    }
}

fn dns_name(name: &DnsName) {
    assert_eq!(name.as_str().parse().as_ref(), Ok(name));
    assert!(name.is_within(name) && name.prefix_of(name).is_none());
    assert_eq!(name.labels().count(), name.label_count());
    if let Some((first, rest)) = name.as_str().split_once('.') {
        let suffix: DnsName = rest.parse().expect("the tail of a name is a name");
        assert_eq!(name.prefix_of(&suffix), Some(first));
    }
    if let Some(address) = name::parse_reverse(name) {
        assert_eq!(&name::reverse_name(address), name);
    }
}

/// Any bytes as two sets of ranges, eighteen bytes a range: set and family, prefix, address.
pub(super) fn range(data: &[u8]) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for entry in data.chunks_exact(18).take(32) {
        let network = network(entry);
        judge(network.ip());
        if network.prefix() > 0 {
            zones(network);
        }
        if entry[0] & 2 == 0 {
            a.push(network)
        } else {
            b.push(network)
        }
    }
    let rest = range::subtract(&a, &b);
    let both = range::intersect(&a, &b);
    assert!(!range::any_overlap(&rest, &b) && !range::any_overlap(&rest, &both));
    let whole = [rest, both].concat();
    assert_eq!(range::aggregate(whole), range::aggregate(a.clone()));
    for network in &a {
        let first = network.network();
        let wanted = !range::contains(&b, first);
        assert_eq!(range::contains(&range::subtract(&a, &b), first), wanted);
    }
}

fn network(entry: &[u8]) -> IpNetwork {
    let bits = u128::from_be_bytes(entry[2..18].try_into().expect("sixteen bytes"));
    let (address, widest) = if entry[0] & 1 == 0 {
        let [.., a, b, c, d] = bits.to_be_bytes();
        (IpAddr::from(Ipv4Addr::new(a, b, c, d)), 32)
    } else {
        (IpAddr::from(Ipv6Addr::from_bits(bits)), 128)
    };
    IpNetwork::new(address, entry[1] % (widest + 1)).expect("the prefix fits")
}

fn judge(address: IpAddr) {
    let canonical = range::canonical(address);
    assert_eq!(range::is_private(address), range::is_private(canonical));
    assert_eq!(range::is_tunnel(address), range::is_tunnel(canonical));
    assert_eq!(
        range::is_forbidden_destination(address),
        range::is_forbidden_destination(canonical)
    );
    assert_eq!(
        name::parse_reverse(&name::reverse_name(address)),
        Some(address)
    );
}

/// The zones of a range hold the names of its first and last address.
fn zones(network: IpNetwork) {
    let zones = name::reverse_zones(network);
    assert!(!zones.is_empty() && zones.len() <= 128);
    for address in [network.network(), network.broadcast()] {
        let name = name::reverse_name(address);
        assert!(
            zones.iter().any(|zone| name.is_within(zone)),
            "{network}: {name}"
        );
    }
}
