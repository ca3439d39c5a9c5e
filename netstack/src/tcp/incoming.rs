//! What a flow's peer sent and the caller has not read: segments are put where they belong at once, also those ahead of a gap, so that
//! each byte is copied once. It knows stream offsets only, no sequence numbers.

use super::pieces::{Piece, Pieces};
use super::ranges::Ranges;
use crate::memory::{Memory, PIECE, SMALL};

/// The receive buffer of one flow.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pieces: Pieces,
    /// Offset of the next byte to read.
    read: u64,
    /// Offset of the first byte that did not arrive.
    next: u64,
    /// What arrived behind that one.
    ahead: Ranges,
}

/// What became of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    /// They are kept; the stream goes on by so many bytes.
    Kept(u64),
    /// All of them were there before.
    Known,
    /// There was no room.
    Dropped,
}

impl Incoming {
    /// Bytes that can be read.
    pub(super) fn ready_len(&self) -> usize {
        (self.next - self.read) as usize
    }

    pub(super) fn has_gap(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// What arrived behind the gap, the latest first: how far behind the first missing byte it begins and ends.
    pub(super) fn ahead(&self) -> impl Iterator<Item = (u32, u32)> {
        let next = self.next;
        self.ahead
            .told()
            .map(move |(start, end)| ((start - next) as u32, (end - next) as u32))
    }

    /// Puts bytes that begin `distance` behind the first missing one. `bulk`: more will follow.
    pub(super) fn place(
        &mut self,
        distance: u32,
        data: &[u8],
        bulk: bool,
        memory: &mut Memory,
    ) -> Placed {
        let start = self.next + u64::from(distance);
        let end = start + data.len() as u64;
        if self.ahead.covers(start, end) {
            return Placed::Known;
        }
        if !self.reach(end, bulk, memory) {
            return Placed::Dropped;
        }
        if distance > 0 {
            if !self.ahead.add(start, end) {
                return Placed::Dropped;
            }
            self.pieces.put(start, data);
            return Placed::Kept(0);
        }
        self.pieces.put(start, data);
        let before = self.next;
        self.next = if self.ahead.is_empty() {
            end
        } else {
            self.ahead.join(end)
        };
        Placed::Kept(self.next - before)
    }

    /// Makes sure that there is memory up to `end`.
    fn reach(&mut self, end: u64, bulk: bool, memory: &mut Memory) -> bool {
        let mut reached = self.pieces.end().unwrap_or(self.next);
        while reached < end {
            let wanted = if bulk || end - self.read > SMALL as u64 {
                PIECE
            } else {
                SMALL
            };
            let Some(bytes) = memory.take(wanted, self.pieces.held()) else {
                self.release_if_empty(memory);
                return false;
            };
            let len = bytes.len();
            self.pieces.push(Piece {
                start: reached,
                len,
                bytes,
            });
            reached += len as u64;
        }
        true
    }

    /// Bytes to read that lie in one piece.
    pub(super) fn ready(&self) -> &[u8] {
        self.pieces.slice(self.read, self.ready_len())
    }

    /// The first `count` bytes were read.
    pub(super) fn consume(&mut self, count: usize, memory: &mut Memory) {
        self.read += count.min(self.ready_len()) as u64;
        self.pieces.release_before(self.read, memory);
        self.release_if_empty(memory);
    }

    fn release_if_empty(&mut self, memory: &mut Memory) {
        if self.read == self.next && self.ahead.is_empty() {
            self.pieces.clear(memory);
        }
    }

    pub(super) fn clear(&mut self, memory: &mut Memory) {
        self.read = self.next;
        self.ahead = Ranges::default();
        self.pieces.clear(memory);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::FLOOR;

    fn byte(at: u64) -> u8 {
        (at % 251) as u8
    }

    fn bytes(start: u64, len: u64) -> Vec<u8> {
        (start..start + len).map(byte).collect()
    }

    #[test]
    fn idle_is_without_memory() {
        let mut memory = Memory::new(64 << 20);
        let mut buffer = Incoming::default();
        assert_eq!(
            buffer.place(0, &bytes(0, 100), false, &mut memory),
            Placed::Kept(100)
        );
        assert_eq!(buffer.pieces.held(), SMALL);
        buffer.consume(100, &mut memory);
        assert_eq!(buffer.pieces.held(), 0);
        assert_eq!(
            buffer.place(0, &bytes(0, 1300), true, &mut memory),
            Placed::Kept(1300)
        );
        assert_eq!(buffer.pieces.held(), PIECE);
    }

    #[test]
    fn without_a_budget_the_next_bytes_have_room() {
        let mut memory = Memory::new(0);
        let mut buffer = Incoming::default();
        assert_eq!(
            buffer.place(20_000, &[1; 1000], true, &mut memory),
            Placed::Dropped
        );
        assert_eq!(buffer.pieces.held(), 0);
        let kept = (0..100)
            .take_while(|_| buffer.place(0, &[1; 1000], true, &mut memory) == Placed::Kept(1000));
        assert_eq!(kept.count(), FLOOR / 1000);
    }

    proptest! {
        /// Segments in any order, and again, give the stream.
        #[test]
        fn any_order(seed: u64, lens in prop::collection::vec(1..9000_u64, 1..60), reads in 1..5000_usize) {
            let mut segments = Vec::new();
            let mut total = 0;
            for len in lens {
                segments.push((total, len));
                total += len;
            }
            let mut order = segments.clone();
            let mut state = seed | 1;
            for at in (1..order.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                order.swap(at, (state >> 33) as usize % (at + 1));
            }
            let mut memory = Memory::new(64 << 20);
            let mut buffer = Incoming::default();
            let mut read = 0_u64;
            for &(start, len) in order.iter().chain(&segments) {
                let next = buffer.next;
                if start >= next {
                    let placed = buffer.place((start - next) as u32, &bytes(start, len), false, &mut memory);
                    prop_assert_ne!(placed, Placed::Dropped);
                }
                while buffer.ready_len() > 0 {
                    let count = {
                        let ready = buffer.ready();
                        let count = ready.len().min(reads);
                        prop_assert!(count > 0);
                        prop_assert!(ready[..count].iter().zip(read..).all(|(&found, at)| found == byte(at)));
                        count
                    };
                    buffer.consume(count, &mut memory);
                    read += count as u64;
                }
            }
            prop_assert_eq!((read, buffer.pieces.held(), buffer.has_gap()), (total, 0, false));
        }
    }
}
