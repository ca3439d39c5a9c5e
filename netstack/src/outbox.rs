//! Packets on their way out of the stack: one bounded queue, filled by flows, answers and datagrams.
//! It sends nothing, and never blocks: what does not fit is counted.

use kvpn_wire::queue::PacketQueue;

/// Flows stop making segments when this many packets wait; answers and datagrams do not. Few enough to stay
/// in the processor's cache, enough for one batch of a driver.
const SEGMENTS: usize = 64;
/// Packets that may wait in all.
const PACKETS: usize = 512;
/// Bytes kept for answers and datagrams beside the segments.
const SPARE_BYTES: usize = 1 << 20;

/// The queue of packets to send.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: PacketQueue<()>,
    mtu: usize,
    /// Where a packet is written that has no room, because whoever writes it cannot be told.
    spill: Vec<u8>,
    /// Room for a packet, for whoever has to change one.
    pub(crate) scratch: Vec<u8>,
}

impl Outbox {
    pub(crate) fn new(mtu: usize) -> Self {
        let queue = PacketQueue::new(PACKETS, 2 * SEGMENTS * mtu + SPARE_BYTES);
        Self {
            queue,
            mtu,
            spill: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Longest packet, in bytes.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu
    }

    /// Whether a flow may make another segment now.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() < SEGMENTS
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

    /// Queues a packet that `write` makes in `len` bytes: as much of it as `write` says beside its result. `write` is called
    /// in any case.
    pub(crate) fn emit<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> (R, usize)) -> R {
        let mut write = Some(write);
        let mut result = None;
        self.queue.push_with((), len, |buf| {
            let Some((made, used)) = write.take().map(|write| write(buf)) else {
                return 0;
            };
            result = Some(made);
            used
        });
        match (result, write) {
            (Some(result), _) => result,
            (None, Some(write)) => {
                self.spill.resize(len, 0);
                write(&mut self.spill).0
            }
            (None, None) => unreachable!("the writer is taken only to be called"),
        }
    }
}
