//! The `api` carrier: framed datagrams on a stream through the API server, many in one write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use kvpn_k8s::Forward;
use kvpn_wire::frame::{self, Deframer};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

/// Beyond this many unsent bytes programs are slowed down.
const CONGESTED: usize = 64 << 10;
/// Beyond this many unsent bytes datagrams are dropped.
const FULL: usize = 256 << 10;
/// Reads before the other sources get their turn.
const READS: usize = 4;

/// A stream and what is on its way through it.
pub(super) struct ApiCarrier {
    stream: Forward,
    deframer: Deframer,
    outgoing: Vec<u8>,
    /// How much of `outgoing` the stream has taken.
    taken: usize,
}

impl ApiCarrier {
    pub(super) fn new(stream: Forward) -> Self {
        Self {
            stream,
            deframer: Deframer::new(),
            outgoing: Vec::new(),
            taken: 0,
        }
    }

    /// Reads what is there, within limits; whether there was anything.
    ///
    /// # Errors
    ///
    /// The stream broke or ended, or does not speak frames.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        for reads in 0..READS {
            let mut buffer = ReadBuf::new(self.deframer.space());
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(reads > 0),
            }
            let count = buffer.filled().len();
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the stream ended",
                ));
            }
            self.deframer.filled(count);
            while let Some(datagram) = next(&mut self.deframer)? {
                take(datagram);
            }
        }
        Ok(true)
    }

    /// Puts a datagram on its way; `false` when the stream is too far behind.
    pub(super) fn queue(&mut self, datagram: &[u8]) -> bool {
        self.unsent() <= FULL && frame::encode(datagram, &mut self.outgoing)
    }

    /// Writes what the stream takes.
    ///
    /// # Errors
    ///
    /// The stream broke.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.taken < self.outgoing.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing[self.taken..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.taken += count,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        if self.taken == self.outgoing.len() {
            self.outgoing.clear();
            self.taken = 0;
        } else if self.taken > FULL {
            self.outgoing.drain(..self.taken);
            self.taken = 0;
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Whether programs should be slowed down.
    pub(super) fn is_congested(&self) -> bool {
        self.unsent() > CONGESTED
    }

    fn unsent(&self) -> usize {
        self.outgoing.len() - self.taken
    }
}

fn next(deframer: &mut Deframer) -> io::Result<Option<&[u8]>> {
    deframer.next().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the gateway's stream is not framed",
        )
    })
}
