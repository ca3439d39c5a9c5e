//! What a flow's caller sent and its peer has not acknowledged: written once, read as often as it goes out. It does not know what was
//! sent.

use super::pieces::{Piece, Pieces};
use crate::memory::{Memory, SMALL};

/// The last piece is written on as long as so much of it is free; the caller rather gets a fresh one than less.
const ENOUGH: usize = 16 * 1024;

/// The send buffer of one flow.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pieces: Pieces,
    /// Offset of the first byte that was not acknowledged.
    start: u64,
    end: u64,
}

impl Outgoing {
    pub(super) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// Lets `write` put at most `most` bytes behind the others, into memory of one piece; returns how many it says it put. `None` when
    /// there is no memory: then it was not called.
    pub(super) fn write_with(
        &mut self,
        most: usize,
        memory: &mut Memory,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        let free = self.pieces.last_mut().map_or(0, |piece| piece.free());
        if free < most.min(ENOUGH) {
            match memory.take(most, self.pieces.held()) {
                Some(bytes) if bytes.len() > free => {
                    return Some(self.write_fresh(bytes, most, memory, write));
                }
                Some(bytes) => memory.give(bytes),
                None => {}
            }
        }
        let last = self.pieces.last_mut().filter(|piece| piece.free() > 0)?;
        let room = last.free().min(most);
        let used = write(&mut last.bytes[last.len..][..room]).min(room);
        last.len += used;
        self.end += used as u64;
        Some(used)
    }

    /// Few bytes are moved to where they take less memory.
    fn write_fresh(
        &mut self,
        mut bytes: Box<[u8]>,
        most: usize,
        memory: &mut Memory,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        let room = bytes.len().min(most);
        let used = write(&mut bytes[..room]).min(room);
        let last = self.pieces.last_mut();
        if let Some(last) = last.filter(|last| used <= last.free()) {
            last.bytes[last.len..][..used].copy_from_slice(&bytes[..used]);
            last.len += used;
            memory.give(bytes);
        } else if used == 0 {
            memory.give(bytes);
        } else {
            let bytes = if used <= SMALL {
                in_less(bytes, used, memory)
            } else {
                bytes
            };
            self.pieces.push(Piece {
                start: self.end,
                len: used,
                bytes,
            });
        }
        self.end += used as u64;
        used
    }

    /// At most `len` bytes from the `offset`th unacknowledged one on: as many as lie in two pieces.
    pub(super) fn slices(&self, offset: u32, len: usize) -> [&[u8]; 2] {
        self.pieces.slices(self.start + u64::from(offset), len)
    }

    /// The first `count` bytes are not needed any more.
    pub(super) fn acknowledge(&mut self, count: u32, memory: &mut Memory) {
        self.start = self.end.min(self.start + u64::from(count));
        if self.is_empty() {
            self.pieces.clear(memory);
        } else {
            self.pieces.release_before(self.start, memory);
        }
    }

    pub(super) fn clear(&mut self, memory: &mut Memory) {
        self.start = self.end;
        self.pieces.clear(memory);
    }
}

fn in_less(bytes: Box<[u8]>, used: usize, memory: &mut Memory) -> Box<[u8]> {
    if bytes.len() <= SMALL {
        return bytes;
    }
    let Some(mut small) = memory.take(used, 0) else {
        return bytes;
    };
    small[..used].copy_from_slice(&bytes[..used]);
    memory.give(bytes);
    small
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{FLOOR, PIECE};

    fn byte(at: usize) -> u8 {
        (at % 251) as u8
    }

    /// Writes `len` bytes of the pattern, however many calls it takes; less when memory ends.
    fn write(buffer: &mut Outgoing, at: usize, len: usize, memory: &mut Memory) -> usize {
        let mut done = 0;
        while done < len {
            let written = buffer.write_with(len - done, memory, |free| {
                let count = free.len().min(len - done);
                (0..count).for_each(|index| free[index] = byte(at + done + index));
                count
            });
            match written {
                Some(count) if count > 0 => done += count,
                Some(_) | None => break,
            }
        }
        done
    }

    #[test]
    fn bytes_stay_in_order() {
        let mut memory = Memory::new(64 << 20);
        let mut buffer = Outgoing::default();
        let (mut written, mut acknowledged) = (0, 0);
        for round in 0..3000_usize {
            written += write(&mut buffer, written, round * 37 % 20_000, &mut memory);
            let count = (round * 53 % 20_000).min(written - acknowledged);
            for offset in [0, count / 2] {
                let [one, two] = buffer.slices(offset as u32, count);
                for (index, &found) in one.iter().chain(two).enumerate() {
                    assert_eq!(found, byte(acknowledged + offset + index));
                }
            }
            buffer.acknowledge(count as u32, &mut memory);
            acknowledged += count;
            assert_eq!(buffer.len(), written - acknowledged);
        }
        buffer.acknowledge(u32::MAX, &mut memory);
        assert_eq!((buffer.len(), buffer.pieces.held()), (0, 0));
    }

    #[test]
    fn few_bytes_take_little_memory() {
        let mut memory = Memory::new(64 << 20);
        let mut buffer = Outgoing::default();
        for at in 0..30 {
            assert_eq!(
                buffer.write_with(1 << 20, &mut memory, |free| {
                    assert!(free.len() >= ENOUGH);
                    free[..100].fill(byte(at));
                    100
                }),
                Some(100)
            );
        }
        assert_eq!((buffer.len(), buffer.pieces.held()), (3000, SMALL));
        assert_eq!(
            buffer.write_with(1 << 20, &mut memory, |free| {
                assert_eq!(free.len(), PIECE);
                0
            }),
            Some(0)
        );
    }

    #[test]
    fn without_a_budget_there_is_the_floor() {
        let mut memory = Memory::new(0);
        let mut buffer = Outgoing::default();
        assert_eq!(write(&mut buffer, 0, 100_000, &mut memory), FLOOR);
        assert_eq!(buffer.write_with(10, &mut memory, |_| unreachable!()), None);
        buffer.acknowledge(5000, &mut memory);
        assert_eq!(write(&mut buffer, FLOOR, 100_000, &mut memory), SMALL);
    }
}
