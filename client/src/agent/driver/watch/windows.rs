//! UDP sockets that tokio watches. Windows is asked anew after each event that came to nothing, so that a socket with room wakes
//! nobody twice.

use std::io;
use std::task::Context;

use socket2::{SockRef, Socket};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// What is watched.
pub(super) type Watched = UdpSocket;

/// Watches a non-blocking UDP socket for what comes. Needs a tokio runtime.
///
/// # Errors
/// The system's poll does not take it.
pub(super) fn watch_arrivals(socket: Socket) -> io::Result<Watched> {
    UdpSocket::from_std(socket.into())
}

/// Watches the same socket for room.
///
/// # Errors
/// As [`watch_arrivals`].
pub(super) fn watch_room(socket: &Watched) -> io::Result<Watched> {
    UdpSocket::from_std(SockRef::from(socket).try_clone()?.into())
}

/// Whether something may have come; if not, there will be a wake.
pub(super) fn has_arrivals(watched: &Watched, cx: &mut Context<'_>) -> bool {
    watched.poll_recv_ready(cx).is_ready()
}

/// Whether there may be room; if not, there will be a wake.
pub(super) fn has_room(watched: &Watched, cx: &mut Context<'_>) -> bool {
    watched.poll_send_ready(cx).is_ready()
}

/// Has the next poll wait for a new event: what was ready is no more.
pub(super) fn forget_readiness(watched: &Watched, interest: Interest) {
    let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    let _ = watched.try_io(interest, nothing);
}
