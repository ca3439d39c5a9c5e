//! Where the headers of a super-packet end, and the fields in them that differ from segment to segment.
//! It decides nothing about payloads.

use super::{MAX_HEADER, MAX_PACKET, Malformed, Segmentation};
use crate::packet::checksum::{self, Sum};
use crate::packet::{self, Ip, TcpFlags, Version, be16};

pub(super) const IPV4_HEADER: usize = 20;
pub(super) const IPV6_HEADER: usize = 40;
pub(super) const TCP_HEADER: usize = 20;
pub(super) const UDP_HEADER: usize = 8;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Offsets within the TCP header.
pub(super) const SEQUENCE: usize = 4;
pub(super) const FLAGS: usize = 13;
pub(super) const URG: u8 = 0x20;
pub(super) const ECE: u8 = 0x40;
pub(super) const CWR: u8 = 0x80;

/// Flags of packets that are never cut or joined.
const UNCUT: u8 = TcpFlags::SYN.0 | TcpFlags::RST.0 | URG;

/// The transport protocols that can be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    /// Where the checksum lies in the transport header.
    pub(super) fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// The lengths of a packet's headers. Offsets lie within the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) version: Version,
    pub(super) transport: Transport,
    /// Where the transport header begins.
    pub(super) transport_at: usize,
    /// Length of all headers.
    pub(super) header_len: usize,
}

impl Shape {
    /// Reads the headers of a super-packet, of which `bytes` is at least the headers. Length fields are not looked at.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let (version, protocol, transport_at) = network(bytes)?;
        let rest = bytes.get(transport_at..).ok_or(Malformed::Headers)?;
        let (transport, len) = match protocol {
            TCP => (Transport::Tcp, tcp_header(rest)?),
            UDP if rest.len() >= UDP_HEADER => (Transport::Udp, UDP_HEADER),
            _ => return Err(Malformed::Headers),
        };
        let header_len = transport_at + len;
        if header_len > bytes.len() || header_len > MAX_HEADER {
            return Err(Malformed::Headers);
        }
        Ok(Self {
            version,
            transport,
            transport_at,
            header_len,
        })
    }

    /// The size in `segmentation`, if it is one for this packet; not for [`Segmentation::Whole`].
    pub(super) fn size_for(&self, segmentation: Segmentation) -> Result<usize, Malformed> {
        let size = match (segmentation, self.transport) {
            (Segmentation::Tcp { size }, Transport::Tcp) => size,
            (Segmentation::Udp { size }, Transport::Udp) => size,
            (Segmentation::Tcp { .. } | Segmentation::Udp { .. } | Segmentation::Whole, _) => {
                return Err(Malformed::Headers);
            }
        };
        if size == 0 {
            return Err(Malformed::Size);
        }
        Ok(usize::from(size))
    }

    /// How long the packet is by its header.
    pub(super) fn total_len(&self, header: &[u8]) -> usize {
        match self.version {
            Version::V4 => usize::from(be16(header, 2)),
            Version::V6 => IPV6_HEADER + usize::from(be16(header, 4)),
        }
    }

    /// Writes the length of the whole packet, at most [`MAX_PACKET`], into the IP header and UDP's; IPv4's checksum is
    /// not mended.
    pub(super) fn set_total_len(&self, header: &mut [u8], total: usize) {
        debug_assert!((self.header_len..=MAX_PACKET).contains(&total));
        match self.version {
            Version::V4 => put16(header, 2, total),
            Version::V6 => put16(header, 4, total - IPV6_HEADER),
        }
        if self.transport == Transport::Udp {
            put16(header, self.transport_at + 4, total - self.transport_at);
        }
    }

    /// Computes the checksum of the IPv4 header; nothing for IPv6.
    pub(super) fn mend_ip_checksum(&self, header: &mut [u8]) {
        if self.version == Version::V4 {
            header[10..12].fill(0);
            let sum = checksum::of(&header[..ipv4_header_len(header)]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// The sum over addresses and protocol, without the length.
    pub(super) fn pseudo_header(&self, header: &[u8]) -> Sum {
        let addresses = match self.version {
            Version::V4 => &header[12..20],
            Version::V6 => &header[8..40],
        };
        Sum::default()
            .bytes(addresses)
            .number(u32::from(self.transport.number()))
    }

    /// Computes the transport checksum of a whole packet, whatever the field holds.
    pub(super) fn mend_transport_checksum(&self, packet: &mut [u8]) {
        let len = length(packet.len() - self.transport_at);
        let at = self.transport_at + self.transport.checksum_at();
        packet[at..at + 2].fill(0);
        let sum = self.pseudo_header(packet).number(len);
        let sum = sum.bytes(&packet[self.transport_at..]).finish();
        self.set_transport_checksum(packet, sum);
    }

    /// Writes the pseudo header's sum into the checksum field, for whoever sums up the rest.
    pub(super) fn begin_transport_checksum(&self, packet: &mut [u8]) {
        let len = length(packet.len() - self.transport_at);
        let sum = self.pseudo_header(packet).number(len).folded();
        let at = self.transport_at + self.transport.checksum_at();
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// Writes the transport checksum; for UDP zero would mean "none" (RFC 768), so its other form is written.
    pub(super) fn set_transport_checksum(&self, packet: &mut [u8], sum: u16) {
        let at = self.transport_at + self.transport.checksum_at();
        let sum = match self.transport {
            Transport::Udp if sum == 0 => 0xffff,
            Transport::Tcp | Transport::Udp => sum,
        };
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Version, protocol number and the place of the transport header.
fn network(bytes: &[u8]) -> Result<(Version, u8, usize), Malformed> {
    match bytes.first().ok_or(packet::Malformed::Truncated)? {
        0x45 if bytes.len() >= IPV4_HEADER && be16(bytes, 6) & 0x3fff == 0 => {
            Ok((Version::V4, bytes[9], IPV4_HEADER))
        }
        0x60..=0x6f if bytes.len() >= IPV6_HEADER && matches!(bytes[6], TCP | UDP) => {
            Ok((Version::V6, bytes[6], IPV6_HEADER))
        }
        _ => unusual(bytes),
    }
}

/// The same for IPv4 options and IPv6 extension headers.
fn unusual(bytes: &[u8]) -> Result<(Version, u8, usize), Malformed> {
    let ip = Ip::parse_quoted(bytes)?;
    // The checksum of a source-routed packet covers another destination than the header's.
    if ip.is_fragment() || ip.is_source_routed() {
        return Err(Malformed::Headers);
    }
    Ok((ip.version(), ip.protocol().number(), ip.header_len()))
}

fn tcp_header(segment: &[u8]) -> Result<usize, Malformed> {
    if segment.len() < TCP_HEADER || segment[FLAGS] & UNCUT != 0 {
        return Err(Malformed::Headers);
    }
    let len = usize::from(segment[12] >> 4) * 4;
    if len < TCP_HEADER || len > segment.len() {
        return Err(Malformed::Headers);
    }
    Ok(len)
}

fn ipv4_header_len(header: &[u8]) -> usize {
    usize::from(header[0] & 0x0f) * 4
}

/// A length within a packet as a number for the checksum.
pub(super) fn length(len: usize) -> u32 {
    u32::try_from(len).expect("a packet is shorter than 64 KiB")
}

/// Writes a length of at most 65,535 in network order.
pub(super) fn put16(bytes: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).expect("lengths in a packet are checked against its longest");
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
