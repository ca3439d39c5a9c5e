//! Word that the machine's network changes (the routing socket, route(4)), and how long it slept.
//!
//! Says only that something changed; what, the one who is told looks up. Must not judge.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixStream;

/// Longer than any message of the routing socket.
const MESSAGE: usize = 2048;

/// Changes of interfaces, addresses and routes, one item each.
pub(crate) struct Changes {
    messages: UnixStream,
}

impl Changes {
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// The system has no routing socket for us.
    pub(crate) fn open() -> Result<Self> {
        let socket = socket(AddressFamily::ROUTE, SocketType::RAW, None)
            .context("changes of the network cannot be listened to")?;
        fcntl_setfl(&socket, OFlags::NONBLOCK)?;
        // tokio watches and reads it like any stream of bytes.
        let stream = std::os::unix::net::UnixStream::from(socket);
        Ok(Self {
            messages: UnixStream::from_std(stream)?,
        })
    }

    /// Waits for the next change; `None` when no more will be told. May be cancelled.
    pub(crate) async fn next(&mut self) -> Option<()> {
        loop {
            self.messages.readable().await.ok()?;
            match self.messages.try_read(&mut [0; MESSAGE]) {
                Ok(0) => return None,
                Ok(_) => return Some(()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // Messages were lost for want of room: something changed.
                Err(_) => return Some(()),
            }
        }
    }
}

/// How long the machine has slept since this was first asked: CLOCK_MONOTONIC goes on meanwhile, Rust's `Instant` stands.
#[expect(clippy::disallowed_methods, reason = "the clock is the subject")]
pub(crate) fn time_asleep() -> Duration {
    static FIRST: OnceLock<(Instant, Duration)> = OnceLock::new();
    let now = || Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    let (instant, monotonic) = *FIRST.get_or_init(|| (Instant::now(), now()));
    (now().saturating_sub(monotonic)).saturating_sub(instant.elapsed())
}
