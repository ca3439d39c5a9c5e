//! Whole packets on their way out of the stack: one bounded queue, filled by answers and datagrams. Flows' segments do not go through it.
//! It sends nothing, and never blocks: what does not fit is counted.

use kvpn_wire::queue::PacketQueue;

/// Packets that may wait.
const PACKETS: usize = 512;
/// Bytes that may wait.
const BYTES: usize = 1 << 20;

/// The queue of packets to send.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: PacketQueue<()>,
    mtu: usize,
}

impl Outbox {
    pub(crate) fn new(mtu: usize) -> Self {
        let queue = PacketQueue::new(PACKETS, BYTES + mtu);
        Self { queue, mtu }
    }

    /// Longest packet, in bytes.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu
    }

    /// Later packets follow it.
    pub(crate) fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn pop(&mut self) -> Option<&[u8]> {
        self.queue.pop().map(|((), packet)| packet)
    }

    /// Packets that found no room since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.queue.dropped()
    }

    /// Queues what `write` puts into at most `max_len` bytes; it says how many it used, 0 for none.
    pub(crate) fn push_with(
        &mut self,
        max_len: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> bool {
        self.queue.push_with((), max_len, write)
    }
}
