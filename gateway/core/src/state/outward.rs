//! Towards the clients: packets from the TUN and from the flows, sealed when a carrier asks for them.
//!
//! Flows are drained only as fast as their path takes datagrams, so that a slow carrier slows the flows
//! down instead of losing their packets.

use std::time::Instant;

use kvpn_wire::TUNNEL_MTU;
use kvpn_wire::offload::{Abilities, Segmentation};
use kvpn_wire::packet;

use super::GatewayState;
use crate::event::SessionIndex;
use crate::output::DropReason;
use crate::path::{Path, Transmit};

/// Packets that one session sends before the next one's turn.
const TURN: usize = 32;

impl GatewayState {
    /// What the kernel datapath's TUN takes in one piece; nothing but single packets until it is said.
    pub fn set_abilities(&mut self, abilities: Abilities) {
        self.output.packets.set_abilities(abilities);
    }

    /// Takes a packet from the kernel datapath's TUN, or a super-packet that stands for several. It goes to the session whose
    /// client it is addressed to.
    pub fn handle_tun_packet(
        &mut self,
        packet: &mut [u8],
        segmentation: Segmentation,
        now: Instant,
    ) {
        let Ok(ip) = packet::Ip::parse(packet) else {
            self.output.totals.drops.count(DropReason::Malformed);
            return;
        };
        let Some(index) = self.sessions.with_client(ip.dst()) else {
            self.output.totals.drops.count(DropReason::UnknownAddress);
            return;
        };
        clamp_mss(packet);
        self.send(index, packet, segmentation, now);
    }

    /// The next packet for the TUN, or a super-packet as far as [`Self::set_abilities`] allows.
    pub fn poll_packet(&mut self) -> Option<(&mut [u8], Segmentation)> {
        self.output.packets.pop()
    }

    /// The next datagram to send. Sealing is done here, on demand.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit<'_>> {
        self.settle();
        while self.output.datagrams.is_empty() && self.serve_next(now) {}
        self.output.datagrams.pop().map(|batch| Transmit {
            path: batch.tag,
            payload: batch.bytes,
            segment: batch.segment,
        })
    }

    /// The carrier takes no more datagrams for `path` at present: flows wait, and so do the kernel's packets.
    pub fn path_blocked(&mut self, path: Path) {
        self.blocked.entry(path).or_default();
    }

    /// The carrier takes datagrams for `path` again.
    pub fn path_ready(&mut self, path: Path) {
        for index in self.blocked.remove(&path).into_iter().flatten() {
            self.make_ready(index);
        }
    }

    /// The path is gone. Its sessions have none until they are heard again.
    pub fn path_closed(&mut self, path: Path) {
        self.path_ready(path);
        for session in self
            .sessions
            .iter_mut()
            .filter(|session| session.path == Some(path))
        {
            session.path = None;
        }
    }

    /// Sends a packet to the session's client, now or when its path takes it.
    pub(super) fn send(
        &mut self,
        index: SessionIndex,
        packet: &[u8],
        segmentation: Segmentation,
        now: Instant,
    ) {
        let Some(session) = self.sessions.session_mut(index) else {
            return;
        };
        let waits = session.held.is_some()
            || session
                .path
                .is_some_and(|path| self.blocked.contains_key(&path));
        if waits {
            session.hold(packet, segmentation, &mut self.output);
            self.make_ready(index);
        } else {
            session.send_all(packet, segmentation, &mut self.output, now);
        }
        self.touch(index);
    }

    /// Puts the session on the list of those that may have packets to send.
    pub(super) fn make_ready(&mut self, index: SessionIndex) {
        if let Some(session) = self
            .sessions
            .session_mut(index)
            .filter(|session| !session.ready)
        {
            session.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Gives the next session its turn; false when no session is waiting for one.
    fn serve_next(&mut self, now: Instant) -> bool {
        let Some(index) = self.ready.pop_front() else {
            return false;
        };
        let Some(session) = self.sessions.session_mut(index) else {
            return true;
        };
        session.ready = false;
        if let Some(waiting) = session.path.and_then(|path| self.blocked.get_mut(&path)) {
            waiting.insert(index);
            return true;
        }
        let more = session.serve(TURN, &mut self.output, now);
        self.collect(index);
        if more {
            self.make_ready(index);
        }
        true
    }
}

/// Makes TCP choose segments that fit the tunnel, whatever MTU the ends have.
pub(super) fn clamp_mss(packet: &mut [u8]) {
    let headers = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        60
    } else {
        40
    };
    packet::clamp_mss(packet, (TUNNEL_MTU - headers) as u16);
}
