//! The `api` carrier: framed datagrams on a stream through the API server, many in one message.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use kvpn_k8s::Forward;
use kvpn_wire::stream::Stream;
use tokio::io::AsyncWrite as _;

/// Beyond this many unsent bytes datagrams are dropped: what a stream without room still gets are handshakes and probes.
const OVERFLOW: usize = 1 << 20;
/// Messages received before the other sources get their turn, 32 KiB each as a rule.
const MESSAGES: usize = 16;

/// A stream and what is on its way through it.
pub(super) struct ApiCarrier {
    forward: Forward,
    stream: Stream,
}

impl ApiCarrier {
    /// A carrier on a fresh stream; `control`: whether the gateway knows control frames.
    pub(super) fn new(forward: Forward, control: bool, now: Instant) -> Self {
        let stream = if control {
            Stream::with_control(now)
        } else {
            Stream::new()
        };
        Self { forward, stream }
    }

    /// Receives what is there, within limits; whether there was anything.
    ///
    /// # Errors
    ///
    /// The stream broke or ended, or does not speak frames.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        let mut any = false;
        for _ in 0..MESSAGES {
            let Poll::Ready(received) = self.forward.poll_bytes(cx) else {
                break;
            };
            let bytes = received?
                .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended"))?;
            self.stream.receive(&bytes, now, &mut take).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the gateway's stream is not framed",
                )
            })?;
            any = true;
        }
        self.stream.report(now);
        Ok(any)
    }

    /// Puts a datagram on its way; `false` when the stream is too far behind.
    pub(super) fn queue(&mut self, datagram: &[u8], now: Instant) -> bool {
        self.stream.unsent().len() < OVERFLOW && self.stream.push(datagram, now)
    }

    /// Writes what the stream takes.
    ///
    /// # Errors
    ///
    /// The stream broke.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.stream.unsent().is_empty() {
            match Pin::new(&mut self.forward).poll_write(cx, self.stream.unsent()) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.stream.taken(count),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        match Pin::new(&mut self.forward).poll_flush(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Bytes that the stream takes now, and how long a super-packet may be.
    pub(super) fn room(&self) -> (usize, usize) {
        (self.stream.room(), self.stream.piece())
    }
}
