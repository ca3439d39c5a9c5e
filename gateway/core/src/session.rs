//! One client's session: its tunnel, its path, its flows, its lease. It does not know other sessions.

mod too_long;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvpn_netstack::{Emitted, FlowCounts, Netstack};
use kvpn_wire::control::SessionStatus;
use kvpn_wire::fq_codel::{self, FqCodel};
use kvpn_wire::offload::{Segmentation, Split, trailer};
use kvpn_wire::packet::Ip;
use kvpn_wire::pmtud;
use kvpn_wire::wireguard::{MAX_HANDSHAKE, OVERHEAD, PresharedKey, PublicKey, Sealed, Tunnel};

use crate::address::Block;
use crate::allowance::Allowance;
use crate::event::SessionIndex;
use crate::output::{DropReason, Drops, Output};
use crate::path::Path;
use crate::rooms::Room;
use crate::schedule::Deadline;

/// Refusals by ICMP that one session gets: this many at once, then one each interval.
const REFUSALS: (u32, Duration) = (50, Duration::from_millis(20));
/// The longest packet that a super-packet is cut into: the kernel's segments fit the TUN, whose MTU is [`pmtud::MAX`].
pub(crate) const MAX_SEGMENT: usize = 1500;
/// Packets and bytes that one session sends before the next one's turn.
const TURN: usize = 32;
const TURN_BYTES: usize = 256 << 10;
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
    /// Whether the gateway ever opened a flow to the client.
    pub(crate) dialled: bool,
    /// Packets that wait for room on the path; only while there are any, and a while longer.
    waiting: Option<Box<FqCodel<Segmentation>>>,
    /// Whether the client takes super-packets.
    super_packets: bool,
    /// The longest inner packet in bytes that its UDP path carries, as the client found.
    limit: usize,
    /// Tells the fragments of one packet from those of others.
    fragment_id: u32,
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
    pub(crate) super_packets: bool,
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
            dialled: false,
            waiting: None,
            super_packets: new.super_packets,
            limit: pmtud::BASE,
            fragment_id: (new.netstack_seed >> 32) as u32,
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

    /// Sends a packet, or all that a super-packet stands for, as far as there is room, and lets the rest wait.
    pub(crate) fn send_or_wait(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        room: &mut Room,
        output: &mut Output,
        now: Instant,
    ) {
        if segmentation == Segmentation::Whole || packet.len() <= room.piece {
            return self.send_piece(packet, segmentation, room, output, now);
        }
        let Ok(mut pieces) = Split::new(packet, segmentation) else {
            return self.count(DropReason::Malformed, output);
        };
        let mut piece = std::mem::take(&mut output.piece);
        while let Some((length, segmentation)) = pieces.next_super(room.piece, &mut piece) {
            self.send_piece(&piece[..length], segmentation, room, output, now);
        }
        output.piece = piece;
    }

    fn send_piece(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        room: &mut Room,
        output: &mut Output,
        now: Instant,
    ) {
        let others_wait = self.waiting.as_ref().is_some_and(|queue| !queue.is_empty());
        if !others_wait && room.left > 0 {
            return room.take(self.send_all(packet, segmentation, output, now));
        }
        let seed = self.netstack_seed;
        let queue = self
            .waiting
            .get_or_insert_with(|| Box::new(FqCodel::new(fq_codel::Settings::default(), seed)));
        queue.push(segmentation, packet, now);
        let counts = queue.take_counts();
        self.count_waiting(counts, output);
    }

    fn count_waiting(&mut self, counts: fq_codel::Counts, output: &mut Output) {
        for _ in 0..counts.overflowed {
            self.count(DropReason::QueueFull, output);
        }
        for _ in 0..counts.dropped {
            self.count(DropReason::Congested, output);
        }
    }

    /// Sends a packet, or all that a super-packet stands for; how many bytes that made.
    fn send_all(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        output: &mut Output,
        now: Instant,
    ) -> usize {
        if segmentation == Segmentation::Whole {
            return self.send(packet, output, now);
        }
        if self.takes_super_packets(self.path)
            && let Some(sent) = self.send_super(packet, segmentation, output, now)
        {
            return sent;
        }
        let Ok(mut packets) = Split::new(packet, segmentation) else {
            self.count(DropReason::Malformed, output);
            return 0;
        };
        let longest = packets.max_len();
        let mut segment = [0; MAX_SEGMENT];
        let mut sent = 0;
        while let Some(length) = packets.next(&mut segment) {
            // One refusal is enough for all of them.
            if longest > self.limit && self.refuses(&segment[..length]) {
                self.refuse(&segment[..length], output, now);
                break;
            }
            sent += self.send(&segment[..length], output, now);
        }
        sent
    }

    /// Sends a super-packet as one datagram; `None` when it is too long for that.
    fn send_super(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        output: &mut Output,
        now: Instant,
    ) -> Option<usize> {
        let mut plaintext = std::mem::take(&mut output.plaintext);
        let length = plaintext
            .get_mut(..packet.len())
            .map(|buffer| buffer.copy_from_slice(packet))
            .and_then(|()| trailer::append(&mut plaintext, packet.len(), segmentation));
        let sent = length.map(|length| self.send(&plaintext[..length], output, now));
        output.plaintext = plaintext;
        sent
    }

    /// Super-packets go over a stream only: a datagram has to fit the path.
    fn takes_super_packets(&self, path: Option<Path>) -> bool {
        self.super_packets && matches!(path, Some(Path::Api(_)))
    }

    /// How a packet that came on `path` is to be cut: the first `len` bytes of what was opened.
    pub(crate) fn segmentation(&self, path: Path, plaintext: &[u8], len: usize) -> Segmentation {
        if self.takes_super_packets(Some(path)) {
            trailer::read(plaintext, len)
        } else {
            Segmentation::Whole
        }
    }

    /// Sends an inner packet as [`Self::seal`] does, or what is to be done with one that is too long for the path.
    fn send(&mut self, packet: &[u8], output: &mut Output, now: Instant) -> usize {
        if self.is_too_long(packet.len()) {
            return self.send_too_long(packet, output, now);
        }
        self.seal(packet, output, now)
    }

    /// Seals an inner packet and queues it for the session's path; how many bytes it is with all that is around it. What cannot be
    /// sent is dropped and counted.
    pub(crate) fn seal(&mut self, packet: &[u8], output: &mut Output, now: Instant) -> usize {
        let Some(path) = self.path else {
            self.count(DropReason::NoPath, output);
            return 0;
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
        room
    }

    /// Sends some of what waits and of what the flows have, as far as there is room. True when there may be more.
    pub(crate) fn serve(&mut self, room: &mut Room, output: &mut Output, now: Instant) -> bool {
        let enough = room.left.saturating_sub(TURN_BYTES);
        for _ in 0..TURN {
            if room.left <= enough {
                return true;
            }
            let waited = self.serve_waiting(room, output, now);
            let flowed = self.serve_flows(room, output, now);
            if !waited && !flowed {
                return false;
            }
        }
        true
    }

    /// Sends the packet whose turn it is among those that wait.
    fn serve_waiting(&mut self, room: &mut Room, output: &mut Output, now: Instant) -> bool {
        let Some(mut queue) = self.waiting.take() else {
            return false;
        };
        let popped = queue.pop(now).map(|(packet, segmentation)| {
            room.take(self.send_all(packet, segmentation, output, now));
        });
        let counts = queue.take_counts();
        self.waiting = Some(queue);
        self.count_waiting(counts, output);
        popped.is_some()
    }

    /// Sends the next packet of the flows.
    fn serve_flows(&mut self, room: &mut Room, output: &mut Output, now: Instant) -> bool {
        let Some(mut netstack) = self.netstack.take() else {
            return false;
        };
        let polled = netstack
            .poll_packet(room.piece)
            .map(|emitted| self.send_emitted(&emitted, room, output, now));
        self.netstack = Some(netstack);
        polled.is_some()
    }

    /// Sends what a flow gave: a packet, or a super-packet, cut into what the path takes.
    fn send_emitted(
        &mut self,
        emitted: &Emitted<'_>,
        room: &mut Room,
        output: &mut Output,
        now: Instant,
    ) {
        if emitted.segmentation == Segmentation::Whole {
            return room.take(self.send(emitted.header, output, now));
        }
        let Ok(mut packets) = emitted.split() else {
            return self.count(DropReason::Malformed, output);
        };
        if !self.takes_super_packets(self.path) {
            let mut segment = [0; MAX_SEGMENT];
            while let Some(length) = packets.next(&mut segment) {
                room.take(self.send(&segment[..length], output, now));
            }
            return;
        }
        let longest = room.piece.min(trailer::MAX_SUPER);
        let mut piece = std::mem::take(&mut output.piece);
        while let Some((length, segmentation)) = packets.next_super(longest, &mut piece) {
            self.send_piece(&piece[..length], segmentation, room, output, now);
        }
        output.piece = piece;
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

    /// Whether a packet to the gateway's tunnel address may belong to a flow that the gateway opened.
    pub(crate) fn has_dialled(&self, ip: &Ip<'_>) -> bool {
        let netstack = self.netstack.as_deref().filter(|_| self.dialled);
        netstack.is_some_and(|netstack| ip.is_fragment() || netstack.knows(ip))
    }

    /// Runs the WireGuard timers and those of the flows.
    pub(crate) fn handle_timeout(&mut self, output: &mut Output, now: Instant) {
        self.waiting.take_if(|queue| queue.is_empty());
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
            offload: None,
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
