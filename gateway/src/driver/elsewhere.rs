//! A driver among others: what it has for them, what they have for it, and what all share.

use std::time::Instant;

use kvpn_gateway_core::{Path, Stranger, StreamId};
use kvpn_wire::wireguard::PublicKey;

use super::{Driver, fairness};
use crate::neighbours::Message;

impl Driver {
    /// Takes what other drivers have for this one, and hands them what is theirs.
    pub(super) fn hear_neighbours(&mut self, now: Instant) {
        if self.neighbours.shard().count() == 1 {
            return;
        }
        let with_flows = self.neighbours.flows_elsewhere();
        if with_flows != self.elsewhere.with_flows {
            self.look_elsewhere();
        }
        for _ in 0..super::MESSAGES {
            let Some(message) = self.neighbours.next() else {
                break;
            };
            self.take_over(message, now);
            self.write_tun();
        }
        while let Some(stranger) = self.state.poll_stranger() {
            self.introduce(stranger, now);
        }
    }

    fn take_over(&mut self, message: Message, now: Instant) {
        match message {
            Message::Datagrams(from, bytes, stride) => {
                let path = Path::Udp(from);
                fairness::take_in(self.behind, &mut self.state, path, &bytes, stride, now);
            }
            Message::Initiation(stranger) => self.state.handle_stranger(&stranger, now),
            Message::Stream(handover) => {
                let registry = self.poll.registry();
                self.api
                    .take_over(*handover, registry, &mut self.state, now);
            }
        }
    }

    /// Hands an initiation to the part that has its sender's session. If none has one, this part counts that.
    fn introduce(&mut self, stranger: Stranger, now: Instant) {
        let own = self.neighbours.shard().number();
        let owner = self.neighbours.directory.part_of(&stranger.key);
        match (owner.filter(|&owner| owner != own), stranger.path) {
            (None, _) => self.state.handle_stranger(&stranger, now),
            (Some(owner), Path::Udp(_)) => {
                let message = Message::Initiation(Box::new(stranger));
                self.neighbours.hand_over(owner, message);
            }
            (Some(owner), Path::Api(stream)) => {
                self.hand_stream_over(owner, stream, Some(stranger));
            }
        }
    }

    /// Gives a stream to the part that has its session.
    pub(super) fn hand_stream_over(
        &mut self,
        part: u8,
        stream: StreamId,
        initiation: Option<Stranger>,
    ) {
        let registry = self.poll.registry();
        let handover = self
            .api
            .hand_over(stream, initiation, registry, &mut self.state);
        if let Some(handover) = handover {
            let message = Message::Stream(Box::new(handover));
            self.neighbours.hand_over(part, message);
        }
    }

    /// Tells the state what the other parts have.
    pub(super) fn look_elsewhere(&mut self) {
        let own = self.neighbours.shard().number();
        self.elsewhere = self.neighbours.directory.elsewhere(own);
        self.state.set_elsewhere(self.elsewhere);
    }

    /// Tells the directory whether the client has a session here.
    pub(super) fn note_session(&self, key: &PublicKey) {
        let own = self.neighbours.shard().number();
        if self.state.has_session(key) {
            self.neighbours.directory.put(*key, own);
        } else {
            self.neighbours.directory.remove(key, own);
        }
    }
}
