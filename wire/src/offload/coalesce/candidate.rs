//! Which packets may become one: the rules of Linux's generic receive offload, and stricter where those are loose.
//!
//! Everything in the headers that a segment cannot get back from the super-packet must be equal, byte for byte. Checksums
//! are verified before anything is joined, so that a damaged packet stays damaged. Where packets lie is not its business.

use super::super::shape::{
    ECE, FLAGS, IPV4_HEADER, IPV6_HEADER, SEQUENCE, Shape, Transport, length,
};
use super::super::{Abilities, MAX_PACKET, Segmentation};
use crate::packet::checksum::Sum;
use crate::packet::{TcpFlags, Version, be16, be32};

/// How many datagrams become one, and how many a TUN takes in one (Linux UDP_MAX_SEGMENTS before 6.9).
pub(super) const MAX_DATAGRAMS: usize = 64;

/// Flags that end a super-packet and go to its last segment.
const LAST: u8 = TcpFlags::PSH.0 | TcpFlags::FIN.0;

/// The longest headers of a candidate: IPv6 without extensions, TCP with all options.
pub(super) const MAX_HEADER: usize = IPV6_HEADER + 60;

const DONT_FRAGMENT: u16 = 0x4000;

/// A packet, or several that were joined, that more may join.
pub(super) struct Candidate {
    shape: Shape,
    /// The first packet's payload, which no other's may exceed.
    size: u16,
    /// The payload so far.
    payload: usize,
    segments: u16,
}

impl Candidate {
    /// A packet that others may join; its checksums are not verified yet.
    pub(super) fn of(packet: &[u8], abilities: Abilities) -> Option<Self> {
        let plain = match packet.first()? {
            0x45 => packet.len() > IPV4_HEADER && be16(packet, 6) & !DONT_FRAGMENT == 0,
            0x60..=0x6f => packet.len() > IPV6_HEADER && matches!(packet[6], 6 | 17),
            _ => false,
        };
        if !plain {
            return None;
        }
        let shape = Shape::read(packet).ok()?;
        let rest = &packet[shape.transport_at..];
        // CWR is left alone: where ECN counts (AccECN), it does not belong to the first segment only.
        let wanted = match shape.transport {
            Transport::Tcp => abilities.tcp && rest[FLAGS] & !ECE == TcpFlags::ACK.0,
            Transport::Udp => abilities.udp && usize::from(be16(rest, 4)) == rest.len(),
        };
        let payload = packet.len() - shape.header_len;
        // A shorter payload could not keep the next packet's headers; there is nothing to win with those anyway.
        let wanted = wanted
            && payload >= shape.header_len
            && shape.total_len(packet) == packet.len()
            && packet.len() <= MAX_PACKET;
        wanted.then_some(Self {
            shape,
            size: u16::try_from(payload).ok()?,
            payload,
            segments: 1,
        })
    }

    /// The length of the headers, which is that of every packet that may join.
    pub(super) fn header_len(&self) -> usize {
        self.shape.header_len
    }

    /// What the packets become together.
    pub(super) fn segmentation(&self) -> Segmentation {
        match self.shape.transport {
            Transport::Tcp => Segmentation::Tcp { size: self.size },
            Transport::Udp => Segmentation::Udp { size: self.size },
        }
    }

    /// Whether the packet of `header` and `payload` goes on where this one ends, which `first` begins with.
    pub(super) fn continues(&self, first: &[u8], header: &[u8], payload: &[u8]) -> bool {
        let whole = self.shape.header_len + self.payload;
        let fits = payload.len() <= usize::from(self.size) && whole + payload.len() <= MAX_PACKET;
        fits && self.continues_network(first, header, payload.len())
            && self.continues_transport(first, header, payload.len())
            && self.is_sound(header, payload)
            && (self.segments > 1 || {
                let (header, payload) = first[..whole].split_at(self.shape.header_len);
                self.is_sound(header, payload)
            })
    }

    /// Takes note of a packet that continues this one. False when it is the last.
    pub(super) fn join(&mut self, first: &mut [u8], header: &[u8], payload: &[u8]) -> bool {
        self.payload += payload.len();
        self.segments += 1;
        let full = payload.len() == usize::from(self.size);
        match self.shape.transport {
            Transport::Tcp => {
                let at = self.shape.transport_at + FLAGS;
                first[at] |= header[at] & LAST;
                full && header[at] & LAST == 0
            }
            Transport::Udp => full && usize::from(self.segments) < MAX_DATAGRAMS,
        }
    }

    fn continues_network(&self, first: &[u8], header: &[u8], payload: usize) -> bool {
        let total = self.shape.header_len + payload;
        if self.shape.total_len(header) != total {
            return false;
        }
        match self.shape.version {
            Version::V4 => {
                // Version, length, TOS; flags, TTL, protocol; addresses.
                first[..2] == header[..2]
                    && first[6..10] == header[6..10]
                    && first[12..20] == header[12..20]
                    && self.counts_up(first, header)
            }
            // Version, traffic class, flow label; next header, hop limit, addresses.
            Version::V6 => first[..4] == header[..4] && first[6..40] == header[6..40],
        }
    }

    /// Whether the identification is the one that a segment gets; with "don't fragment" it may also stay the same.
    fn counts_up(&self, first: &[u8], header: &[u8]) -> bool {
        let step = be16(header, 4).wrapping_sub(be16(first, 4));
        step == self.segments || (step == 0 && be16(first, 6) & DONT_FRAGMENT != 0)
    }

    fn continues_transport(&self, first: &[u8], header: &[u8], payload: usize) -> bool {
        let at = self.shape.transport_at;
        let (first, header) = (&first[at..self.shape.header_len], &header[at..]);
        match self.shape.transport {
            Transport::Tcp => {
                let next = be32(first, SEQUENCE).wrapping_add(length(self.payload));
                // Ports; acknowledgement, header length; window; urgent pointer, options.
                first[..4] == header[..4]
                    && be32(header, SEQUENCE) == next
                    && first[8..13] == header[8..13]
                    && first[FLAGS] == header[FLAGS] & !LAST
                    && first[14..16] == header[14..16]
                    && first[18..] == header[18..]
            }
            Transport::Udp => {
                first[..4] == header[..4] && usize::from(be16(header, 4)) == header.len() + payload
            }
        }
    }

    /// Whether the checksums are there, right, and in the form in which a segment gets them.
    fn is_sound(&self, header: &[u8], payload: &[u8]) -> bool {
        let (network, rest) = header.split_at(self.shape.transport_at);
        let ip = match self.shape.version {
            Version::V4 => be16(network, 10) != 0xffff && Sum::default().bytes(network).is_whole(),
            Version::V6 => true,
        };
        let field = be16(rest, self.shape.transport.checksum_at());
        let form = match self.shape.transport {
            Transport::Tcp => field != 0xffff,
            Transport::Udp => field != 0,
        };
        let sum = self.shape.pseudo_header(network);
        let sum = sum.number(length(rest.len() + payload.len()));
        ip && form && sum.bytes(rest).bytes(payload).is_whole()
    }
}
