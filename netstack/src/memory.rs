//! The memory of all TCP buffers of one stack: pieces of two sizes, a budget, and a few used pieces kept warm. It does not know who
//! holds which piece.

use std::time::Duration;

use crate::clock::Time;

/// Bytes of a piece.
pub(crate) const PIECE: usize = 64 * 1024;
/// Bytes of the piece that a buffer gets which holds little.
pub(crate) const SMALL: usize = 4 * 1024;
/// What each buffer may hold when the budget is used up: then it grows by small pieces.
pub(crate) const FLOOR: usize = 16 * 1024;
/// Most spare pieces of each size.
const MAX_SPARE: usize = 32;
/// How often spare pieces that nobody needed are given back.
const TRIM: Duration = Duration::from_secs(1);

/// One piece of memory. Its bytes are whatever they were.
pub(crate) type Bytes = Box<[u8]>;

/// Where buffers take pieces from and give them back.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: usize,
    /// Bytes in buffers.
    used: usize,
    /// Last in, first out: what was used last is still in the processor's cache.
    spare: Spare,
    small: Spare,
    trim_at: Option<Time>,
}

/// Used pieces of one size.
#[derive(Debug, Default)]
struct Spare {
    pieces: Vec<Bytes>,
    /// The fewest there were since the last trimming: nobody needs these.
    fewest: usize,
}

impl Memory {
    /// A budget in bytes.
    pub(crate) fn new(budget: usize) -> Self {
        Self {
            budget,
            used: 0,
            spare: Spare::default(),
            small: Spare::default(),
            trim_at: None,
        }
    }

    /// The budget in bytes.
    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    /// Another budget; what is in buffers stays until it is read or acknowledged.
    pub(crate) fn set_budget(&mut self, budget: usize) {
        self.budget = budget;
    }

    /// Bytes in buffers and spare ones.
    pub(crate) fn used(&self) -> usize {
        self.used + self.spare.pieces.len() * PIECE + self.small.pieces.len() * SMALL
    }

    /// Bytes of the budget that no buffer holds.
    pub(crate) fn free(&self) -> usize {
        self.budget.saturating_sub(self.used)
    }

    /// A piece for a buffer that holds `held` bytes, of the size that suits `wanted` bytes; a small one when the budget is used
    /// up. `None` when the buffer has its share of that, too.
    pub(crate) fn take(&mut self, wanted: usize, held: usize) -> Option<Bytes> {
        let fits = |size| self.used + size <= self.budget;
        let piece = if wanted > SMALL && fits(PIECE) {
            self.spare.take(PIECE)
        } else if fits(SMALL) || held + SMALL <= FLOOR {
            self.small.take(SMALL)
        } else {
            return None;
        };
        self.used += piece.len();
        Some(piece)
    }

    pub(crate) fn give(&mut self, piece: Bytes) {
        self.used -= piece.len();
        let spare = if piece.len() == PIECE {
            &mut self.spare
        } else {
            &mut self.small
        };
        if spare.pieces.len() < MAX_SPARE {
            spare.pieces.push(piece);
        }
    }

    /// When [`Memory::trim`] is to be called.
    pub(crate) fn trim_at(&self) -> Option<Time> {
        self.trim_at
    }

    /// Sees to it that spare pieces are given back some time.
    pub(crate) fn watch(&mut self, now: Time) {
        if self.spare.pieces.is_empty() && self.small.pieces.is_empty() {
            self.trim_at = None;
        } else if self.trim_at.is_none() {
            self.trim_at = Some(now.plus(TRIM.as_micros() as u64));
        }
    }

    /// Gives all spare pieces back.
    pub(crate) fn forget_spare(&mut self) {
        self.spare = Spare::default();
        self.small = Spare::default();
        self.trim_at = None;
    }

    /// Gives spare pieces back that nobody needed for a while.
    pub(crate) fn trim(&mut self, now: Time) {
        if self.trim_at.is_some_and(|at| at <= now) {
            self.spare.trim();
            self.small.trim();
            self.trim_at = None;
            self.watch(now);
        }
    }
}

impl Spare {
    fn take(&mut self, size: usize) -> Bytes {
        let piece = self.pieces.pop();
        self.fewest = self.fewest.min(self.pieces.len());
        piece.unwrap_or_else(|| vec![0; size].into_boxed_slice())
    }

    fn trim(&mut self) {
        let fewest = std::mem::replace(&mut self.fewest, 0);
        self.pieces.drain(..fewest);
        self.fewest = self.pieces.len();
        if self.pieces.is_empty() {
            self.pieces.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_and_a_floor_below_it() {
        let mut memory = Memory::new(2 * PIECE);
        let big: Vec<Bytes> = (0..2).filter_map(|_| memory.take(PIECE, 0)).collect();
        assert_eq!((big.len(), memory.free(), memory.used()), (2, 0, 2 * PIECE));
        let mut held = 0;
        while let Some(piece) = memory.take(PIECE, held) {
            held += piece.len();
        }
        assert_eq!(held, FLOOR);
        big.into_iter().for_each(|piece| memory.give(piece));
        assert_eq!(
            memory.take(PIECE, FLOOR).map(|piece| piece.len()),
            Some(PIECE)
        );
        assert_eq!(
            memory.take(100, FLOOR).map(|piece| piece.len()),
            Some(SMALL)
        );
    }

    #[test]
    fn spare_pieces_go_after_a_while() {
        let mut memory = Memory::new(100 * PIECE);
        let mut now = Time::default();
        let pieces: Vec<Bytes> = (0..10).filter_map(|_| memory.take(PIECE, 0)).collect();
        memory.watch(now);
        assert_eq!(memory.trim_at(), None);
        pieces.into_iter().for_each(|piece| memory.give(piece));
        assert_eq!((memory.used(), memory.free()), (10 * PIECE, 100 * PIECE));
        memory.watch(now);
        for _ in 0..2 {
            now = memory.trim_at().unwrap_or(now);
            memory.trim(now);
        }
        assert_eq!((memory.used(), memory.trim_at()), (0, None));
    }
}
