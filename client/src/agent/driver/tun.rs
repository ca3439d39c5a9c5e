//! The TUN: one IP packet a read or write.

use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use tokio::io::unix::AsyncFd;

/// Longer than any packet the interface lets through.
const MAX_PACKET: usize = 65_536;

/// An open TUN.
pub(super) struct TunDevice {
    descriptor: AsyncFd<OwnedFd>,
    buffer: Box<[u8]>,
}

impl TunDevice {
    /// Takes a non-blocking descriptor over; `None` (and a log line) when it cannot be watched.
    #[expect(unsafe_code, reason = "tokio offers no safe way to watch a descriptor")]
    pub(super) fn new(descriptor: OwnedFd) -> Option<Self> {
        // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped, and `AsyncFd` drops it last.
        match unsafe { AsyncFd::register(descriptor) } {
            Ok(descriptor) => Some(Self {
                descriptor,
                buffer: vec![0; MAX_PACKET].into(),
            }),
            Err(error) => {
                tracing::error!(%error, "the TUN cannot be watched");
                None
            }
        }
    }

    /// Reads at most `batch` packets; whether there were any.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: usize,
        mut take: impl FnMut(&[u8]),
    ) -> bool {
        let mut count = 0;
        while count < batch {
            let Poll::Ready(Ok(mut guard)) = self.descriptor.poll_read_ready(cx) else {
                break;
            };
            match guard.try_io(|descriptor| Ok(rustix::io::read(descriptor, &mut *self.buffer)?)) {
                Ok(Ok(length)) => take(&self.buffer[..length]),
                // The interface is down or gone: the network task hears of it from the helper.
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the TUN cannot be read");
                    break;
                }
                Err(_would_block) => continue,
            }
            count += 1;
        }
        count > 0
    }

    /// Writes a packet; one that the kernel has no room for is lost, as on any link.
    pub(super) fn send(&mut self, packet: &[u8]) {
        if let Err(error) = rustix::io::write(&self.descriptor, packet) {
            tracing::trace!(%error, "the TUN did not take a packet");
        }
    }
}
