//! One UDP or echo flow: what waits in it, and what an ICMP error about it quotes. It does not build packets.

use std::time::Instant;

use crate::waiting::Waiting;

/// One flow of datagrams or of echo requests.
#[derive(Debug)]
pub(crate) struct DatagramFlow {
    /// What came and was not taken; an echo request's number is its sequence number.
    pub(crate) waiting: Waiting,
    /// When something went either way last.
    pub(crate) active: Instant,
    /// The last packet that came, or its head.
    quoted: Vec<u8>,
}

/// Bytes of the last packet that are kept: what an ICMP error may quote of it within 576 bytes (RFC 1812 section 4.3.2.3).
const QUOTED: usize = 548;

impl DatagramFlow {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            waiting: Waiting::default(),
            active: now,
            quoted: Vec::new(),
        }
    }

    /// Takes a datagram in; false when there is no room.
    pub(crate) fn take_in(
        &mut self,
        packet: &[u8],
        number: u16,
        payload: &[u8],
        now: Instant,
    ) -> bool {
        self.active = now;
        self.quoted.clear();
        self.quoted
            .extend_from_slice(&packet[..packet.len().min(QUOTED)]);
        self.waiting.push(number, payload)
    }

    /// What an ICMP error quotes; `None` when nothing came yet.
    pub(crate) fn quoted(&self) -> Option<&[u8]> {
        (!self.quoted.is_empty()).then_some(&self.quoted)
    }
}
