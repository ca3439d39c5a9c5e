//! Bytes that wait for the socket. What a burst made of the buffer goes again when the stream is quiet.

/// Bytes at the front that were taken before the rest is moved there.
const COMPACT: usize = 1 << 20;
/// How often the buffer is emptied before it is looked at for being too large.
const LOOK: u8 = 8;
/// What a quiet stream keeps, in bytes.
const QUIET: usize = 1 << 10;

#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// How much of it the socket has taken.
    taken: usize,
    /// The most that was in it, and how often it was emptied, since it was last looked at.
    peak: usize,
    emptied: u8,
}

impl Outgoing {
    /// To append to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(super) fn taken(&mut self, count: usize) {
        self.taken = (self.taken + count).min(self.bytes.len());
        if self.taken == self.bytes.len() {
            self.empty();
        } else if self.taken >= COMPACT {
            self.peak = self.peak.max(self.bytes.len());
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }

    fn empty(&mut self) {
        self.peak = self.peak.max(self.bytes.len());
        self.bytes.clear();
        self.taken = 0;
        self.emptied += 1;
        if self.emptied == LOOK {
            if self.peak < self.bytes.capacity() / 4 {
                self.bytes.shrink_to((self.peak * 2).max(QUIET));
            }
            self.peak = 0;
            self.emptied = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_gone() {
        let mut outgoing = Outgoing::default();
        outgoing.buffer().extend_from_slice(b"abcdef");
        outgoing.taken(2);
        outgoing.buffer().push(b'g');
        assert_eq!(outgoing.unsent(), b"cdefg");
        outgoing.taken(100);
        assert_eq!(outgoing.unsent(), b"");
    }

    #[test]
    fn a_socket_that_is_always_behind_does_not_let_the_buffer_grow() {
        let mut outgoing = Outgoing::default();
        for _ in 0..100 {
            outgoing.bytes.extend_from_slice(&[7; 100_000]);
            let unsent = outgoing.unsent().len();
            outgoing.taken(unsent - 1000);
            assert_eq!(outgoing.unsent().len(), 1000);
        }
        assert!(outgoing.bytes.capacity() < 3 * COMPACT);
    }

    #[test]
    fn a_burst_leaves_nothing_behind() {
        let mut outgoing = Outgoing::default();
        let mut send = |count: usize| {
            outgoing.buffer().resize(count, 7);
            outgoing.taken(count);
            outgoing.bytes.capacity()
        };
        assert!(send(1_000_000) >= 1_000_000);
        let settled = (0..20).map(|_| send(100)).last().unwrap();
        assert!(settled <= QUIET, "{settled}");
    }
}
