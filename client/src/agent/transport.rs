//! What agent and commands speak over, and how parts of one process hand a connection to each other: Unix sockets.
//!
//! Must not know what is said.

use std::io;
use std::path::Path;

pub(crate) use tokio::net::{UnixListener as Listener, UnixStream as Stream};

/// One end of a connection within this process.
pub(crate) type Pipe = Stream;

/// Both ends of a connection within this process. Needs a tokio runtime.
///
/// # Errors
///
/// There are too many descriptors.
pub(crate) fn pair() -> io::Result<(Pipe, Pipe)> {
    Stream::pair()
}

/// Waits for connections of this user's processes at a path, whatever stood there.
///
/// # Errors
///
/// The socket cannot be made.
pub(crate) fn listen(path: &Path) -> io::Result<Listener> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = Listener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects with who listens at a path.
///
/// # Errors
///
/// `NotFound` or `ConnectionRefused`: nobody does.
pub(crate) async fn connect(path: &Path) -> io::Result<Stream> {
    Stream::connect(path).await
}
