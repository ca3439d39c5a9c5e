//! macOS: packets of a utun have their address family before them, and the kernel joins nothing.

use std::os::fd::BorrowedFd;
pub(crate) use std::os::fd::{AsFd, AsFd as AsDescriptor};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

/// `EMSGSIZE`: a datagram is longer than the interface takes.
pub(crate) const TOO_LONG: i32 = Errno::MSGSIZE.raw_os_error();

/// What stands before a packet of a plain TUN: its address family, in network byte order (`net/if_utun.h`).
pub(crate) const LEAD: usize = 4;

/// The [`LEAD`] of a packet.
pub(crate) fn lead(packet: &[u8]) -> [u8; LEAD] {
    let family = match packet.first().map(|byte| byte >> 4) {
        Some(6) => AddressFamily::INET6,
        Some(_) | None => AddressFamily::INET,
    };
    u32::from(family.as_raw()).to_be_bytes()
}

/// # Errors
/// Always: a utun gives and takes single packets.
pub(crate) fn set_tun_offload(_tun: BorrowedFd<'_>, _features: u32) -> Result<(), Errno> {
    Err(Errno::NOTSUP)
}

/// None are asked for.
pub(crate) fn forgo_timestamps(_socket: &impl AsFd) {}

/// Has no datagram cut on its way.
pub(crate) fn forbid_fragments(socket: &impl AsFd) {
    // Each fails for the family that the socket is not of.
    let _ = setsockopt(socket, sockopt::IpDontFrag, &true);
    let _ = setsockopt(socket, sockopt::Ipv6DontFrag, &true);
}

/// As much as the kernel gives (kern.ipc.maxsockbuf).
pub(crate) fn enlarge_buffers(socket: &impl AsFd, bytes: usize) {
    let _ = set_socket_recv_buffer_size(socket, bytes);
    let _ = set_socket_send_buffer_size(socket, bytes);
}
