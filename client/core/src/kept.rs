//! Packets that wait until the session works again: the newest few. The oldest are what programs have given up or sent
//! again since. Must not know where packets go.

use kvpn_wire::queue::PacketQueue;

/// How many packets, and bytes: two of the largest.
const MAX_PACKETS: usize = 64;
const MAX_BYTES: usize = 128 * 1024;

/// The newest packets.
#[derive(Debug)]
pub(crate) struct Kept {
    packets: PacketQueue<()>,
    dropped: u64,
}

impl Kept {
    pub(crate) fn new() -> Self {
        Self {
            packets: PacketQueue::new(MAX_PACKETS, MAX_BYTES),
            dropped: 0,
        }
    }

    /// Keeps a packet; the oldest make room for it.
    pub(crate) fn keep(&mut self, packet: &[u8]) {
        while !self.packets.push((), packet) {
            self.dropped += 1;
            if self.packets.pop().is_none() {
                return;
            }
        }
    }

    /// The oldest of those that are left.
    pub(crate) fn pop(&mut self) -> Option<&[u8]> {
        self.packets.pop().map(|((), packet)| packet)
    }

    /// Packets that had to make room.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_in_their_order() {
        let mut kept = Kept::new();
        for n in 0..200u8 {
            kept.keep(&[n; 1360]);
        }
        let mut left = Vec::new();
        while let Some(packet) = kept.pop() {
            left.push(packet[0]);
        }
        let newest: Vec<u8> = (200 - 64..200).collect();
        assert_eq!(left, newest);
        assert_eq!(kept.dropped(), 200 - 64);
    }

    #[test]
    fn what_can_never_fit_is_not_waited_for() {
        let mut kept = Kept::new();
        kept.keep(&[1; 100]);
        kept.keep(&vec![2; MAX_BYTES + 1]);
        assert_eq!(kept.pop(), None);
    }
}
