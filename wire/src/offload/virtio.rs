//! The header that stands before every packet of a TUN with IFF_VNET_HDR: struct virtio_net_hdr without its last field
//! (virtio 1.2, section 5.1.6), ten bytes, little-endian: the TUN must have been told so (TUNSETVNETLE), or the machine be so.
//! It translates between that header and [`Segmentation`]; it cuts and joins nothing.
//!
//! ```text
//! 0 flags, 1 gso_type, 2 hdr_len, 4 gso_size, 6 csum_start, 8 csum_offset
//! ```

use super::shape::{CWR, FLAGS, IPV4_HEADER, IPV6_HEADER, Shape, Transport};
use super::{MAX_PACKET, Malformed, Segmentation};
use crate::packet::Version;
use crate::packet::checksum::Sum;

/// Bytes before each packet.
pub const HEADER: usize = 10;

/// The checksum field holds the sum over the pseudo header only.
const NEEDS_CSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Joined to a TCP kind: the first segment has CWR.
const GSO_ECN: u8 = 0x80;

/// The fields of the header.
struct Fields {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

/// Reads what the kernel says about a packet. Afterwards an ordinary packet has complete checksums, and a super-packet is
/// fit for [`Split::new`](super::Split::new).
///
/// A super-packet of one segment becomes an ordinary packet. `hdr_len` is only a hint in Linux (a forwarded packet's may
/// cover more than its headers), so it is not used. ECN (CWR on the first segment) is what a split does anyway.
pub fn read(header: &[u8; HEADER], packet: &mut [u8]) -> Result<Segmentation, Malformed> {
    let fields = Fields::read(header);
    if usize::from(fields.header_len) > packet.len() || packet.len() > MAX_PACKET {
        return Err(Malformed::Length);
    }
    if fields.gso_type != GSO_NONE {
        return fields.segmented(packet);
    }
    if fields.flags & NEEDS_CSUM != 0 {
        fields.complete(packet)?;
    }
    Ok(Segmentation::Whole)
}

/// Makes the header for a packet, and sets in a super-packet what the kernel expects there: lengths, the IPv4 checksum, and the
/// pseudo header's sum as the transport checksum.
///
/// One segment alone goes as an ordinary packet, because Linux drops super-packets of one segment when it has to cut them. What is
/// no super-packet goes unchanged.
pub fn write(packet: &mut [u8], segmentation: Segmentation) -> [u8; HEADER] {
    if segmentation == Segmentation::Whole || packet.len() > MAX_PACKET {
        return [0; HEADER];
    }
    let Ok((shape, size)) = Shape::read(packet)
        .and_then(|shape| shape.size_for(segmentation).map(|size| (shape, size)))
    else {
        return [0; HEADER];
    };
    shape.set_total_len(packet, packet.len());
    shape.mend_ip_checksum(packet);
    shape.begin_transport_checksum(packet);
    let alone = packet.len() - shape.header_len <= size;
    let (gso_type, header_len, gso_size) = if alone {
        (GSO_NONE, 0, 0)
    } else {
        (gso_type(&shape, packet), shape.header_len, size)
    };
    Fields {
        flags: NEEDS_CSUM,
        gso_type,
        header_len: narrow(header_len),
        gso_size: narrow(gso_size),
        checksum_start: narrow(shape.transport_at),
        checksum_offset: narrow(shape.transport.checksum_at()),
    }
    .write()
}

fn gso_type(shape: &Shape, packet: &[u8]) -> u8 {
    let ecn = if packet[shape.transport_at + FLAGS] & CWR == 0 {
        0
    } else {
        GSO_ECN
    };
    match (shape.transport, shape.version) {
        (Transport::Tcp, Version::V4) => GSO_TCPV4 | ecn,
        (Transport::Tcp, Version::V6) => GSO_TCPV6 | ecn,
        (Transport::Udp, Version::V4 | Version::V6) => GSO_UDP_L4,
    }
}

impl Fields {
    fn read(header: &[u8; HEADER]) -> Self {
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        Self {
            flags: header[0],
            gso_type: header[1],
            header_len: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        }
    }

    fn write(&self) -> [u8; HEADER] {
        let mut header = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [
            self.header_len,
            self.gso_size,
            self.checksum_start,
            self.checksum_offset,
        ];
        for (field, word) in header[2..].chunks_exact_mut(2).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        header
    }

    fn segmented(&self, packet: &mut [u8]) -> Result<Segmentation, Malformed> {
        let shape = Shape::read(packet)?;
        let segmentation = self.segmentation(shape.version)?;
        let size = shape.size_for(segmentation)?;
        if shape.total_len(packet) != packet.len() {
            return Err(Malformed::Length);
        }
        let place = (
            usize::from(self.checksum_start),
            usize::from(self.checksum_offset),
        );
        if self.flags & NEEDS_CSUM != 0
            && place != (shape.transport_at, shape.transport.checksum_at())
        {
            return Err(Malformed::Checksum);
        }
        if packet.len() - shape.header_len > size {
            return Ok(segmentation);
        }
        shape.mend_transport_checksum(packet);
        Ok(Segmentation::Whole)
    }

    fn segmentation(&self, version: Version) -> Result<Segmentation, Malformed> {
        let size = self.gso_size;
        match (self.gso_type, version) {
            (GSO_UDP_L4, _) => Ok(Segmentation::Udp { size }),
            (kind, Version::V4) if kind & !GSO_ECN == GSO_TCPV4 => Ok(Segmentation::Tcp { size }),
            (kind, Version::V6) if kind & !GSO_ECN == GSO_TCPV6 => Ok(Segmentation::Tcp { size }),
            (_, Version::V4 | Version::V6) => Err(Malformed::Kind),
        }
    }

    /// Completes a checksum: the sum from `csum_start` to the end, in which the field already holds the pseudo header's.
    fn complete(&self, packet: &mut [u8]) -> Result<(), Malformed> {
        let start = usize::from(self.checksum_start);
        let at = start + usize::from(self.checksum_offset);
        // It need not be the outermost transport's: a tunnel's packets have their checksums further in.
        let network = match packet.first().map(|first| first >> 4) {
            Some(4) => IPV4_HEADER,
            _ => IPV6_HEADER,
        };
        if start < network || at + 2 > packet.len() {
            return Err(Malformed::Checksum);
        }
        let sum = Sum::default().bytes(&packet[start..]).finish();
        // In UDP zero means "none" (RFC 768).
        let udp = usize::from(self.checksum_offset) == Transport::Udp.checksum_at();
        let sum = if sum == 0 && udp { 0xffff } else { sum };
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }
}

fn narrow(length: usize) -> u16 {
    u16::try_from(length).expect("no packet is longer")
}
