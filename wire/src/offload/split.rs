//! Cutting a super-packet into its segments, or into smaller super-packets.
//! It reads each payload byte once to copy and once to sum; it never looks at what the flow is.

use super::shape::{CWR, FLAGS, SEQUENCE, Shape, Transport, length, put16};
use super::{MAX_PACKET, Malformed, Segmentation};
use crate::packet::checksum::Sum;
use crate::packet::{TcpFlags, Version, be16, be32};

/// The packets in a super-packet, in order. A packet with [`Segmentation::Whole`] comes out as it is, once.
///
/// Every segment gets its lengths, checksums, sequence number and (IPv4) identification, which counts up. FIN and PSH go on the
/// last segment only, CWR on the first only; all else is as in the super-packet.
#[derive(Debug)]
pub struct Split<'a> {
    header: &'a [u8],
    payload: [&'a [u8]; 2],
    /// How many payload bytes were given out.
    given: usize,
    /// How many segments were given out.
    index: u16,
    done: bool,
    /// `None`: the packet is whole.
    template: Option<Template>,
}

/// What all segments have in common.
#[derive(Debug)]
struct Template {
    shape: Shape,
    size: usize,
    segmentation: Segmentation,
    /// IPv4 header without length, identification and checksum.
    network_sum: Sum,
    /// Pseudo and transport header without lengths, sequence number, flags and checksum.
    transport_sum: Sum,
    sequence: u32,
    flags: u8,
    ident: u16,
}

impl<'a> Split<'a> {
    /// A packet in one piece: IPv4 (with options) or IPv6 (with extension headers), TCP or UDP as `segmentation` says.
    /// The content of the checksum fields does not matter. A whole packet is not looked at.
    pub fn new(packet: &'a [u8], segmentation: Segmentation) -> Result<Self, Malformed> {
        if segmentation == Segmentation::Whole {
            return Ok(Self::whole(&[], [packet, &[]]));
        }
        let shape = Shape::read(packet)?;
        if shape.total_len(packet) != packet.len() {
            return Err(Malformed::Length);
        }
        let (header, payload) = packet.split_at(shape.header_len);
        Self::cut(shape, header, [payload, &[]], segmentation)
    }

    /// A packet in parts: its headers, and the payload out of a ring buffer. The length fields of a super-packet's
    /// headers do not matter either.
    pub fn of_parts(
        header: &'a [u8],
        payload: [&'a [u8]; 2],
        segmentation: Segmentation,
    ) -> Result<Self, Malformed> {
        if segmentation == Segmentation::Whole {
            return Ok(Self::whole(header, payload));
        }
        let shape = Shape::read(header)?;
        if shape.header_len != header.len() {
            return Err(Malformed::Length);
        }
        Self::cut(shape, header, payload, segmentation)
    }

    fn whole(header: &'a [u8], payload: [&'a [u8]; 2]) -> Self {
        Self {
            header,
            payload,
            given: 0,
            index: 0,
            done: header.is_empty() && payload.iter().all(|part| part.is_empty()),
            template: None,
        }
    }

    fn cut(
        shape: Shape,
        header: &'a [u8],
        payload: [&'a [u8]; 2],
        segmentation: Segmentation,
    ) -> Result<Self, Malformed> {
        let size = shape.size_for(segmentation)?;
        let split = Self::whole(header, payload);
        if header.len() + split.payload_len() > MAX_PACKET {
            return Err(Malformed::Length);
        }
        let template = Template::of(shape, header, size, segmentation);
        Ok(Self {
            template: Some(template),
            ..split
        })
    }

    /// Writes the next packet to the beginning of `out` and gives its length. `None` when there is no other, or `out` is
    /// shorter than it ([`Split::max_len`] is always enough).
    pub fn next(&mut self, out: &mut [u8]) -> Option<usize> {
        let rest = self.payload_len() - self.given;
        let take = self
            .template
            .as_ref()
            .map_or(rest, |template| rest.min(template.size));
        let len = self.header.len() + take;
        let out = out.get_mut(..len).filter(|_| !self.done)?;
        self.copy(out);
        if let Some(template) = &self.template {
            template.segment(out, self.index, self.given, take == rest);
        }
        self.advance(take);
        Some(len)
    }

    /// Writes the next super-packet of at most `max` bytes (but at least one segment) to the beginning of `out` and gives
    /// its length. It has whole segments only; one segment alone is a packet as from [`Split::next`]. A whole packet
    /// comes out as it is, even if it is longer than `max`. `None` as for [`Split::next`], except that a shorter `out`
    /// holds fewer segments.
    pub fn next_super(&mut self, max: usize, out: &mut [u8]) -> Option<(usize, Segmentation)> {
        let rest = self.payload_len() - self.given;
        let Some(template) = &self.template else {
            return self.next(out).map(|len| (len, Segmentation::Whole));
        };
        let room = max.min(out.len()).saturating_sub(self.header.len());
        let take = rest.min(room - room % template.size);
        if take <= template.size || self.done {
            return self.next(out).map(|len| (len, Segmentation::Whole));
        }
        let len = self.header.len() + take;
        let out = &mut out[..len];
        self.copy(out);
        template.group(out, self.index, self.given, take == rest);
        let segmentation = template.segmentation;
        self.advance(take);
        Some((len, segmentation))
    }

    /// The length in bytes of the longest packet that [`Split::next`] gives.
    pub fn max_len(&self) -> usize {
        let payload = self.payload_len();
        self.header.len()
            + self
                .template
                .as_ref()
                .map_or(payload, |template| payload.min(template.size))
    }

    /// How many packets [`Split::next`] has yet to give.
    pub fn remaining(&self) -> usize {
        let rest = self.payload_len() - self.given;
        match &self.template {
            _ if self.done => 0,
            Some(template) => rest.div_ceil(template.size).max(1),
            None => 1,
        }
    }

    fn payload_len(&self) -> usize {
        self.payload[0].len() + self.payload[1].len()
    }

    fn advance(&mut self, taken: usize) {
        let segments = self
            .template
            .as_ref()
            .map_or(1, |template| taken.div_ceil(template.size));
        self.index = self
            .index
            .wrapping_add(u16::try_from(segments).expect("a packet has fewer bytes"));
        self.given += taken;
        self.done = self.given == self.payload_len();
    }

    /// Copies the headers and as much of the payload as there is room for.
    fn copy(&self, out: &mut [u8]) {
        let (header, body) = out.split_at_mut(self.header.len());
        header.copy_from_slice(self.header);
        let [first, second] = self.payload;
        let first = first.get(self.given..).unwrap_or_default();
        let (front, back) = body.split_at_mut(body.len().min(first.len()));
        front.copy_from_slice(&first[..front.len()]);
        if !back.is_empty() {
            let at = (self.given + front.len()) - self.payload[0].len();
            back.copy_from_slice(&second[at..at + back.len()]);
        }
    }
}

impl Template {
    fn of(shape: Shape, header: &[u8], size: usize, segmentation: Segmentation) -> Self {
        let transport = &header[shape.transport_at..];
        let mut fixed = [0; super::MAX_HEADER];
        let fixed = &mut fixed[..header.len()];
        fixed.copy_from_slice(header);
        if shape.version == Version::V4 {
            fixed[2..6].fill(0);
            fixed[10..12].fill(0);
        }
        let (network, rest) = fixed.split_at_mut(shape.transport_at);
        let (sequence, flags) = match shape.transport {
            Transport::Tcp => {
                rest[SEQUENCE..SEQUENCE + 4].fill(0);
                rest[FLAGS] = 0;
                (be32(transport, SEQUENCE), transport[FLAGS])
            }
            Transport::Udp => {
                rest[4..6].fill(0);
                (0, 0)
            }
        };
        let checksum = shape.transport.checksum_at();
        rest[checksum..checksum + 2].fill(0);
        Self {
            shape,
            size,
            segmentation,
            network_sum: match shape.version {
                Version::V4 => Sum::default().bytes(network),
                Version::V6 => Sum::default(),
            },
            transport_sum: shape.pseudo_header(header).bytes(rest),
            sequence,
            flags,
            ident: be16(header, 4),
        }
    }

    /// Makes a segment of a copy of the super-packet's headers and a piece of its payload, which begins at `given`.
    fn segment(&self, out: &mut [u8], index: u16, given: usize, last: bool) {
        let shape = &self.shape;
        let total = out.len();
        self.network(out, index);
        let len = length(total - shape.transport_at);
        let mut sum = self.transport_sum.number(len);
        match shape.transport {
            Transport::Tcp => {
                let (sequence, flags) = self.tcp(out, given, last);
                sum = sum.number(sequence).number(u32::from(flags));
            }
            Transport::Udp => sum = sum.number(len),
        }
        let sum = sum.bytes(&out[shape.header_len..]).finish();
        shape.set_transport_checksum(out, sum);
    }

    /// Makes a smaller super-packet in the same way.
    fn group(&self, out: &mut [u8], index: u16, given: usize, last: bool) {
        self.network(out, index);
        if self.shape.transport == Transport::Tcp {
            self.tcp(out, given, last);
        }
        let at = self.shape.transport_at + self.shape.transport.checksum_at();
        out[at..at + 2].fill(0);
    }

    /// Sets lengths, identification and the IPv4 checksum.
    fn network(&self, out: &mut [u8], index: u16) {
        let total = out.len();
        self.shape.set_total_len(out, total);
        if self.shape.version == Version::V4 {
            let ident = self.ident.wrapping_add(index);
            put16(out, 4, usize::from(ident));
            let sum = self.network_sum.number(length(total));
            let sum = sum.number(u32::from(ident)).finish();
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// Sets sequence number and flags, and gives them.
    fn tcp(&self, out: &mut [u8], given: usize, last: bool) -> (u32, u8) {
        let mut flags = self.flags;
        if given > 0 {
            flags &= !CWR;
        }
        if !last {
            flags &= !(TcpFlags::FIN.0 | TcpFlags::PSH.0);
        }
        let sequence = self.sequence.wrapping_add(length(given));
        let header = &mut out[self.shape.transport_at..];
        header[SEQUENCE..SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        header[FLAGS] = flags;
        (sequence, flags)
    }
}
