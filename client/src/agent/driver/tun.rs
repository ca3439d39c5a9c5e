//! The TUN, watched by tokio: packets one by one, or joined as the kernel gives and takes them.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use kvpn_io::tun::{Packets, TunOffload};
use kvpn_wire::offload::Segmentation;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::agent::driver::watch::watch;

/// An open TUN.
pub(super) struct TunDevice {
    descriptor: AsyncFd<OwnedFd>,
    packets: Packets,
}

impl TunDevice {
    /// Takes a non-blocking descriptor over; `None` (and a log line) when it cannot be watched.
    pub(super) fn new(descriptor: OwnedFd, offload: TunOffload) -> Option<Self> {
        match watch(descriptor, Interest::READABLE) {
            Ok(descriptor) => Some(Self {
                descriptor,
                packets: Packets::new(offload),
            }),
            Err(error) => {
                tracing::error!(%error, "the TUN cannot be watched");
                None
            }
        }
    }

    /// What the kernel does for us.
    pub(super) fn offload(&self) -> TunOffload {
        self.packets.offload()
    }

    /// Reads one packet if there is one; how many bytes that were.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&mut [u8], Segmentation),
    ) -> Option<usize> {
        while let Poll::Ready(Ok(mut guard)) = self.descriptor.poll_read_ready(cx) {
            match guard.try_io(|descriptor| self.packets.read(descriptor)) {
                Ok(Ok((packet, segmentation))) => {
                    let length = packet.len();
                    take(packet, segmentation);
                    return Some(length);
                }
                Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => {
                    tracing::debug!("the TUN gave a packet that makes no sense");
                }
                // The interface is down or gone: the network task hears of it from the helper.
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the TUN cannot be read");
                    return None;
                }
                Err(_would_block) => {}
            }
        }
        None
    }

    /// Writes a packet; one that the kernel has no room for is lost, as on any link.
    pub(super) fn send(&mut self, packet: &mut [u8], segmentation: Segmentation) {
        if let Err(error) = self.packets.write(&self.descriptor, packet, segmentation) {
            tracing::trace!(%error, "the TUN did not take a packet");
        }
    }
}
