//! A queue of byte strings in one allocation, each in one piece.

use std::collections::VecDeque;

/// Frames in flight, first in, first out, with the instants at which they are due.
#[derive(Debug)]
pub(crate) struct Ring {
    bytes: Box<[u8]>,
    waiting: VecDeque<Waiting>,
    /// The first free byte.
    tail: usize,
}

#[derive(Debug)]
struct Waiting {
    due: u64,
    at: usize,
    length: usize,
}

impl Ring {
    /// Room for `capacity` bytes.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity].into(),
            waiting: VecDeque::with_capacity(1 << 12),
            tail: 0,
        }
    }

    /// Keeps a frame; `false` when there is no room for it.
    pub(crate) fn push(&mut self, frame: &[u8], due: u64) -> bool {
        let Some(at) = self.room(frame.len()) else {
            return false;
        };
        self.bytes[at..at + frame.len()].copy_from_slice(frame);
        self.tail = at + frame.len();
        self.waiting.push_back(Waiting {
            due,
            at,
            length: frame.len(),
        });
        true
    }

    /// Where `length` bytes have room in one piece.
    fn room(&self, length: usize) -> Option<usize> {
        let Some(first) = self.waiting.front() else {
            return (length <= self.bytes.len()).then_some(0);
        };
        if self.tail <= first.at {
            return (self.tail + length <= first.at).then_some(self.tail);
        }
        if self.tail + length <= self.bytes.len() {
            return Some(self.tail);
        }
        (length <= first.at).then_some(0)
    }

    /// When the first frame is due.
    pub(crate) fn due(&self) -> Option<u64> {
        self.waiting.front().map(|waiting| waiting.due)
    }

    /// The first frames, as many as are due at `now`.
    pub(crate) fn ready(&self, now: u64) -> impl Iterator<Item = &[u8]> {
        let due = self
            .waiting
            .iter()
            .take_while(move |waiting| waiting.due <= now);
        due.map(|waiting| &self.bytes[waiting.at..waiting.at + waiting.length])
    }

    /// Forgets the first `count` frames.
    pub(crate) fn drop_first(&mut self, count: usize) {
        self.waiting.drain(..count);
    }

    /// Bytes from the first frame to the last, gaps included.
    pub(crate) fn used(&self) -> usize {
        match self.waiting.front() {
            None => 0,
            Some(first) if self.tail > first.at => self.tail - first.at,
            Some(first) => self.bytes.len() - first.at + self.tail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    #[test]
    fn frames_keep_their_order_and_never_overlap() {
        let mut ring = Ring::new(1000);
        let mut expected: VecDeque<Vec<u8>> = VecDeque::new();
        let mut chance = Chance::new(7);
        let (mut pushed, mut refused) = (0, 0);
        for i in 0..100_000_u32 {
            if chance.hits(0.55) {
                let frame = vec![i as u8; 1 + (chance.next() * 300.0) as usize];
                if ring.push(&frame, 0) {
                    expected.push_back(frame);
                    pushed += 1;
                } else {
                    refused += 1;
                }
            } else if let Some(frame) = expected.pop_front() {
                assert_eq!(ring.ready(0).next(), Some(frame.as_slice()));
                ring.drop_first(1);
            }
            assert!(ring.used() <= 1000);
        }
        assert!(pushed > 40_000 && refused > 0, "{pushed} {refused}");
    }

    #[test]
    fn only_what_is_due_is_ready() {
        let mut ring = Ring::new(100);
        for due in [1, 2, 3] {
            assert!(ring.push(&[due as u8], due));
        }
        assert_eq!(ring.ready(2).collect::<Vec<_>>(), [&[1], &[2]]);
        ring.drop_first(2);
        assert_eq!(ring.due(), Some(3));
    }
}
