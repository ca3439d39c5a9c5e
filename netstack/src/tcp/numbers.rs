//! What is left of a flow in TIME-WAIT: the numbers that a repeated FIN is answered with, and that tell an old segment from a new flow.

use kvpn_wire::packet::{TcpFlags, build};

use super::sequence::Seq;
use crate::flows::Tuple;
use crate::outbox::Outbox;

/// The longest bare segment: IPv6 and TCP headers.
const MAX_BARE: usize = 60;

/// Where a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// SND.NXT.
    pub(super) next: Seq,
    /// RCV.NXT.
    pub(super) expected: Seq,
    /// The window field that was sent last.
    pub(super) window: u16,
}

impl Numbers {
    /// Whether a SYN with this sequence number begins a new life of the tuple (RFC 9293 section 3.6.1: greater than all
    /// that was received).
    pub(crate) fn is_outlived_by(&self, seq: Seq) -> bool {
        seq.is_after(self.expected)
    }

    /// Whether this is exactly the next sequence number of the peer.
    pub(crate) fn is_expected(&self, seq: Seq) -> bool {
        seq == self.expected
    }

    /// Sends a bare acknowledgement: the answer to a repeated FIN, or a challenge (RFC 5961 section 4).
    pub(crate) fn acknowledge(&self, tuple: &Tuple, outbox: &mut Outbox) {
        let segment = build::Segment {
            sequence: self.next.0,
            acknowledgement: self.expected.0,
            flags: TcpFlags::ACK,
            window: self.window,
            ..build::Segment::default()
        };
        outbox.push_with(MAX_BARE, |buf| {
            build::tcp(tuple.own, tuple.peer, &segment, buf).unwrap_or(0)
        });
    }
}
