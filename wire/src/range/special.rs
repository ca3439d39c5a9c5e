//! Addresses with a meaning of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// Where all tunnel addresses come from: 198.19.0.0/16 (RFC 2544, benchmarking) and a ULA prefix of kvpn's own.
pub fn tunnel_ranges() -> [IpNetwork; 2] {
    [
        v4(198, 19, 0, 0, 16).into(),
        v6([0xfd6b, 0x7670, 0x6e00, 0, 0, 0, 0, 0], 40).into(),
    ]
}

/// Whether the address is a tunnel's.
pub fn is_tunnel(address: IpAddr) -> bool {
    contains(&tunnel_ranges(), address)
}

/// An IPv6 address that maps an IPv4 one (`::ffff:0:0/96`) as that IPv4 address; any other as it is.
///
/// Sockets connect to the IPv4 address then, so a policy that judges the IPv6 form judges the wrong one.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether the address is for private networks: RFC 1918, CGNAT (RFC 6598), ULA (RFC 4193).
pub fn is_private(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(address) => address.is_private() || v4(100, 64, 0, 0, 10).contains(address),
        IpAddr::V6(address) => address.is_unique_local(),
    }
}

/// Whether a cloud's instance metadata, or what hands out the node's credentials, answers there.
///
/// The link-local ones (169.254.169.254 of most clouds) and those outside: AWS and Google over IPv6, Azure's wire
/// server, Alibaba, Oracle.
pub fn is_metadata(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(address) => {
            address.is_link_local()
                || [[168, 63, 129, 16], [100, 100, 100, 200], [192, 0, 0, 192]]
                    .contains(&address.octets())
        }
        IpAddr::V6(address) => [
            Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
            Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
        ]
        .contains(&address),
    }
}

/// Whether the address may never be a destination through the tunnel, in any cluster: "this host" (0/8, ::), loopback,
/// link-local, multicast, broadcast, metadata; the same as IPv4 inside of IPv6 (mapped, compatible, translated by
/// NAT64's well-known prefix, 6to4).
///
/// The caller adds what only it knows: its own addresses, other sessions, nodes.
pub fn is_forbidden_destination(address: IpAddr) -> bool {
    if is_metadata(address) {
        return true;
    }
    match canonical(address) {
        IpAddr::V4(address) => is_forbidden_v4(address),
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || embedded_v4(address)
                    .is_some_and(|inner| is_metadata(inner.into()) || is_forbidden_v4(inner))
        }
    }
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
}

/// The IPv4 address that a translator or the kernel would make of this one.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let bits = match [a, b, c, d, e, f] {
        [0, 0, 0, 0, 0, 0] | [0x64, 0xff9b, 0, 0, 0, 0] => u32::from(g) << 16 | u32::from(h),
        [0x2002, ..] => u32::from(b) << 16 | u32::from(c),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(bits))
}

fn contains(ranges: &[IpNetwork], address: IpAddr) -> bool {
    super::contains(ranges, canonical(address))
}

fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Network {
    Ipv4Network::new(Ipv4Addr::new(a, b, c, d), prefix).expect("the prefix fits")
}

fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Network {
    Ipv6Network::new(Ipv6Addr::from(segments), prefix).expect("the prefix fits")
}
