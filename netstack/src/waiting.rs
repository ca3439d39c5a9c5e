//! A bounded queue of messages in one growing byte ring: what waits in a UDP or echo flow.

use std::collections::VecDeque;

/// Most bytes that wait in one flow: four of the largest datagrams.
const MAX_BYTES: usize = 256 * 1024;
/// Most messages that wait in one flow.
const MAX_MESSAGES: usize = 1024;
/// Each message costs this much more than its bytes.
const HEADER: usize = size_of::<Header>();

/// A number kept beside each message (an echo's sequence number), and the message's length.
type Header = [u8; 4];

/// Messages in the order they came, each with a 16-bit number. Nothing is allocated once the ring has
/// grown to what the flow uses.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    ring: VecDeque<u8>,
    messages: usize,
}

impl Waiting {
    /// False when there is no room, or the message is longer than 65,535 bytes.
    pub(crate) fn push(&mut self, number: u16, message: &[u8]) -> bool {
        let Ok(len) = u16::try_from(message.len()) else {
            return false;
        };
        let bytes = self.ring.len() + HEADER + message.len();
        if bytes > MAX_BYTES || self.messages == MAX_MESSAGES {
            return false;
        }
        let ([n0, n1], [l0, l1]) = (number.to_be_bytes(), len.to_be_bytes());
        self.ring.extend([n0, n1, l0, l1]);
        self.ring.extend(message);
        self.messages += 1;
        true
    }

    /// The oldest message's number and how many of its bytes were put into `buf`; what does not fit is lost, as
    /// with a datagram socket.
    pub(crate) fn pop(&mut self, buf: &mut [u8]) -> Option<(u16, usize)> {
        let mut header: Header = [0; 4];
        self.take(&mut header)?;
        self.messages -= 1;
        let [n0, n1, l0, l1] = header;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        let kept = len.min(buf.len());
        self.take(&mut buf[..kept]);
        self.ring.drain(..len - kept);
        Some((u16::from_be_bytes([n0, n1]), kept))
    }

    fn take(&mut self, out: &mut [u8]) -> Option<()> {
        if self.ring.len() < out.len() {
            return None;
        }
        let (front, back) = self.ring.as_slices();
        let split = front.len().min(out.len());
        let rest = out.len() - split;
        out[..split].copy_from_slice(&front[..split]);
        out[split..].copy_from_slice(&back[..rest]);
        self.ring.drain(..out.len());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_numbers_and_truncation() {
        let mut queue = Waiting::default();
        let mut buf = [0; 8];
        assert_eq!(queue.pop(&mut buf), None);
        for round in 0..1000_u16 {
            assert!(queue.push(round, b"longer than the buffer"));
            assert!(queue.push(round, b""));
            assert!(queue.push(round, b"abc"));
            assert_eq!(queue.pop(&mut buf), Some((round, 8)));
            assert_eq!(&buf, b"longer t");
            assert_eq!(queue.pop(&mut buf), Some((round, 0)));
            assert_eq!(queue.pop(&mut buf), Some((round, 3)));
            assert_eq!(&buf[..3], b"abc");
        }
    }

    #[test]
    fn bounded() {
        let mut queue = Waiting::default();
        let message = vec![1; 65_000];
        assert!((0..4).all(|_| queue.push(0, &message)));
        assert!(!queue.push(0, &message));
        assert!(!queue.push(0, &vec![0; 65_536]));
        let mut queue = Waiting::default();
        assert_eq!(
            (0..2000).filter(|_| queue.push(0, b"")).count(),
            MAX_MESSAGES
        );
    }
}
