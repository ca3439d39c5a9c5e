//! Names for addresses: `in-addr.arpa` (RFC 1035, section 3.5) and `ip6.arpa` (RFC 3596, section 2.5).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::DnsName;

/// The name that PTR queries for the address ask.
pub fn reverse_name(address: IpAddr) -> DnsName {
    zone(address, &digits(address).0)
}

/// The address that a reverse name stands for; `None` for zones and everything else.
pub fn parse_reverse(name: &DnsName) -> Option<IpAddr> {
    let text = name.as_str();
    if let Some(octets) = text.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = octets.split('.').rev().map(octet).collect::<Option<_>>()?;
        return <[u8; 4]>::try_from(octets)
            .ok()
            .map(|octets| Ipv4Addr::from(octets).into());
    }
    let nibbles = text.strip_suffix(".ip6.arpa")?.split('.').rev();
    let mut bits = 0;
    let mut count = 0;
    for nibble in nibbles {
        if nibble.len() != 1 || count == 32 {
            return None;
        }
        bits = bits << 4 | u128::from_str_radix(nibble, 16).ok()?;
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

/// The zones that hold exactly the reverse names of a range: one when its prefix ends on a digit, else up to 128 (IPv4) or 8 (IPv6).
/// The range of all addresses has none: its zone is everybody's.
pub fn reverse_zones(range: IpNetwork) -> Vec<DnsName> {
    let network = range.network();
    let (first, width) = digits(network);
    let prefix = usize::from(range.prefix());
    let count = prefix.div_ceil(width);
    if count == 0 {
        return Vec::new();
    }
    let free = count * width - prefix;
    (0..1u8 << free)
        .map(|step| {
            let mut digits = first[..count].to_vec();
            digits[count - 1] |= step;
            zone(network, &digits)
        })
        .collect()
}

/// The digits of a reverse name, most significant first, and the bits of each.
fn digits(address: IpAddr) -> (Vec<u8>, usize) {
    match address {
        IpAddr::V4(address) => (address.octets().to_vec(), 8),
        IpAddr::V6(address) => (
            address
                .octets()
                .iter()
                .flat_map(|octet| [octet >> 4, octet & 15])
                .collect(),
            4,
        ),
    }
}

fn zone(family: IpAddr, digits: &[u8]) -> DnsName {
    let mut text = String::new();
    for digit in digits.iter().rev() {
        let written = match family {
            IpAddr::V4(_) => write!(text, "{digit}."),
            IpAddr::V6(_) => write!(text, "{digit:x}."),
        };
        written.expect("a String takes all");
    }
    text.push_str(match family {
        IpAddr::V4(_) => "in-addr.arpa",
        IpAddr::V6(_) => "ip6.arpa",
    });
    text.parse().expect("digits and arpa make a name")
}

/// A decimal octet in its only form: no sign, no leading zero.
fn octet(text: &str) -> Option<u8> {
    let value: u8 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}
