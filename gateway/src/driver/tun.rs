//! The kernel datapath's TUN as the driver sees it: packets in, packets out, joined as far as the kernel does that.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;

use kvpn_io::tun::{Packets, TunOffload};
use kvpn_wire::offload::Segmentation;
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::kernel::Kernel;

/// The TUN, and what holds its routes and rules.
pub(crate) struct Tun {
    kernel: Kernel,
    readable: bool,
    packets: Packets,
}

impl Tun {
    /// Takes over the kernel's datapath.
    pub(crate) fn new(kernel: Kernel) -> Self {
        Self {
            packets: Packets::new(kernel.offload),
            kernel,
            readable: true,
        }
    }

    /// What the kernel does for us.
    pub(crate) fn offload(&self) -> TunOffload {
        self.packets.offload()
    }

    /// Whether packets may wait to be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Notes what the poll said.
    pub(crate) fn note_readable(&mut self) {
        self.readable = true;
    }

    /// Reads one packet if there is one; how many bytes that were.
    pub(crate) fn receive(&mut self, take: impl FnOnce(&mut [u8], Segmentation)) -> Option<usize> {
        if !self.readable {
            return None;
        }
        match self.packets.read(&self.kernel.device) {
            Ok((packet, segmentation)) => {
                let length = packet.len();
                take(packet, segmentation);
                Some(length)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                None
            }
            Err(error) => {
                self.readable = error.kind() == ErrorKind::InvalidData;
                tracing::warn!(%error, "cannot read from the TUN");
                None
            }
        }
    }

    /// Writes a packet. The kernel takes it or drops it; it does not make us wait.
    pub(crate) fn send(&self, packet: &mut [u8], segmentation: Segmentation) {
        if let Err(error) = self
            .packets
            .write(&self.kernel.device, packet, segmentation)
        {
            tracing::debug!(%error, "packet not written to the TUN");
        }
    }
}

impl Source for Tun {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.kernel.device.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.kernel.device.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.kernel.device.as_raw_fd()).deregister(registry)
    }
}
