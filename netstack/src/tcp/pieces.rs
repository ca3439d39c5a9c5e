//! A stretch of a byte stream in pieces of memory, which lie in the order of the stream and without gaps. What is in the bytes is its
//! users' business: `outgoing.rs` and `incoming.rs`.

use std::collections::VecDeque;

use crate::memory::{Bytes, Memory};

/// Entries that an empty queue may keep: a flow that is idle should cost little.
const KEPT_ENTRIES: usize = 8;

/// One piece, and which part of the stream is in it. Offsets count from the stream's first byte.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) start: u64,
    /// Bytes of the stream in it, from its first on.
    pub(super) len: usize,
    pub(super) bytes: Bytes,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.len as u64
    }

    /// Room behind what is in it.
    pub(super) fn free(&self) -> usize {
        self.bytes.len() - self.len
    }
}

/// The pieces of one buffer.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    queue: VecDeque<Piece>,
    /// Bytes of memory.
    held: usize,
}

impl Pieces {
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Where the last piece ends.
    pub(super) fn end(&self) -> Option<u64> {
        self.queue.back().map(Piece::end)
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Piece> {
        self.queue.back_mut()
    }

    /// `start` must be where the last piece ends.
    pub(super) fn push(&mut self, piece: Piece) {
        self.held += piece.bytes.len();
        self.queue.push_back(piece);
    }

    /// The piece that `offset` is in; most often that is the first.
    fn find(&self, offset: u64) -> Option<usize> {
        let first = self.queue.front()?;
        if offset < first.end() {
            return (offset >= first.start).then_some(0);
        }
        let index = self.queue.partition_point(|piece| piece.end() <= offset);
        (index < self.queue.len()).then_some(index)
    }

    /// At most `len` bytes from `offset` on, in the first piece and the one behind it.
    pub(super) fn slices(&self, offset: u64, len: usize) -> [&[u8]; 2] {
        let Some(index) = self.find(offset) else {
            return [&[], &[]];
        };
        let one = part(&self.queue[index], offset, len);
        let rest = len - one.len();
        let next = self.queue.get(index + 1).filter(|_| rest > 0);
        [
            one,
            next.map_or(&[], |piece| part(piece, piece.start, rest)),
        ]
    }

    /// At most `len` bytes from `offset` on that lie in one piece.
    pub(super) fn slice(&self, offset: u64, len: usize) -> &[u8] {
        self.find(offset)
            .map_or(&[], |index| part(&self.queue[index], offset, len))
    }

    /// Puts bytes at `offset`; pieces must be there for all of them.
    pub(super) fn put(&mut self, mut offset: u64, mut data: &[u8]) {
        let Some(first) = self.find(offset) else {
            return;
        };
        for piece in self.queue.iter_mut().skip(first) {
            let at = (offset - piece.start) as usize;
            let len = data.len().min(piece.len - at);
            piece.bytes[at..at + len].copy_from_slice(&data[..len]);
            data = &data[len..];
            offset += len as u64;
            if data.is_empty() {
                return;
            }
        }
    }

    /// Gives back the pieces that end at `offset` or before.
    pub(super) fn release_before(&mut self, offset: u64, memory: &mut Memory) {
        while self
            .queue
            .front()
            .is_some_and(|piece| piece.end() <= offset)
        {
            self.release_first(memory);
        }
    }

    pub(super) fn clear(&mut self, memory: &mut Memory) {
        while !self.queue.is_empty() {
            self.release_first(memory);
        }
    }

    fn release_first(&mut self, memory: &mut Memory) {
        if let Some(piece) = self.queue.pop_front() {
            self.held -= piece.bytes.len();
            memory.give(piece.bytes);
        }
        if self.queue.is_empty() && self.queue.capacity() > KEPT_ENTRIES {
            self.queue = VecDeque::new();
        }
    }
}

fn part(piece: &Piece, offset: u64, len: usize) -> &[u8] {
    let at = (offset - piece.start) as usize;
    &piece.bytes[at..piece.len.min(at.saturating_add(len))]
}
