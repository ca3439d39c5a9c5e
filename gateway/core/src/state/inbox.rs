//! Datagrams that wait to be opened while the gateway is behind: a queue for each session, served in turn by bytes, so that a session that
//! sends more than can be served makes itself wait, and loses what finds no room, and no other. A session that sends little goes
//! first.
//!
//! Whoever receives has to empty its sockets into it: what waits there waits for everybody.

use std::time::{Duration, Instant};

use kvpn_wire::fq_codel::{FqCodel, Settings};
use kvpn_wire::wireguard::{Kind, classify};

use super::GatewayState;
use crate::event::SessionIndex;
use crate::output::DropReason;
use crate::path::Path;

/// Packets for flows that are opened before the flows' sockets have them: each may cost several system calls.
const FLOW_PACKETS: u64 = 8;
/// Bytes that are opened before the kernel has them: as many as it takes at once.
const BYTES: usize = 64 << 10;
/// Datagrams and bytes that wait. Nothing is dropped for having waited long: ends notice that as delay, and whoever sends too much
/// as loss when it has no room left.
const BOUNDS: Settings = Settings {
    max_packets: 4096,
    max_bytes: 4 << 20,
    target: Duration::MAX,
    interval: Duration::MAX,
};

/// The queues, each datagram with where it came from and whose it is.
pub(super) type Inbox = FqCodel<(Path, SessionIndex)>;

impl GatewayState {
    /// Takes datagrams as [`Self::handle_datagrams`] does, to be opened by [`Self::handle_waiting`] when it is their session's turn.
    pub fn queue_datagrams(&mut self, path: Path, bytes: &[u8], stride: usize, now: Instant) {
        for datagram in bytes.chunks(stride.max(1)) {
            match classify(datagram) {
                Some(
                    Kind::Response { receiver }
                    | Kind::Cookie { receiver }
                    | Kind::Data { receiver },
                ) => self.queue(SessionIndex::of_receiver(receiver), path, datagram, now),
                // Within limits of their own.
                Some(Kind::Initiation) | None => self.handle_datagram(path, datagram, now),
            }
        }
    }

    fn queue(&mut self, index: SessionIndex, path: Path, datagram: &[u8], now: Instant) {
        if !self.sessions.contains(index) {
            return self.output.totals.drops.count(DropReason::UnknownSession);
        }
        let seed = self.inbox_seed;
        let inbox = self
            .inbox
            .get_or_insert_with(|| Box::new(Inbox::new(BOUNDS, seed)));
        inbox.push_flow(index.0.into(), (path, index), datagram, now);
        for _ in 0..inbox.take_counts().overflowed {
            self.output.totals.drops.count(DropReason::Overloaded);
        }
    }

    /// Opens datagrams whose turn it is, as many as are to be opened before what they ask for is done. Whether there may be more.
    pub fn handle_waiting(&mut self, now: Instant) -> bool {
        let (flows, mut bytes) = (self.to_flows + FLOW_PACKETS, 0);
        while self.to_flows < flows && bytes < BYTES {
            let Some(length) = self.open_next(now) else {
                return false;
            };
            bytes += length;
        }
        true
    }

    /// Opens the datagram whose turn it is; how long it was.
    fn open_next(&mut self, now: Instant) -> Option<usize> {
        let mut inbox = self.inbox.take()?;
        let mut packets = std::mem::take(&mut self.output.packets);
        let length = inbox.pop(now).map(|(datagram, (path, index))| {
            self.open(index, path, datagram, &mut packets, now);
            datagram.len()
        });
        self.output.packets = packets;
        self.inbox = Some(inbox);
        length
    }

    /// Whether datagrams wait.
    pub fn has_waiting(&self) -> bool {
        self.inbox.as_ref().is_some_and(|inbox| !inbox.is_empty())
    }

    /// Whether there are others whom a session could keep waiting.
    pub fn is_shared(&self) -> bool {
        self.sessions.len() > 1
    }
}
