//! Towards the clients: packets from the TUN and from the flows, sealed when a carrier asks for them.
//!
//! Flows are drained only as fast as their path takes datagrams, so that a slow carrier slows the flows
//! down instead of losing their packets.

use std::time::Instant;

use kvpn_wire::offload::{Abilities, Segmentation, trailer};
use kvpn_wire::{packet, pmtud};

use super::GatewayState;
use crate::event::SessionIndex;
use crate::output::DropReason;
use crate::path::{Path, Transmit};
use crate::rooms::Room;

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
        if let Some(session) = self.sessions.session(index) {
            clamp_mss(packet, session.limit());
        }
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
        self.output.datagrams.pop()
    }

    /// The carrier takes `bytes` of datagrams for `path` at present, with super-packets of at most `piece` bytes. What goes beyond, a
    /// piece at most, it has to take as well, and handshakes. Holds until it is said again; a path of which nothing was said
    /// takes everything. What finds no room waits: flows in their sockets, the kernel's packets in a queue for each flow.
    pub fn path_room(&mut self, path: Path, bytes: usize, piece: usize) {
        let piece = piece.clamp(pmtud::MAX, trailer::MAX_SUPER);
        for index in self.rooms.set(path, Room { left: bytes, piece }) {
            self.make_ready(index);
        }
    }

    /// The path is gone. Its sessions have none until they are heard again.
    pub fn path_closed(&mut self, path: Path) {
        for index in self.rooms.forget(path) {
            self.make_ready(index);
        }
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
        let path = session.path;
        let mut room = self.rooms.of(path);
        session.send_or_wait(packet, segmentation, &mut room, &mut self.output, now);
        self.rooms.leave(path, room);
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
        let path = session.path;
        if self.rooms.wait(path, index) {
            return true;
        }
        let mut room = self.rooms.of(path);
        let more = session.serve(&mut room, &mut self.output, now);
        self.rooms.leave(path, room);
        self.collect(index);
        if more {
            self.make_ready(index);
        }
        true
    }
}

/// Makes TCP choose segments that fit the session's path, whatever MTU the ends have.
pub(super) fn clamp_mss(packet: &mut [u8], limit: usize) {
    let headers = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        60
    } else {
        40
    };
    packet::clamp_mss(packet, (limit - headers) as u16);
}
