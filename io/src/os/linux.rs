//! Linux: TUNSETOFFLOAD, which work the kernel leaves to the owner of a TUN; and socket options.

use std::os::fd::BorrowedFd;
pub(crate) use std::os::fd::{AsFd, AsFd as AsDescriptor};

use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, ioctl, opcode};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
    set_socket_send_buffer_size_force,
};

/// `linux/if_tun.h`. The value is passed itself, not by a pointer, whatever the opcode's type says.
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);

/// `EMSGSIZE`: a datagram is longer than the interface takes.
pub(crate) const TOO_LONG: i32 = Errno::MSGSIZE.raw_os_error();

/// What stands before a packet of a plain TUN: nothing.
pub(crate) const LEAD: usize = 0;

/// The [`LEAD`] of a packet.
pub(crate) fn lead(_packet: &[u8]) -> [u8; LEAD] {
    []
}

/// Tells the kernel which of the `TUN_F_` features the owner of `tun` takes.
///
/// # Errors
/// EINVAL: the kernel does not know one of them.
#[expect(unsafe_code, reason = "no crate wraps TUNSETOFFLOAD")]
pub(crate) fn set_tun_offload(tun: BorrowedFd<'_>, features: u32) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes an integer by value and touches no memory of ours; every value is valid, the kernel
    // refuses bits it does not know.
    unsafe {
        ioctl(
            tun,
            IntegerSetter::<TUNSETOFFLOAD>::new_usize(features as usize),
        )
    }
}

/// When a datagram came is nobody's concern here, and costs the kernel a look at the clock.
pub(crate) fn forgo_timestamps(socket: &impl AsFd) {
    let _ = setsockopt(socket, sockopt::ReceiveTimestampns, &false);
}

/// Has no datagram cut on its way, whatever the kernel believes of the path.
pub(crate) fn forbid_fragments(socket: &impl AsFd) {
    // Each fails for the family that the socket is not of.
    let _ = set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE);
    let _ = set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE);
    let _ = setsockopt(socket, sockopt::Ipv6DontFrag, &true);
}

/// As much as the kernel gives: beyond its limit for all (net.core.rmem_max) only with CAP_NET_ADMIN.
pub(crate) fn enlarge_buffers(socket: &impl AsFd, bytes: usize) {
    if set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        let _ = set_socket_recv_buffer_size(socket, bytes);
    }
    if set_socket_send_buffer_size_force(socket, bytes).is_err() {
        let _ = set_socket_send_buffer_size(socket, bytes);
    }
}
