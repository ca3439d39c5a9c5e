//! The kernel datapath's TUN as the driver sees it: packets in, packets out.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use kvpn_gateway_core::GatewayState;
use kvpn_wire::offload::Segmentation;
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::kernel::Kernel;

/// Packets read before others have their turn.
const TURN: usize = 256;
/// The longest packet that the TUN gives.
const MAX_PACKET: usize = 65_535;

/// The TUN, and what holds its routes and rules.
pub(crate) struct Tun {
    kernel: Kernel,
    readable: bool,
    buffer: Vec<u8>,
}

impl Tun {
    /// Takes over the kernel's datapath.
    pub(crate) fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            readable: true,
            buffer: vec![0; MAX_PACKET],
        }
    }

    /// Whether packets may wait to be read.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Notes what the poll said.
    pub(crate) fn note_readable(&mut self) {
        self.readable = true;
    }

    /// Reads a bounded number of packets.
    pub(crate) fn receive(&mut self, state: &mut GatewayState, now: Instant) {
        for _ in 0..TURN {
            if !self.readable {
                return;
            }
            match self.kernel.device.recv(&mut self.buffer) {
                Ok(length) => {
                    state.handle_tun_packet(&mut self.buffer[..length], Segmentation::Whole, now)
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.readable = false;
                    if error.kind() != ErrorKind::WouldBlock {
                        tracing::warn!(%error, "cannot read from the TUN");
                    }
                }
            }
        }
    }

    /// Writes a packet. The kernel takes it or drops it; it does not make us wait.
    pub(crate) fn send(&self, packet: &[u8]) {
        if let Err(error) = self.kernel.device.send(packet) {
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
