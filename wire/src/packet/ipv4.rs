//! The IPv4 header (RFC 791).

use std::net::{IpAddr, Ipv4Addr};

use super::ip::Layout;
use super::{Fragment, Malformed, Protocol, Version, be16};

pub(super) const MIN_HEADER: usize = 20;

const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

pub(super) fn parse(bytes: &[u8]) -> Result<Layout, Malformed> {
    if bytes.len() < MIN_HEADER {
        return Err(Malformed::Truncated);
    }
    let header_len = usize::from(bytes[0] & 0x0f) * 4;
    let total_len = usize::from(be16(bytes, 2));
    if header_len < MIN_HEADER || total_len < header_len {
        return Err(Malformed::HeaderLength);
    }
    if bytes.len() < header_len {
        return Err(Malformed::Truncated);
    }
    Ok(Layout {
        version: Version::V4,
        src: address(bytes, 12),
        dst: address(bytes, 16),
        protocol: Protocol::from(bytes[9]),
        payload_start: header_len,
        total_len,
        hop_limit: bytes[8],
        fragment: fragment(bytes),
        source_routed: is_source_routed(&bytes[MIN_HEADER..header_len]),
    })
}

fn address(bytes: &[u8], at: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(super::be32(bytes, at)))
}

fn fragment(bytes: &[u8]) -> Option<Fragment> {
    let field = be16(bytes, 6);
    let more = field & 0x2000 != 0;
    let offset = u32::from(field & 0x1fff) * 8;
    (more || offset > 0).then(|| Fragment {
        id: u32::from(be16(bytes, 4)),
        offset,
        more,
    })
}

/// Walks the options; what cannot be walked to its end is judged by what was seen.
fn is_source_routed(mut options: &[u8]) -> bool {
    while let Some(&kind) = options.first() {
        let len = match kind {
            0 => return false,
            1 => 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return true,
            _ => usize::from(options.get(1).copied().unwrap_or(0)).max(2),
        };
        options = options.get(len..).unwrap_or_default();
    }
    false
}
