//! Windows: what sockets are asked for. Packets come from wintun, which the client speaks to itself.

use quinn_udp::{UdpSockRef, UdpSocketState};
use socket2::SockRef;

pub(crate) use std::os::windows::io::AsSocket as AsDescriptor;

/// `WSAEMSGSIZE`: a datagram is longer than the interface takes.
pub(crate) const TOO_LONG: i32 = 10_040;

/// None are asked for.
pub(crate) fn forgo_timestamps(_socket: &impl AsDescriptor) {}

/// Has no datagram cut on its way: quinn-udp asks for that when it looks at a socket.
pub(crate) fn forbid_fragments(socket: &impl AsDescriptor) {
    let _ = UdpSocketState::new(UdpSockRef::from(socket));
}

/// As much as the system gives.
pub(crate) fn enlarge_buffers(socket: &impl AsDescriptor, bytes: usize) {
    let socket = SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(bytes);
    let _ = socket.set_send_buffer_size(bytes);
}
