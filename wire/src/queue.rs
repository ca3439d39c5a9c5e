//! Bounded first-in-first-out queues of packets, each in one preallocated ring slab: one by one ([`PacketQueue`]), or in
//! batches of equal size ([`BatchQueue`]).
//!
//! No allocation a packet, no unbounded growth: what does not fit is refused and counted. It must not know what
//! the bytes mean.

mod batch;
mod ring;

pub use batch::{BatchQueue, Transmit};
pub(crate) use ring::Used;

use std::collections::VecDeque;

/// Where one packet lies in the slab.
struct Record<T> {
    tag: T,
    start: usize,
    len: usize,
}

/// Packets in arrival order, each with a tag `T` (a path, a flow, or nothing).
///
/// A packet is never split, so the space left at the end of the slab may be skipped: the usable size is at least
/// `max_bytes` less one packet.
pub struct PacketQueue<T> {
    slab: Vec<u8>,
    records: VecDeque<Record<T>>,
    max_packets: usize,
    dropped: u64,
}

impl<T> PacketQueue<T> {
    /// A queue for at most `max_packets` packets and `max_bytes` bytes. The slab is reserved at once; the
    /// operating system gives it pages as they are touched.
    pub fn new(max_packets: usize, max_bytes: usize) -> Self {
        Self {
            slab: vec![0; max_bytes],
            records: VecDeque::with_capacity(max_packets.min(1024)),
            max_packets,
            dropped: 0,
        }
    }

    /// Appends a copy of `packet`; false when it is empty, or was refused for want of room (counted).
    pub fn push(&mut self, tag: T, packet: &[u8]) -> bool {
        self.push_with(tag, packet.len(), |buf| {
            buf.copy_from_slice(packet);
            packet.len()
        })
    }

    /// Appends what `write` puts into a buffer of exactly `max_len` bytes; it returns how many it used, 0 for "nothing after all".
    ///
    /// False when nothing was appended. `write` is not called when there is no room for `max_len` bytes, which counts as a drop.
    /// More than `max_len` is cut to `max_len`.
    pub fn push_with(
        &mut self,
        tag: T,
        max_len: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> bool {
        if max_len == 0 {
            return false;
        }
        let Some(start) = self.room_for(max_len) else {
            self.dropped += 1;
            return false;
        };
        let len = write(&mut self.slab[start..start + max_len]).min(max_len);
        if len == 0 {
            return false;
        }
        self.records.push_back(Record { tag, start, len });
        true
    }

    /// Takes the oldest packet; its bytes stay where they are until the next call that changes the queue.
    pub fn pop(&mut self) -> Option<(T, &[u8])> {
        let Record { tag, start, len } = self.records.pop_front()?;
        Some((tag, &self.slab[start..start + len]))
    }

    /// The oldest packet, left in the queue.
    pub fn peek(&self) -> Option<(&T, &[u8])> {
        let record = self.records.front()?;
        Some((
            &record.tag,
            &self.slab[record.start..record.start + record.len],
        ))
    }

    /// Forgets all packets, without counting them as dropped.
    pub fn clear(&mut self) {
        self.records.clear();
    }

    /// Packets in the queue.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no packet in the queue.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many pushes were refused for want of room since the queue was made.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The start of `len` free bytes in one piece.
    fn room_for(&self, len: usize) -> Option<usize> {
        if self.records.len() >= self.max_packets {
            return None;
        }
        let used = Used::between(self.records.front(), self.records.back(), |record| {
            (record.start, record.len)
        });
        used.room_for(len, self.slab.len())
    }
}

impl<T> std::fmt::Debug for PacketQueue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketQueue")
            .field("len", &self.len())
            .field("max_packets", &self.max_packets)
            .field("max_bytes", &self.slab.len())
            .field("dropped", &self.dropped)
            .finish()
    }
}

#[cfg(test)]
mod tests;
