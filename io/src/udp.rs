//! Datagrams of one UDP socket, many in one system call: those of equal size for one destination leave as one message
//! that the kernel cuts (`UDP_SEGMENT`), and come joined (`UDP_GRO`), several such messages a call.
//!
//! A kernel, driver or path that refuses that gets them one by one; nothing is lost by it but speed.

use std::fmt;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvpn_wire::pmtud;
use kvpn_wire::wireguard::OVERHEAD;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::{RecvFlags, SendFlags};

use crate::os::{AsDescriptor, TOO_LONG, enlarge_buffers, forbid_fragments, forgo_timestamps};

/// Messages that one call receives, each of up to 64 datagrams.
const MESSAGES: usize = 8;
/// The longest message, in bytes, rounded up: datagrams joined are no longer than one datagram can be.
const MESSAGE: usize = 64 << 10;
/// What is asked of the kernel for each direction, in bytes: 30 ms at 1 Gbit/s, with the kernel's own overhead.
const KERNEL_BUFFER: usize = 7 << 20;

/// A socket and the buffers of what it receives.
#[derive(Debug)]
pub struct Datagrams<S> {
    socket: S,
    /// What the kernel can do with batches; none when it is not to be used.
    batches: Option<UdpSocketState>,
    buffers: Box<[u8]>,
    /// The longest datagram that the interface takes as far as is known, in bytes. Longer ones are tried alone first: some kernels refuse a
    /// batch of what is too long as if they knew no batches (EINVAL), which would end them for all.
    fits: AtomicUsize,
}

/// What the kernel does with a socket's datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpOffload {
    /// It cuts what is sent.
    pub gso: bool,
    /// It joins what is received.
    pub gro: bool,
}

/// Why a batch was not sent to its end.
#[derive(Debug)]
pub struct Unsent {
    /// How many bytes were sent.
    pub sent: usize,
    /// What the socket said; `WouldBlock`: the rest may be sent when it is writable.
    pub error: io::Error,
}

impl<S: AsDescriptor> Datagrams<S> {
    /// Takes a non-blocking, bound socket over. Without `offload` every datagram is a system call.
    pub fn new(socket: S, offload: bool) -> Self {
        enlarge_buffers(&socket, KERNEL_BUFFER);
        // The session finds out how long datagrams may be (RFC 8899), and fragments get lost where there are NATs.
        forbid_fragments(&socket);
        let batches = offload.then(|| open_batches(&socket)).and_then(|opened| {
            opened
                .inspect_err(|error| tracing::debug!(%error, "no batches of datagrams"))
                .ok()
        });
        Self {
            socket,
            batches,
            buffers: vec![0; MESSAGES * MESSAGE].into(),
            fits: AtomicUsize::new(pmtud::BASE + OVERHEAD),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket, to be registered with a poll.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// What the kernel does for us, as far as it is known by now.
    pub fn offload(&self) -> UdpOffload {
        let segments = |count: fn(&UdpSocketState) -> usize| {
            self.batches.as_ref().is_some_and(|state| count(state) > 1)
        };
        UdpOffload {
            gso: segments(UdpSocketState::max_gso_segments),
            gro: segments(UdpSocketState::gro_segments),
        }
    }

    /// Sends datagrams that lie side by side, each `segment` bytes long but the last, which may be shorter: at most 64 and
    /// 65,000 bytes. One that is too long for the interface is lost like one that is too long for a path beyond it.
    ///
    /// # Errors
    /// How far it came, and why no farther.
    pub fn send(&self, to: SocketAddr, datagrams: &[u8], segment: usize) -> Result<(), Unsent> {
        let segment = segment.max(1);
        let mut most = self
            .batches
            .as_ref()
            .map_or(1, UdpSocketState::max_gso_segments);
        let mut sent = 0;
        while sent < datagrams.len() {
            let known = segment <= self.fits.load(Ordering::Relaxed);
            let count = if known { most } else { 1 };
            let end = datagrams.len().min(sent + segment * count);
            match self.send_some(to, &datagrams[sent..end], segment) {
                Ok(()) => {
                    self.fits
                        .fetch_max(segment.min(end - sent), Ordering::Relaxed);
                    sent = end;
                }
                Err(error) if is_too_long(&error) && end - sent <= segment => {
                    self.fits.fetch_min(end - sent - 1, Ordering::Relaxed);
                    sent = end;
                }
                // EIO, EINVAL: a driver cannot do it, and it is not asked again. EMSGSIZE: a segment is too long.
                Err(error) if end - sent > segment && error.kind() != ErrorKind::WouldBlock => {
                    tracing::debug!(%error, "a batch of datagrams was refused");
                    most = 1;
                }
                Err(error) => return Err(Unsent { sent, error }),
            }
        }
        Ok(())
    }

    fn send_some(&self, to: SocketAddr, datagrams: &[u8], segment: usize) -> io::Result<()> {
        let Some(batches) = &self.batches else {
            rustix::net::sendto(&self.socket, datagrams, SendFlags::empty(), &to)?;
            return Ok(());
        };
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: datagrams,
            segment_size: Some(segment),
            src_ip: None,
        };
        batches.try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    /// Receives a bounded number of datagrams and hands each message over: who sent it, its bytes, and how long each datagram
    /// in it is but the last, which may be shorter. Whether there may be more.
    ///
    /// # Errors
    /// What the socket says: `WouldBlock` when there is nothing.
    pub fn receive(
        &mut self,
        mut take: impl FnMut(SocketAddr, &mut [u8], usize),
    ) -> io::Result<bool> {
        if self.batches.is_none() {
            return self.receive_one(take);
        }
        let mut meta = [RecvMeta::default(); MESSAGES];
        let count = self.receive_messages(&mut meta)?;
        let messages = self.buffers.chunks_exact_mut(MESSAGE);
        for (message, meta) in messages.zip(&meta[..count]) {
            // Port 0 cannot be answered (RFC 768): the kernel refuses to send to it as it refuses batches (EINVAL).
            if meta.len > 0 && meta.addr.port() > 0 {
                take(meta.addr, &mut message[..meta.len], meta.stride);
            }
        }
        // Some systems give one a call.
        Ok(count == MESSAGES.min(BATCH_SIZE))
    }

    fn receive_messages(&mut self, meta: &mut [RecvMeta; MESSAGES]) -> io::Result<usize> {
        let Some(batches) = &self.batches else {
            return Ok(0);
        };
        let mut chunks = self.buffers.chunks_exact_mut(MESSAGE);
        let mut slices: [IoSliceMut<'_>; MESSAGES] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        batches.recv(UdpSockRef::from(&self.socket), &mut slices, meta)
    }

    fn receive_one(
        &mut self,
        mut take: impl FnMut(SocketAddr, &mut [u8], usize),
    ) -> io::Result<bool> {
        let datagram = &mut self.buffers[..MESSAGE];
        let (_, length, from) =
            rustix::net::recvfrom(&self.socket, &mut *datagram, RecvFlags::empty())?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        if let Some(from) = from.filter(|from| length > 0 && from.port() > 0) {
            take(from, &mut datagram[..length], length);
        }
        Ok(true)
    }
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(TOO_LONG)
}

fn open_batches(socket: &impl AsDescriptor) -> io::Result<UdpSocketState> {
    let batches = UdpSocketState::new(UdpSockRef::from(socket))?;
    forgo_timestamps(socket);
    Ok(batches)
}

impl fmt::Display for UdpOffload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.gso, self.gro) {
            (true, true) => "GSO+GRO",
            (true, false) => "GSO",
            (false, true) => "GRO",
            (false, false) => "none",
        })
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
