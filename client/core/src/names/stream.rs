//! DNS over TCP: messages with a length before each (RFC 1035 section 4.2.2). Bytes only.

use std::time::Instant;

use kvpn_netstack::{FlowId, Netstack};

/// Bytes taken from a flow at a time.
const CHUNK: usize = 4096;

/// Collects what came over one connection. Holds at most one message and a chunk beyond what was taken out.
#[derive(Debug, Default)]
pub(super) struct Frames {
    received: Vec<u8>,
}

impl Frames {
    /// Takes what is there, at most one chunk past a whole message; the rest waits in the flow.
    pub(super) fn read(&mut self, flow: FlowId, stack: &mut Netstack, now: Instant) {
        while self.message_len().is_none() {
            let mut chunk = [0; CHUNK];
            let n = stack.tcp_recv(flow, &mut chunk, now);
            self.received.extend_from_slice(&chunk[..n]);
            if n == 0 {
                return;
            }
        }
    }

    /// The next whole message.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let len = self.message_len()?;
        let message = self.received[2..2 + len].to_vec();
        self.received.drain(..2 + len);
        Some(message)
    }

    /// The length of the first message, once all of it is here.
    fn message_len(&self) -> Option<usize> {
        let len = usize::from(u16::from_be_bytes(*self.received.first_chunk()?));
        (self.received.len() >= 2 + len).then_some(len)
    }
}

/// `message` with its length before it. Longer than a length can say: cut, which no answer made here is.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend_from_slice(&message[..len.into()]);
    framed
}
