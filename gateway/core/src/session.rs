//! One client's session: its tunnel, its path, its flows, its lease. It does not know other sessions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvpn_netstack::{FlowCounts, Netstack};
use kvpn_wire::control::SessionStatus;
use kvpn_wire::offload::{Segmentation, Split};
use kvpn_wire::queue::PacketQueue;
use kvpn_wire::wireguard::{MAX_HANDSHAKE, OVERHEAD, PresharedKey, PublicKey, Sealed, Tunnel};

use crate::address::Block;
use crate::allowance::Allowance;
use crate::event::SessionIndex;
use crate::output::{DropReason, Drops, Output};
use crate::path::Path;
use crate::schedule::Deadline;

/// Refusals by ICMP that one session gets: this many at once, then one each interval.
const REFUSALS: (u32, Duration) = (50, Duration::from_millis(20));
/// Packets for a path that takes no more at present.
const HELD_PACKETS: usize = 512;
const HELD_BYTES: usize = 512 << 10;
/// The longest packet that a super-packet is cut into: the kernel's segments fit the TUN, whose MTU is at most this.
const MAX_SEGMENT: usize = 1500;
/// Bytes by which padding can lengthen a packet before it is sealed.
const PADDING: usize = 15;

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) index: SessionIndex,
    pub(crate) id: String,
    pub(crate) key: PublicKey,
    pub(crate) preshared: PresharedKey,
    pub(crate) block: Block,
    pub(crate) tunnel: Tunnel,
    /// Where the last authenticated datagram came from.
    pub(crate) path: Option<Path>,
    /// The userspace datapath; made when the first packet needs it, so that a session that only uses the kernel has none.
    pub(crate) netstack: Option<Box<Netstack>>,
    pub(crate) netstack_seed: u64,
    /// Packets that wait because the path is blocked; only while there are any.
    pub(crate) held: Option<PacketQueue<Segmentation>>,
    pub(crate) created: Instant,
    pub(crate) lease_end: Instant,
    /// ICMP refusals that may still be sent.
    pub(crate) refusals: Allowance,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) drops: Drops,
    /// Whether it is in the list of sessions whose events and deadlines are to be looked at.
    pub(crate) touched: bool,
    /// Whether it is in the list of sessions that may have packets to send.
    pub(crate) ready: bool,
}

/// What a session is made of.
pub(crate) struct NewSession {
    pub(crate) index: SessionIndex,
    pub(crate) id: String,
    pub(crate) key: PublicKey,
    pub(crate) preshared: PresharedKey,
    pub(crate) block: Block,
    pub(crate) tunnel: Tunnel,
    pub(crate) netstack_seed: u64,
    pub(crate) lease: Duration,
}

impl Session {
    pub(crate) fn new(new: NewSession, now: Instant) -> Self {
        Self {
            index: new.index,
            id: new.id,
            key: new.key,
            preshared: new.preshared,
            block: new.block,
            tunnel: new.tunnel,
            path: None,
            netstack: None,
            netstack_seed: new.netstack_seed,
            held: None,
            created: now,
            lease_end: now + new.lease,
            refusals: Allowance::new(REFUSALS.0, REFUSALS.1, now),
            sent_bytes: 0,
            received_bytes: 0,
            drops: Drops::default(),
            touched: false,
            ready: false,
        }
    }

    /// Counts a drop, here and in the totals.
    pub(crate) fn count(&mut self, drop: DropReason, output: &mut Output) {
        self.drops.count(drop);
        output.totals.drops.count(drop);
    }

    /// Sends a packet, or all that a super-packet stands for.
    pub(crate) fn send_all(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        output: &mut Output,
        now: Instant,
    ) {
        if segmentation == Segmentation::Whole {
            return self.send(packet, output, now);
        }
        let Ok(mut packets) = Split::new(packet, segmentation) else {
            return self.count(DropReason::Malformed, output);
        };
        let mut segment = [0; MAX_SEGMENT];
        while let Some(length) = packets.next(&mut segment) {
            self.send(&segment[..length], output, now);
        }
    }

    /// Seals an inner packet and queues it for the session's path. What cannot be sent is dropped and counted.
    pub(crate) fn send(&mut self, packet: &[u8], output: &mut Output, now: Instant) {
        let Some(path) = self.path else {
            self.count(DropReason::NoPath, output);
            return;
        };
        let room = (packet.len() + PADDING + OVERHEAD).max(MAX_HANDSHAKE);
        let mut outcome = None;
        output.datagrams.push_with(path, room, |buf| {
            let sealed = self.tunnel.seal(packet, buf, now);
            outcome = Some(sealed);
            match sealed {
                Sealed::Datagram(length) | Sealed::Handshake(length) => length,
                Sealed::Queued | Sealed::Dropped => 0,
            }
        });
        match outcome {
            Some(Sealed::Datagram(_) | Sealed::Handshake(_) | Sealed::Queued) => {
                self.count_sent(packet.len(), output)
            }
            Some(Sealed::Dropped) => self.count(DropReason::Unsealed, output),
            None => self.count(DropReason::QueueFull, output),
        }
    }

    /// Sends up to `turn` packets: first those held back, then the flows' own. True when there may be more.
    pub(crate) fn serve(&mut self, turn: usize, output: &mut Output, now: Instant) -> bool {
        if let Some(mut held) = self.held.take() {
            let sent = (0..turn)
                .map_while(|_| {
                    held.pop().map(|(segmentation, packet)| {
                        self.send_all(packet, segmentation, output, now)
                    })
                })
                .count();
            self.held = (!held.is_empty()).then_some(held);
            return sent > 0;
        }
        let Some(mut netstack) = self.netstack.take() else {
            return false;
        };
        let sent = (0..turn)
            .map_while(|_| {
                netstack
                    .poll_packet()
                    .map(|packet| self.send(packet, output, now))
            })
            .count();
        self.netstack = Some(netstack);
        sent == turn
    }

    /// Keeps a packet until the path takes datagrams again.
    pub(crate) fn hold(&mut self, packet: &[u8], segmentation: Segmentation, output: &mut Output) {
        let held = self
            .held
            .get_or_insert_with(|| PacketQueue::new(HELD_PACKETS, HELD_BYTES));
        if !held.push(segmentation, packet) {
            self.count(DropReason::QueueFull, output);
        }
    }

    /// Something authentic came: answers go where it came from, and what waited for a handshake may go now.
    pub(crate) fn heard(&mut self, path: Path, output: &mut Output, now: Instant) {
        if self.path != Some(path) {
            tracing::debug!(session = self.id, %path, "path changed");
            self.path = Some(path);
        }
        self.flush_handshake_queue(output, now);
    }

    /// Sends what waited for the WireGuard handshake.
    fn flush_handshake_queue(&mut self, output: &mut Output, now: Instant) {
        let Some(path) = self.path else { return };
        let room = usize::from(u16::MAX);
        while output.datagrams.push_with(path, room, |buf| {
            self.tunnel.flush_queued(buf, now).unwrap_or(0)
        }) {}
    }

    /// Runs the WireGuard timers and those of the flows.
    pub(crate) fn handle_timeout(&mut self, output: &mut Output, now: Instant) {
        let mut buf = [0; MAX_HANDSHAKE];
        while let Some(length) = self.tunnel.handle_timeout(&mut buf, now) {
            match self.path {
                Some(path) if output.datagrams.push(path, &buf[..length]) => {}
                Some(_) => self.count(DropReason::QueueFull, output),
                None => self.count(DropReason::NoPath, output),
            }
        }
        if let Some(netstack) = &mut self.netstack {
            netstack.handle_timeout(now);
        }
    }

    /// When it wants to be woken; never `None`, because the lease ends some time.
    pub(crate) fn deadline(&self) -> Deadline {
        let tunnel = self.tunnel.poll_timeout();
        let netstack = self
            .netstack
            .as_ref()
            .and_then(|netstack| netstack.poll_timeout());
        [tunnel, netstack]
            .into_iter()
            .flatten()
            .fold(
                (self.lease_end, "lease"),
                |a, b| if b.0 < a.0 { b } else { a },
            )
    }

    /// The flows open now.
    pub(crate) fn flows(&self) -> FlowCounts {
        self.netstack
            .as_ref()
            .map_or_else(FlowCounts::default, |netstack| netstack.flows())
    }

    /// What `GET /v1/session` answers.
    pub(crate) fn status(&self, now: Instant) -> SessionStatus {
        let flows = self.flows();
        SessionStatus {
            session_id: self.id.clone(),
            path: self.path.map_or_else(String::new, |path| path.to_string()),
            uptime_seconds: now.saturating_duration_since(self.created).as_secs(),
            sent_bytes: self.sent_bytes,
            received_bytes: self.received_bytes,
            flows: u32::try_from(flows.tcp + flows.udp + flows.echo).unwrap_or(u32::MAX),
            dropped: self.dropped(),
        }
    }

    fn dropped(&self) -> BTreeMap<String, u64> {
        let own = self
            .drops
            .iter()
            .map(|(drop, count)| (drop.name().to_owned(), count));
        let flows = self
            .netstack
            .iter()
            .flat_map(|netstack| netstack.dropped().iter());
        let flows = flows
            .filter(|&(_, count)| count > 0)
            .map(|(name, count)| (format!("userspace_{name}"), count));
        own.chain(flows).collect()
    }

    fn count_sent(&mut self, length: usize, output: &mut Output) {
        self.sent_bytes += length as u64;
        output.totals.sent_bytes += length as u64;
        output.totals.sent_packets += 1;
    }
}
