//! FQ-CoDel (RFC 8290): packets wait in a queue per flow, flows take turns by bytes, and a flow that keeps a standing queue is told to slow
//! down: by a mark if its ends know them (RFC 3168), by a lost packet if not. A flow that sends little never waits for one that sends much.
//!
//! What waits is plaintext: a dropped ciphertext would cost a counter and say nothing sooner. Memory is bounded in packets and bytes; beyond
//! that the fattest flow loses its oldest packets. The clock is the caller's, and so is the seed that keeps flows from choosing their queue.
//! It must not know where the packets go. What is no IP packet waits there, too, if whoever has it says what belongs together.

mod buffers;
mod codel;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use self::buffers::{Buffer, Buffers};
use self::codel::{Codel, Law, Verdict};
use crate::packet::{FiveTuple, Ip, mark_congested};

/// Queues; flows beyond that share one.
const FLOWS: usize = 1024;
/// Bytes that a flow may send in one turn (RFC 8290, section 5.2.3).
const QUANTUM: i64 = 1514;
/// No such slot.
const NONE: u16 = u16::MAX;

/// Bounds and times of an [`FqCodel`].
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Packets that wait at most.
    pub max_packets: usize,
    /// Bytes that wait at most.
    pub max_bytes: usize,
    /// The delay that a standing queue may have (RFC 8289, section 4.3: 5 ms, or 5 % of the interval).
    pub target: Duration,
    /// How long it may be longer before a flow is told; about the longest round trip of those that send much (RFC 8289, section 4.4).
    pub interval: Duration,
}

impl Default for Settings {
    /// RFC 8290's own, for at most 4 MiB.
    fn default() -> Self {
        Self {
            max_packets: 4096,
            max_bytes: 4 << 20,
            target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
        }
    }
}

/// What became of packets that did not get through as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Dropped because there was no room.
    pub overflowed: u64,
    /// Dropped to slow a flow down.
    pub dropped: u64,
    /// Marked to slow a flow down.
    pub marked: u64,
}

/// Packets that wait, each with a tag `T` that comes out with it.
#[derive(Debug)]
pub struct FqCodel<T> {
    settings: Settings,
    seed: u64,
    /// Which slot a flow has, by its hash.
    slots: Box<[u16]>,
    flows: Vec<Flow<T>>,
    free: Vec<u16>,
    /// Flows that began to send, before those that go on sending.
    new: VecDeque<u16>,
    old: VecDeque<u16>,
    buffers: Buffers,
    /// What [`FqCodel::pop`] lent.
    lent: Option<Buffer>,
    packets: usize,
    bytes: usize,
    counts: Counts,
}

#[derive(Debug)]
struct Flow<T> {
    /// Its place in `slots`.
    hash: usize,
    packets: VecDeque<Waiting<T>>,
    bytes: usize,
    /// Bytes that it may still send in this turn.
    deficit: i64,
    codel: Codel,
}

#[derive(Debug)]
struct Waiting<T> {
    tag: T,
    buffer: Buffer,
    since: Instant,
}

impl<T> FqCodel<T> {
    /// An empty queue. `seed` decides which flows share a queue when there are very many.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            seed,
            slots: vec![NONE; FLOWS].into(),
            flows: Vec::new(),
            free: Vec::new(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            buffers: Buffers::default(),
            lent: None,
            packets: 0,
            bytes: 0,
            counts: Counts::default(),
        }
    }

    /// Lets an IP packet wait. Where there is no room, the oldest packets of the fattest flow go, which may be this one's.
    pub fn push(&mut self, tag: T, packet: &[u8], now: Instant) {
        self.push_to(hash(packet, self.seed), tag, packet, now);
    }

    /// Lets what is no IP packet wait in the queue of `flow`, which says what belongs together. Drops as [`Self::push`] does.
    pub fn push_flow(&mut self, flow: u64, tag: T, packet: &[u8], now: Instant) {
        let mut hasher = DefaultHasher::new();
        (self.seed, flow).hash(&mut hasher);
        self.push_to(place(&hasher), tag, packet, now);
    }

    fn push_to(&mut self, hash: usize, tag: T, packet: &[u8], now: Instant) {
        if packet.len() > self.settings.max_bytes || self.settings.max_packets == 0 {
            self.counts.overflowed += 1;
            return;
        }
        while self.packets >= self.settings.max_packets
            || self.bytes + packet.len() > self.settings.max_bytes
        {
            self.drop_from_fattest();
        }
        let buffer = self.buffers.copy(packet);
        let slot = self.slot(hash);
        let flow = &mut self.flows[usize::from(slot)];
        flow.bytes += packet.len();
        flow.packets.push_back(Waiting {
            tag,
            buffer,
            since: now,
        });
        self.packets += 1;
        self.bytes += packet.len();
    }

    /// The packet whose turn it is. Its bytes stay until the next call.
    pub fn pop(&mut self, now: Instant) -> Option<(&mut [u8], T)> {
        if let Some(buffer) = self.lent.take() {
            self.buffers.give_back(buffer);
        }
        let waiting = self.next(now)?;
        let buffer = self.lent.insert(waiting.buffer);
        Some((buffer.bytes_mut(), waiting.tag))
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.packets
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was dropped and marked since [`FqCodel::take_counts`].
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What was dropped and marked since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Gives memory back that nothing lies in.
    pub fn shrink(&mut self) {
        self.buffers.forget_spares();
        if self.packets == 0 {
            self.slots.fill(NONE);
            (self.flows, self.free) = (Vec::new(), Vec::new());
            (self.new, self.old) = (VecDeque::new(), VecDeque::new());
        }
    }

    /// The flow's slot; one that has none begins as a new flow.
    fn slot(&mut self, hash: usize) -> u16 {
        if self.slots[hash] != NONE {
            return self.slots[hash];
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.flows.push(Flow {
                hash,
                packets: VecDeque::new(),
                bytes: 0,
                deficit: 0,
                codel: Codel::default(),
            });
            u16::try_from(self.flows.len() - 1).expect("no more flows than hashes")
        });
        let flow = &mut self.flows[usize::from(slot)];
        flow.hash = hash;
        flow.deficit = QUANTUM;
        flow.codel = Codel::default();
        self.slots[hash] = slot;
        self.new.push_back(slot);
        slot
    }

    /// Deficit round robin over new flows, then old ones (RFC 8290, section 4.2).
    fn next(&mut self, now: Instant) -> Option<Waiting<T>> {
        loop {
            let is_new = !self.new.is_empty();
            let list = if is_new { &mut self.new } else { &mut self.old };
            let slot = list.pop_front()?;
            let flow = &mut self.flows[usize::from(slot)];
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                self.old.push_back(slot);
                continue;
            }
            if let Some(waiting) = self.take(slot, now) {
                let flow = &mut self.flows[usize::from(slot)];
                flow.deficit -= waiting.buffer.len() as i64;
                let list = if is_new { &mut self.new } else { &mut self.old };
                list.push_front(slot);
                return Some(waiting);
            }
            // An empty new flow waits out a round as an old one, lest it be new with every packet.
            if is_new && !self.old.is_empty() {
                self.old.push_back(slot);
            } else {
                self.slots[self.flows[usize::from(slot)].hash] = NONE;
                self.free.push(slot);
            }
        }
    }

    /// The flow's next packet that CoDel lets pass.
    fn take(&mut self, slot: u16, now: Instant) -> Option<Waiting<T>> {
        let law = Law {
            target: self.settings.target,
            interval: self.settings.interval,
        };
        loop {
            let flow = &mut self.flows[usize::from(slot)];
            let Some(mut waiting) = flow.packets.pop_front() else {
                flow.codel.emptied();
                return None;
            };
            let len = waiting.buffer.len();
            flow.bytes -= len;
            self.packets -= 1;
            self.bytes -= len;
            let sojourn = now.saturating_duration_since(waiting.since);
            if flow.codel.judge(sojourn, flow.bytes, law, now) == Verdict::Pass {
                return Some(waiting);
            }
            if mark_congested(waiting.buffer.bytes_mut()) {
                self.counts.marked += 1;
                return Some(waiting);
            }
            self.counts.dropped += 1;
            self.buffers.give_back(waiting.buffer);
        }
    }

    fn drop_from_fattest(&mut self) {
        let fattest = self.flows.iter_mut().max_by_key(|flow| flow.bytes);
        let Some(waiting) = fattest.and_then(|flow| {
            let waiting = flow.packets.pop_front()?;
            flow.bytes -= waiting.buffer.len();
            Some(waiting)
        }) else {
            return;
        };
        self.packets -= 1;
        self.bytes -= waiting.buffer.len();
        self.counts.overflowed += 1;
        self.buffers.give_back(waiting.buffer);
    }
}

/// The queue of a packet's flow; what has no ports goes by its addresses.
fn hash(packet: &[u8], seed: u64) -> usize {
    let mut hasher = DefaultHasher::new();
    seed.hash(&mut hasher);
    if let Ok(ip) = Ip::parse(packet) {
        match FiveTuple::of(&ip) {
            Some(flow) => flow.hash(&mut hasher),
            None => (ip.src(), ip.dst(), ip.protocol().number()).hash(&mut hasher),
        }
    }
    place(&hasher)
}

fn place(hasher: &DefaultHasher) -> usize {
    (hasher.finish() % FLOWS as u64) as usize
}

#[cfg(test)]
mod tests;
