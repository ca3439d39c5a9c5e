//! The Internet checksum (RFC 1071), its pseudo headers (RFC 9293, section 3.1; RFC 8200, section 8.1) and its update (RFC 1624).

use std::net::IpAddr;

use super::{Ip, Protocol, Version, be16};

/// Bytes that are added in one step: four vectors of sixteen.
const BLOCK: usize = 64;

/// A sum under way: ones' complement, kept in 64 bits so that carries need folding only once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even offset; an odd last byte is padded with zero.
    ///
    /// The words are added as the machine reads them and only the result is put into network order, which ones' complement
    /// allows (RFC 1071, section 2 (B)); the independent lanes let the compiler use vector registers.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let mut low = [0_u64; BLOCK / 8];
        let mut high = [0_u64; BLOCK / 8];
        for block in blocks {
            for (n, word) in block.as_chunks::<8>().0.iter().enumerate() {
                let word = u64::from_ne_bytes(*word);
                low[n] += word & 0xffff_ffff;
                high[n] += word >> 32;
            }
        }
        let sum = low.iter().sum::<u64>() + high.iter().sum::<u64>() + few(rest);
        Self(self.0 + u64::from(fold(sum).to_be()))
    }

    /// Adds a number of up to 32 bits as its 16-bit words.
    #[must_use]
    pub(crate) fn number(self, number: u32) -> Self {
        Self(self.0 + u64::from(number))
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

    /// Whether the data summed up has a correct checksum in it.
    pub fn is_whole(self) -> bool {
        self.folded() == 0xffff
    }

    /// The sum in 16 bits; 0xffff over data with a correct checksum in it.
    pub fn folded(self) -> u16 {
        fold(self.0)
    }
}

/// The sum of less than a block, in the machine's byte order.
fn few(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    let words = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)));
    words.sum::<u64>() + u64::from(u32::from_ne_bytes(tail))
}

/// Adds the carries until 16 bits are left; a sum other than 0 does not become 0.
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from(sum).expect("folded to 16 bits")
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
    if ip.version() == Version::V4 && !Sum::default().bytes(header).is_whole() {
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
    sum.bytes(ip.payload()).is_whole()
}
