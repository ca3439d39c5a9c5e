//! The IPv6 header and its extension headers (RFC 8200, section 4).

use std::net::{IpAddr, Ipv6Addr};

use super::ip::Layout;
use super::{Fragment, Malformed, Protocol, Version, be16, be32};

pub(super) const HEADER: usize = 40;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Each kind once, destination options twice: what RFC 8200, section 4.1 foresees, with room to spare.
const MAX_EXTENSIONS: usize = 8;

/// Where the extension headers lead.
struct Extensions {
    protocol: u8,
    payload_start: usize,
    fragment: Option<Fragment>,
    routed: bool,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Layout, Malformed> {
    if bytes.len() < HEADER {
        return Err(Malformed::Truncated);
    }
    let total_len = HEADER + usize::from(be16(bytes, 4));
    let packet = &bytes[..bytes.len().min(total_len)];
    let extensions = walk(packet)?;
    Ok(Layout {
        version: Version::V6,
        src: address(bytes, 8),
        dst: address(bytes, 24),
        protocol: Protocol::from(extensions.protocol),
        payload_start: extensions.payload_start,
        total_len,
        hop_limit: bytes[7],
        fragment: extensions.fragment,
        source_routed: extensions.routed,
    })
}

fn address(bytes: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 16] = bytes[at..at + 16].try_into().expect("sixteen bytes");
    IpAddr::V6(Ipv6Addr::from(octets))
}

fn walk(packet: &[u8]) -> Result<Extensions, Malformed> {
    let mut found = Extensions {
        protocol: packet[6],
        payload_start: HEADER,
        fragment: None,
        routed: false,
    };
    for n in 0..=MAX_EXTENSIONS {
        let at = found.payload_start;
        let len = match found.protocol {
            HOP_BY_HOP if n > 0 => return Err(Malformed::ExtensionHeaders),
            HOP_BY_HOP | ROUTING | DESTINATION => (byte(packet, at + 1)? + 1) * 8,
            AUTHENTICATION => (byte(packet, at + 1)? + 2) * 4,
            FRAGMENT => 8,
            _ => return Ok(found),
        };
        if packet.len() < at + len {
            return Err(Malformed::Truncated);
        }
        let kind = std::mem::replace(&mut found.protocol, packet[at]);
        found.payload_start = at + len;
        found.routed |= kind == ROUTING;
        if kind == FRAGMENT {
            found.fragment = fragment(&packet[at..at + len]);
        }
        if found.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return Ok(found);
        }
    }
    Err(Malformed::ExtensionHeaders)
}

fn byte(packet: &[u8], at: usize) -> Result<usize, Malformed> {
    packet
        .get(at)
        .copied()
        .map(usize::from)
        .ok_or(Malformed::Truncated)
}

fn fragment(header: &[u8]) -> Option<Fragment> {
    let field = be16(header, 2);
    let more = field & 1 != 0;
    let offset = u32::from(field & 0xfff8);
    (more || offset > 0).then(|| Fragment {
        id: be32(header, 4),
        offset,
        more,
    })
}
