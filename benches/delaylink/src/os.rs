//! What is asked of Linux: packet sockets with virtio-net headers, batches of frames, a precise clock. The only file
//! with `unsafe`; libc because no safe wrapper has PACKET_VNET_HDR with recvmmsg.

#![expect(
    unsafe_code,
    reason = "packet sockets and batched IO have no safe wrapper"
)]

use std::ffi::CString;
use std::io::{Error, ErrorKind, Result};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// `struct virtio_net_hdr`, without mergeable buffers, in bytes.
pub(crate) const VIRTIO_HEADER: usize = 10;
/// A TSO frame has at most 64 KiB and its headers.
const MAX_FRAME: usize = VIRTIO_HEADER + 65_536 + 64;
/// Frames a system call.
pub(crate) const BATCH: usize = 64;

/// `linux/if_packet.h`.
const PACKET_STATISTICS: i32 = 6;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// A packet socket on one interface; each frame has a virtio-net header before it.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    descriptor: OwnedFd,
}

/// What became of the frames that were to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Need not be sent again.
    pub(crate) done: usize,
    /// Of these, those that the kernel refused for good.
    pub(crate) refused: usize,
}

impl PacketSocket {
    /// Opens a socket that sees what arrives at the interface, from now on.
    ///
    /// # Errors
    /// There is no such interface, or no CAP_NET_RAW.
    pub(crate) fn open(interface: &str) -> Result<Self> {
        let index = index_of(interface)?;
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers. Protocol 0: nothing arrives before `bind` has chosen the interface.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        check(raw)?;
        // SAFETY: the call above succeeded, so `raw` is an open descriptor that nobody else has.
        let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
        let socket = Self { descriptor };
        socket.set(libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_PACKET, PACKET_QDISC_BYPASS, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
        socket.set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 16 << 20)?;
        socket.bind(index)?;
        Ok(socket)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> Result<()> {
        let length = size_of::<i32>() as u32;
        // SAFETY: `value` is an i32 that lives until the call returns, and `length` says so.
        check(unsafe {
            libc::setsockopt(self.raw(), level, option, (&raw const value).cast(), length)
        })
    }

    fn bind(&self, index: u32) -> Result<()> {
        // SAFETY: all fields of `sockaddr_ll` are integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: `address` is a `sockaddr_ll` that lives until the call returns, and `length` says so.
        check(unsafe { libc::bind(self.raw(), (&raw const address).cast(), length) })
    }

    /// A second descriptor of the same socket, to send on.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        let descriptor = self.descriptor.try_clone()?;
        Ok(Self { descriptor })
    }

    fn raw(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }

    /// Frames that the kernel dropped before us, since the last call.
    pub(crate) fn kernel_drops(&self) -> u64 {
        let mut counts = [0_u32; 2];
        let mut length = size_of::<[u32; 2]>() as u32;
        // SAFETY: `counts` has room for the two u32 of `tpacket_stats`, and `length` says so.
        let code = unsafe {
            libc::getsockopt(
                self.raw(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut length,
            )
        };
        if code == 0 { u64::from(counts[1]) } else { 0 }
    }

    /// Sends frames, [`BATCH`] at most, until the kernel takes no more.
    pub(crate) fn send(&self, frames: &[&[u8]]) -> Sent {
        // SAFETY: integers and pointers, for which zero is a value.
        let mut pieces: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let count = frames.len().min(BATCH);
        for ((frame, piece), header) in frames.iter().zip(&mut pieces).zip(&mut headers) {
            piece.iov_base = frame.as_ptr().cast_mut().cast();
            piece.iov_len = frame.len();
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
        }
        let mut sent = Sent {
            done: 0,
            refused: 0,
        };
        while sent.done < count {
            let left = &mut headers[sent.done..count];
            // SAFETY: each header points to one iovec of `pieces`, which points to a frame; both outlive the call,
            // which only reads the frames. `left.len()` headers are there.
            let taken = unsafe {
                libc::sendmmsg(
                    self.raw(),
                    left.as_mut_ptr(),
                    left.len() as u32,
                    libc::MSG_DONTWAIT,
                )
            };
            if taken > 0 {
                sent.done += taken as usize;
                continue;
            }
            match Error::last_os_error().kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => break,
                // The other side's backlog is full (a congested link drops too), or the frame itself is refused.
                _ => {
                    sent.done += 1;
                    sent.refused += 1;
                }
            }
        }
        sent
    }

    /// Sleeps until a frame is there, `nanos` at most.
    pub(crate) fn wait(&self, nanos: u64) {
        let limit = libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as i64,
            tv_nsec: (nanos % 1_000_000_000) as i64,
        };
        let mut watched = libc::pollfd {
            fd: self.raw(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd and one timespec, both alive until the call returns; no signal mask.
        unsafe { libc::ppoll(&raw mut watched, 1, &raw const limit, std::ptr::null()) };
    }
}

fn index_of(interface: &str) -> Result<u32> {
    let name = CString::new(interface).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    // SAFETY: `name` is a C string that lives until the call returns.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(Error::last_os_error()),
        index => Ok(index),
    }
}

fn check(code: i32) -> Result<()> {
    if code < 0 {
        return Err(Error::last_os_error());
    }
    Ok(())
}

/// Room for a batch of frames.
pub(crate) struct Received {
    buffer: Box<[u8]>,
    lengths: [usize; BATCH],
}

impl Received {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; BATCH * MAX_FRAME].into(),
            lengths: [0; BATCH],
        }
    }

    /// Takes what has arrived; the number of frames, 0 when none wait.
    ///
    /// # Errors
    /// The interface is gone.
    pub(crate) fn receive(&mut self, socket: &PacketSocket) -> Result<usize> {
        // SAFETY: integers and pointers, for which zero is a value.
        let mut pieces: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let rooms = self.buffer.chunks_exact_mut(MAX_FRAME);
        for ((room, piece), header) in rooms.zip(&mut pieces).zip(&mut headers) {
            piece.iov_base = room.as_mut_ptr().cast();
            piece.iov_len = room.len();
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: each header points to one iovec of `pieces`, which points to a room of its own in the buffer; all of
        // them outlive the call. No time limit.
        let count = unsafe {
            libc::recvmmsg(
                socket.raw(),
                headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            let error = Error::last_os_error();
            return match error.kind() {
                // A network that is down may come back.
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NetworkDown => Ok(0),
                _ => Err(error),
            };
        }
        let count = count as usize;
        for (length, header) in self.lengths.iter_mut().zip(&headers[..count]) {
            *length = header.msg_len as usize;
        }
        Ok(count)
    }

    /// A frame of the last batch, with its virtio-net header.
    pub(crate) fn frame(&self, index: usize) -> &[u8] {
        &self.buffer[index * MAX_FRAME..][..self.lengths[index]]
    }
}

/// The monotonic clock in nanoseconds.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a timespec to be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Has the kernel wake this thread when asked, and not up to 50 us later.
pub(crate) fn precise_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes a number.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}
