//! Where a TCP flow stands, read off its segments: what smoltcp keeps to itself and a bare acknowledgement has to say.

use kvpn_wire::packet::{Ip, TcpFlags, build, checksum};

use crate::flows::Tuple;
use crate::outbox::Outbox;
use crate::tcp::Segment;

/// The longest bare segment: IPv6 and TCP headers.
const MAX_BARE: usize = 60;

/// The numbers of one flow (RFC 9293 section 3.3.1), as they went over the link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// SND.NXT: the next sequence number to send. `None` before the first segment.
    next: Option<u32>,
    /// RCV.NXT: the next sequence number expected of the peer.
    expected: u32,
    /// The window field that was sent last.
    window: u16,
    /// Until the first segment behind our SYN: the first sequence number that the peer may not send yet.
    opening_edge: Option<u32>,
    /// The sequence number of our FIN, once it was sent.
    fin: Option<u32>,
    /// The first sequence number that the peer has no room for.
    edge: Option<u32>,
    /// By how much the peer's window field is scaled (RFC 7323 section 2).
    shift: u8,
}

/// The part of the sequence space that a segment takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) sequence: u32,
    pub(super) end: u32,
    /// SND.NXT before it.
    pub(super) before: u32,
    pub(super) syn: bool,
}

impl Numbers {
    /// SND.NXT; 0 before the first segment.
    pub(super) fn next(&self) -> u32 {
        self.next.unwrap_or(0)
    }

    /// By how much the peer's window field is scaled.
    pub(super) fn shift(&self) -> u8 {
        self.shift
    }

    /// Takes note of the peer's SYN, when it is the one that counts.
    pub(crate) fn heard_syn(&mut self, segment: &Segment) {
        self.shift = segment.window_scale;
        self.opening_edge = Some(
            segment
                .sequence
                .wrapping_add(1)
                .wrapping_add(u32::from(self.window)),
        );
    }

    /// Takes note of what the peer has room for.
    pub(crate) fn heard(&mut self, segment: &Segment) {
        let shift = if segment.syn { 0 } else { self.shift };
        let edge = segment
            .acknowledgement
            .wrapping_add(u32::from(segment.window) << shift);
        if segment.ack && self.edge.is_none_or(|known| is_after(edge, known)) {
            self.edge = Some(edge);
        }
    }

    /// Takes note of a packet that the flow sends, and corrects it; tells what of the sequence space it takes.
    ///
    /// When smoltcp retransmits, it takes SND.NXT back, and its acknowledgements carry numbers that the peer must reject as old
    /// (RFC 9293 section 3.10.7.4). When both ends do so, neither ever hears the other. A bare acknowledgement therefore gets
    /// the highest number that was sent, as far as the peer has room: a probe of a closed window does not count.
    pub(super) fn sent(&mut self, packet: &mut [u8]) -> Option<Sent> {
        let ip = Ip::parse(packet).ok()?;
        let (at, segment) = (ip.header_len(), ip.tcp()?);
        let has = |flag| segment.flags().contains(flag);
        if has(TcpFlags::RST) {
            return None;
        }
        self.expected = segment.acknowledgement();
        let window = segment.window();
        self.window = match has(TcpFlags::SYN) {
            true => window,
            // smoltcp rounds down, and by another amount each time, so that the window's edge would go back a little and
            // segments be cut: one unit less is what it always keeps to.
            false => window.saturating_sub(1),
        };
        let edge = self.expected.wrapping_add(u32::from(self.window));
        self.opening_edge = has(TcpFlags::SYN).then_some(edge);
        let (sequence, len, syn) = (
            segment.sequence(),
            segment.sequence_len(),
            has(TcpFlags::SYN),
        );
        let end = sequence.wrapping_add(len);
        if has(TcpFlags::FIN) {
            self.fin = Some(end.wrapping_sub(1));
        }
        let before = self.next.unwrap_or(sequence);
        if !syn {
            set_word(&mut packet[at..], WINDOW, self.window);
        }
        if len == 0 && is_after(before, sequence) {
            set_word(&mut packet[at..], SEQUENCE, (before >> 16) as u16);
            set_word(&mut packet[at..], SEQUENCE + 2, before as u16);
        }
        let edge = self.edge.unwrap_or(end);
        let within = if is_after(end, edge) { edge } else { end };
        if is_after(within, before) || self.next.is_none() {
            self.next = Some(within);
        }
        (len > 0 && !is_after(sequence.wrapping_add(1), edge)).then_some(Sent {
            sequence,
            end,
            before,
            syn,
        })
    }

    /// Whether a segment reaches beyond the window of our SYN. smoltcp would take it, because it scales that window by mistake,
    /// and would later stumble over bytes that its buffer had no room for.
    pub(crate) fn exceeds_opening(&self, segment: &Segment) -> bool {
        let end = segment.sequence.wrapping_add(segment.payload as u32);
        segment.payload > 0 && self.opening_edge.is_some_and(|edge| is_after(end, edge))
    }

    /// How many bytes the peer has room for, from this one on.
    pub(super) fn room(&self, first: u32) -> u32 {
        let edge = self.edge.filter(|&edge| is_after(edge, first));
        edge.map_or(0, |edge| edge.wrapping_sub(first))
    }

    /// The sequence number of our FIN, once it was sent.
    pub(super) fn fin(&self) -> Option<u32> {
        self.fin
    }

    /// Whether a SYN with this sequence number begins a new life of the tuple (RFC 9293 section 3.6.1: greater than all
    /// that was received).
    pub(crate) fn is_outlived_by(&self, sequence: u32) -> bool {
        is_after(sequence, self.expected)
    }

    /// Whether this is exactly the next sequence number of the peer.
    pub(crate) fn is_expected(&self, sequence: u32) -> bool {
        sequence == self.expected
    }

    /// Whether the peer was told the same before.
    pub(super) fn acknowledges_like(&self, before: &Self) -> bool {
        (self.expected, self.window) == (before.expected, before.window)
    }

    /// Makes a bare acknowledgement in `out`; returns its length.
    pub(super) fn acknowledgement(&self, tuple: &Tuple, out: &mut [u8]) -> Option<usize> {
        let segment = build::Segment {
            sequence: self.next(),
            acknowledgement: self.expected,
            flags: TcpFlags::ACK,
            window: self.window,
            ..build::Segment::default()
        };
        build::tcp(tuple.own, tuple.peer, &segment, out)
    }

    /// Sends a bare acknowledgement: the answer to a repeated FIN, or a challenge (RFC 5961 section 4).
    pub(crate) fn acknowledge(&self, tuple: &Tuple, outbox: &mut Outbox) {
        outbox.push_with(MAX_BARE, |buf| {
            self.acknowledgement(tuple, buf).unwrap_or(0)
        });
    }
}

/// Sequence number comparison modulo 2^32 (RFC 9293 section 3.4).
pub(super) fn is_after(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

/// Where fields are in a TCP header.
const SEQUENCE: usize = 4;
const WINDOW: usize = 14;
const CHECKSUM: usize = 16;

/// Puts another 16-bit word into a TCP segment, whose checksum stays right.
fn set_word(segment: &mut [u8], at: usize, new: u16) {
    let word = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let sum = checksum::updated(word(CHECKSUM), word(at), new);
    segment[at..at + 2].copy_from_slice(&new.to_be_bytes());
    segment[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        assert!(is_after(5, u32::MAX - 5));
        assert!(!is_after(u32::MAX - 5, 5));
        assert!(!is_after(7, 7));
    }
}
