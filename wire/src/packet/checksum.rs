//! The Internet checksum (RFC 1071), its pseudo headers (RFC 9293, section 3.1; RFC 8200, section 8.1) and its update (RFC 1624).

use std::net::IpAddr;

use super::{Ip, Protocol, Version, be16};

/// A sum under way: ones' complement, kept in 64 bits so that carries need folding only once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even offset; an odd last byte is padded with zero.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(4);
        for word in &mut words {
            self.0 += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        }
        let mut tail = [0; 4];
        tail[..words.remainder().len()].copy_from_slice(words.remainder());
        self.0 += u64::from(u32::from_be_bytes(tail));
        self
    }

    /// Adds what TCP, UDP and ICMPv6 sum besides their own bytes. Both addresses must be of one family.
    #[must_use]
    pub fn pseudo_header(self, src: IpAddr, dst: IpAddr, protocol: Protocol, len: usize) -> Self {
        let sum = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.bytes(&src.octets()).bytes(&dst.octets()),
            (src, dst) => self.bytes(&octets(src)).bytes(&octets(dst)),
        };
        Self(sum.0 + u64::from(protocol.number()) + len as u64)
    }

    /// The checksum field that makes the whole sum up to nothing.
    pub fn finish(self) -> u16 {
        !self.folded()
    }

    /// The sum in 16 bits; 0xffff over data with a correct checksum in it.
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).expect("folded to 16 bits")
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The checksum of plain bytes, as in IPv4 headers and ICMP for IPv4.
pub fn of(bytes: &[u8]) -> u16 {
    Sum::default().bytes(bytes).finish()
}

/// The checksum field after a 16-bit word under it changed: RFC 1624, equation 3.
pub fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// Whether the IPv4 header's and the transport's checksums are right.
///
/// What cannot be checked passes: fragments, other protocols, UDP over IPv4 without a checksum.
pub fn verify(ip: &Ip<'_>) -> bool {
    let header = &ip.bytes()[..ip.header_len()];
    if ip.version() == Version::V4 && Sum::default().bytes(header).folded() != 0xffff {
        return false;
    }
    ip.is_fragment() || verify_transport(ip)
}

fn verify_transport(ip: &Ip<'_>) -> bool {
    let sum = match ip.protocol() {
        Protocol::Icmpv4 => Sum::default(),
        Protocol::Udp if ip.payload().len() < 8 => return false,
        Protocol::Udp if ip.version() == Version::V4 && be16(ip.payload(), 6) == 0 => return true,
        Protocol::Tcp | Protocol::Udp | Protocol::Icmpv6 => {
            Sum::default().pseudo_header(ip.src(), ip.dst(), ip.protocol(), ip.payload().len())
        }
        Protocol::Other(_) => return true,
    };
    sum.bytes(ip.payload()).folded() == 0xffff
}
