//! The IP and TCP headers of what a flow sends. It decides nothing.

use kvpn_wire::packet::{TcpFlags, build, checksum};

use super::options::Writer;
use super::sequence::Seq;
use crate::flows::Tuple;

/// The longest headers: IPv6 and TCP with all options.
pub(crate) const MAX_HEADER: usize = 100;
/// An IPv4 header without options.
const IPV4: usize = 20;
/// An IPv6 header.
const IPV6: usize = 40;

/// The fields of a segment to send, or of several in one.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(super) seq: Seq,
    pub(super) ack: Option<Seq>,
    pub(super) flags: TcpFlags,
    pub(super) window: u16,
    pub(super) options: Writer,
    /// Bytes of payload.
    pub(super) len: u32,
    /// Bytes of payload in each segment but the last.
    pub(super) size: u16,
}

impl Departure {
    /// Bytes of payload.
    pub(crate) fn payload_len(&self) -> u32 {
        self.len
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Writes the headers for this flow, complete when there is no payload; returns their length.
    pub(crate) fn write(&self, tuple: &Tuple, out: &mut [u8; MAX_HEADER]) -> usize {
        let segment = self.segment(&[]);
        let len = build::tcp(tuple.own, tuple.peer, &segment, out).unwrap_or(0);
        if self.len > 0 {
            lengthen(out, tuple.own.is_ipv4(), self.len as u16);
        }
        len
    }

    /// Writes the whole packet; returns its length.
    pub(crate) fn write_whole(
        &self,
        tuple: &Tuple,
        payload: [&[u8]; 2],
        out: &mut Vec<u8>,
    ) -> usize {
        let at = MAX_HEADER;
        out.resize(2 * (at + self.len as usize), 0);
        let (whole, joined) = out.split_at_mut(at + self.len as usize);
        let (one, two) = joined.split_at_mut(payload[0].len());
        one.copy_from_slice(payload[0]);
        two[..payload[1].len()].copy_from_slice(payload[1]);
        let segment = self.segment(&joined[..self.len as usize]);
        build::tcp(tuple.own, tuple.peer, &segment, whole).unwrap_or(0)
    }

    fn segment<'a>(&'a self, payload: &'a [u8]) -> build::Segment<'a> {
        let ack = if self.ack.is_some() {
            TcpFlags::ACK
        } else {
            TcpFlags::default()
        };
        build::Segment {
            sequence: self.seq.0,
            acknowledgement: self.ack.unwrap_or_default().0,
            flags: self.flags.with(ack),
            window: self.window,
            options: self.options.bytes(),
            payload,
        }
    }
}

/// Makes the IP header say that so many bytes more follow.
fn lengthen(out: &mut [u8; MAX_HEADER], v4: bool, more: u16) {
    let at = if v4 { 2 } else { 4 };
    let word = |at: usize| u16::from_be_bytes([out[at], out[at + 1]]);
    let (old, sum) = (word(at), word(10));
    let new = old + more;
    out[at..at + 2].copy_from_slice(&new.to_be_bytes());
    if v4 {
        out[10..12].copy_from_slice(&checksum::updated(sum, old, new).to_be_bytes());
    }
}

/// Most bytes of payload behind a TCP header with so many bytes of options: a packet's length field has 16 bits, and an IPv4 packet's
/// counts its header.
pub(super) fn max_payload(v4: bool, options: u32) -> u32 {
    65_535 - headers(v4) - options
}

/// Length of the IP and TCP headers without options.
pub(crate) fn headers(v4: bool) -> u32 {
    (if v4 { IPV4 } else { IPV6 }) as u32 + 20
}
