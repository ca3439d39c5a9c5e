//! Descriptors that tokio watches for one kind of readiness. A socket watched for room to write as well would wake the
//! driver after every datagram that leaves it.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes a non-blocking descriptor over. Needs a tokio runtime.
///
/// # Errors
/// The system's poll does not take it.
#[expect(unsafe_code, reason = "tokio offers no safe way to watch a descriptor")]
pub(super) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped, and `AsyncFd` drops it last.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// Has the next poll wait for a new event: what was ready is no more.
pub(super) fn forget_readiness(watched: &AsyncFd<OwnedFd>, interest: Interest) {
    let nothing = |_: &OwnedFd| Err::<(), _>(io::ErrorKind::WouldBlock.into());
    let _ = watched.try_io(interest, nothing);
}
