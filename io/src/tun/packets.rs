//! Packets of a TUN, several segments at once where the kernel can: a virtio-net header stands before each
//! (`linux/virtio_net.h`), and what it says of unfinished checksums and segments is carried out or passed on.
//!
//! Fields of the header are little-endian: the kernel takes its own byte order, and all systems that kvpn is built
//! for have that one.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsFd;

use kvpn_wire::offload::virtio::{self, HEADER};
use kvpn_wire::offload::{MAX_PACKET, Segmentation};
use rustix::io::Errno;

use super::TunOffload;
use crate::os::{LEAD, lead, set_tun_offload};

/// `TUN_F_` features of `linux/if_tun.h`: unfinished checksums, TCP segmentation of both families and with ECN.
const CHECKSUM_AND_TCP: u32 = 0x01 | 0x02 | 0x04 | 0x08;
/// UDP segmentation of both families (Linux 6.2).
const UDP: u32 = 0x20 | 0x40;

/// Opens a TUN that does as much for us as the kernel can, or a plain one if that is `wanted`: `open` makes one, with
/// virtio-net headers (IFF_VNET_HDR) if it is told so.
///
/// # Errors
/// What `open` says of a plain TUN.
pub fn open<F: AsFd, E>(
    wanted: bool,
    open: impl Fn(bool) -> Result<F, E>,
) -> Result<(F, TunOffload), E> {
    if wanted && let Ok(tun) = open(true) {
        match offload(&tun) {
            Ok(offload) => return Ok((tun, offload)),
            // Closed here, so that the plain one can have the name.
            Err(error) => {
                tracing::debug!(%error, "the kernel has no segmentation offload for a TUN")
            }
        }
    }
    Ok((open(false)?, TunOffload::Plain))
}

fn offload(tun: &impl AsFd) -> Result<TunOffload, Errno> {
    match set_tun_offload(tun.as_fd(), CHECKSUM_AND_TCP | UDP) {
        Ok(()) => Ok(TunOffload::TcpAndUdp),
        Err(_) => set_tun_offload(tun.as_fd(), CHECKSUM_AND_TCP).map(|()| TunOffload::Tcp),
    }
}

/// Reads and writes the packets of one TUN.
#[derive(Debug)]
pub struct Packets {
    offload: TunOffload,
    /// Header and packet, as they were read.
    buffer: Box<[u8]>,
}

impl Packets {
    /// For a TUN that was opened with this offload.
    pub fn new(offload: TunOffload) -> Self {
        Self {
            offload,
            buffer: vec![0; HEADER + MAX_PACKET].into(),
        }
    }

    /// What the kernel does for us.
    pub fn offload(&self) -> TunOffload {
        self.offload
    }

    /// Reads the next packet, its checksum complete unless it is of several segments.
    ///
    /// # Errors
    /// What the TUN says: `WouldBlock` when there is none. `InvalidData` when the kernel gave a packet that it should
    /// not; the next may be right.
    pub fn read(&mut self, tun: impl AsFd) -> io::Result<(&mut [u8], Segmentation)> {
        let length = rustix::io::read(tun, &mut *self.buffer)?;
        if self.offload == TunOffload::Plain {
            let packet = self.buffer[..length].get_mut(LEAD..);
            let packet = packet.ok_or(ErrorKind::InvalidData)?;
            return Ok((packet, Segmentation::Whole));
        }
        let Some((header, packet)) = self.buffer[..length].split_first_chunk_mut::<HEADER>() else {
            return Err(ErrorKind::InvalidData.into());
        };
        match virtio::read(header, packet) {
            Ok(segmentation) => Ok((packet, segmentation)),
            Err(_malformed) => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// Writes a packet, of as many segments as the TUN's [abilities](TunOffload::abilities) allow. The kernel takes it
    /// or drops it; it does not make us wait.
    ///
    /// # Errors
    /// What the TUN says. `InvalidInput` for several segments to a plain TUN.
    pub fn write(
        &self,
        tun: impl AsFd,
        packet: &mut [u8],
        segmentation: Segmentation,
    ) -> io::Result<()> {
        if self.offload == TunOffload::Plain {
            if segmentation != Segmentation::Whole {
                return Err(ErrorKind::InvalidInput.into());
            }
            write_plain(tun, packet)?;
            return Ok(());
        }
        let header = virtio::write(packet, segmentation);
        rustix::io::writev(tun, &[IoSlice::new(&header), IoSlice::new(packet)])?;
        Ok(())
    }
}

fn write_plain(tun: impl AsFd, packet: &[u8]) -> Result<usize, Errno> {
    if LEAD == 0 {
        return rustix::io::write(tun, packet);
    }
    rustix::io::writev(tun, &[IoSlice::new(&lead(packet)), IoSlice::new(packet)])
}

#[cfg(test)]
mod tests;
