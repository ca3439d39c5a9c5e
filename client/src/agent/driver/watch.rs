//! Descriptors that tokio watches for one kind of readiness. A socket watched for room to write as well would wake the
//! driver after every datagram that leaves it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::Context;

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is watched.
pub(super) type Watched = AsyncFd<OwnedFd>;

/// Takes a non-blocking descriptor over. Needs a tokio runtime.
///
/// # Errors
/// The system's poll does not take it.
#[expect(unsafe_code, reason = "tokio offers no safe way to watch a descriptor")]
pub(super) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<Watched> {
    // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped, and `AsyncFd` drops it last.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// Watches a non-blocking UDP socket for what comes.
///
/// # Errors
/// As [`watch`].
pub(super) fn watch_arrivals(socket: Socket) -> io::Result<Watched> {
    watch(socket.into(), Interest::READABLE)
}

/// Watches the same socket for room.
///
/// # Errors
/// As [`watch`].
pub(super) fn watch_room(socket: &Watched) -> io::Result<Watched> {
    watch(socket.as_fd().try_clone_to_owned()?, Interest::WRITABLE)
}

/// Whether something may have come; if not, there will be a wake.
pub(super) fn has_arrivals(watched: &Watched, cx: &mut Context<'_>) -> bool {
    watched.poll_read_ready(cx).is_ready()
}

/// Whether there may be room; if not, there will be a wake.
pub(super) fn has_room(watched: &Watched, cx: &mut Context<'_>) -> bool {
    watched.poll_write_ready(cx).is_ready()
}

/// Has the next poll wait for a new event: what was ready is no more.
pub(super) fn forget_readiness(watched: &Watched, interest: Interest) {
    let nothing = |_: &OwnedFd| Err::<(), _>(io::ErrorKind::WouldBlock.into());
    let _ = watched.try_io(interest, nothing);
}
