//! A queue of datagrams in which those that one `sendmsg` with UDP_SEGMENT can take lie side by side.
//! It must not know what a tag or the bytes mean.

use std::collections::VecDeque;

use super::ring::Used;

/// How many datagrams UDP_SEGMENT takes at most (Linux UDP_MAX_SEGMENTS before 6.9).
const MAX_DATAGRAMS: usize = 64;

/// How many bytes of a batch UDP_SEGMENT takes at most, headers of both IP versions left aside.
const MAX_BYTES: usize = 65_000;

/// Datagrams in arrival order, each with a tag `T` (a path); neighbours of one tag and size come out together.
///
/// A datagram is never split, so the space left at the end of the slab may be skipped: the usable size is at least
/// `max_bytes` less one datagram.
pub struct BatchQueue<T> {
    slab: Vec<u8>,
    records: VecDeque<Record<T>>,
    datagrams: usize,
    max_datagrams: usize,
    dropped: u64,
}

/// Datagrams for one destination, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit<'a, T> {
    /// Where to: the tag that they were pushed with.
    pub path: T,
    /// The datagrams, without a carrier's framing. At most 64 and 65,000 bytes, or one longer datagram.
    pub payload: &'a [u8],
    /// The length of every datagram but the last, which may be shorter; not 0.
    pub segment: usize,
}

impl<'a, T> Transmit<'a, T> {
    /// The datagrams one by one.
    pub fn datagrams(&self) -> std::slice::Chunks<'a, u8> {
        self.payload.chunks(self.segment)
    }
}

/// Where one batch lies in the slab.
struct Record<T> {
    tag: T,
    start: usize,
    len: usize,
    segment: usize,
    datagrams: usize,
}

impl<T: PartialEq> BatchQueue<T> {
    /// A queue for at most `max_datagrams` datagrams and `max_bytes` bytes. The slab is reserved at once; the operating
    /// system gives it pages as they are touched.
    pub fn new(max_datagrams: usize, max_bytes: usize) -> Self {
        Self {
            slab: vec![0; max_bytes],
            records: VecDeque::with_capacity(max_datagrams.min(1024)),
            datagrams: 0,
            max_datagrams,
            dropped: 0,
        }
    }

    /// Appends a copy of `datagram`; false when it is empty, or was refused for want of room (counted).
    pub fn push(&mut self, tag: T, datagram: &[u8]) -> bool {
        self.push_with(tag, datagram.len(), |buf| {
            buf.copy_from_slice(datagram);
            datagram.len()
        })
    }

    /// Appends what `write` puts into a buffer of exactly `max_len` bytes; it returns how many it used, 0 for "nothing
    /// after all".
    ///
    /// False when nothing was appended. `write` is not called when there is no room for `max_len` bytes, which counts as
    /// a drop. More than `max_len` is cut to `max_len`.
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
        if len > 0 {
            self.append(tag, start, len);
        }
        len > 0
    }

    /// Takes the oldest batch; its bytes stay where they are until the next call that changes the queue.
    pub fn pop(&mut self) -> Option<Transmit<'_, T>> {
        let record = self.records.pop_front()?;
        self.datagrams -= record.datagrams;
        Some(Transmit {
            path: record.tag,
            payload: &self.slab[record.start..record.start + record.len],
            segment: record.segment,
        })
    }

    /// Forgets all datagrams, without counting them as dropped.
    pub fn clear(&mut self) {
        self.records.clear();
        self.datagrams = 0;
    }

    /// Datagrams in the queue.
    pub fn len(&self) -> usize {
        self.datagrams
    }

    /// Whether there is no datagram in the queue.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many pushes were refused for want of room since the queue was made.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Adds a datagram that lies at `start` to the last batch, or begins one with it.
    fn append(&mut self, tag: T, start: usize, len: usize) {
        self.datagrams += 1;
        if let Some(last) = self.records.back_mut()
            && last.takes(&tag, start, len)
        {
            last.len += len;
            last.datagrams += 1;
            return;
        }
        self.records.push_back(Record {
            tag,
            start,
            len,
            segment: len,
            datagrams: 1,
        });
    }

    /// The start of `len` free bytes in one piece, behind the last batch if possible.
    fn room_for(&self, len: usize) -> Option<usize> {
        if self.datagrams >= self.max_datagrams {
            return None;
        }
        let used = Used::between(self.records.front(), self.records.back(), |record| {
            (record.start, record.len)
        });
        used.room_for(len, self.slab.len())
    }
}

impl<T: PartialEq> Record<T> {
    /// Whether a datagram at `start` can be sent with these. One shorter than the others was the last.
    fn takes(&self, tag: &T, start: usize, len: usize) -> bool {
        self.tag == *tag
            && self.start + self.len == start
            && self.len == self.segment * self.datagrams
            && len <= self.segment
            && self.datagrams < MAX_DATAGRAMS
            && self.len + len <= MAX_BYTES
    }
}

impl<T> std::fmt::Debug for BatchQueue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchQueue")
            .field("datagrams", &self.datagrams)
            .field("batches", &self.records.len())
            .field("max_datagrams", &self.max_datagrams)
            .field("max_bytes", &self.slab.len())
            .field("dropped", &self.dropped)
            .finish()
    }
}

#[cfg(test)]
mod tests;
