//! What the HTTP side asks of the driver: a bounded channel, a waker, an answer each.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use kvpn_gateway_core::{Refused, SessionIndex, Snapshot};
use kvpn_wire::control::{CreateSession, SessionGrant, SessionStatus};
use mio::Waker;
use tokio::sync::oneshot;

/// Requests that may wait for the driver.
const WAITING: usize = 64;
/// The driver answers in microseconds; if it does not answer at all, it is dead.
const PATIENCE: Duration = Duration::from_secs(1);

/// One request.
#[derive(Debug)]
pub(crate) enum Command {
    /// Create or renew a session.
    Create(
        Box<CreateSession>,
        oneshot::Sender<Result<SessionGrant, Refused>>,
    ),
    /// Tell how a session does.
    Status(SessionIndex, oneshot::Sender<Option<SessionStatus>>),
    /// End a session; whether there was one.
    End(SessionIndex, oneshot::Sender<bool>),
    /// Count, and tell what the kernel does for the data path.
    Snapshot(oneshot::Sender<(Snapshot, String)>),
    /// Stop the driver.
    Stop,
}

/// HTTP's end: commands --> driver.
#[derive(Debug, Clone)]
pub(crate) struct Commands {
    sender: SyncSender<Command>,
    waker: Arc<Waker>,
}

/// The driver did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the gateway's driver does not answer")]
pub(crate) struct Unanswered;

impl Commands {
    /// Both ends; `waker` wakes the driver's poll.
    pub(crate) fn new(waker: Waker) -> (Self, Receiver<Command>) {
        let (sender, receiver) = sync_channel(WAITING);
        (
            Self {
                sender,
                waker: Arc::new(waker),
            },
            receiver,
        )
    }

    /// Sends what `command` makes of an answering end, and waits for the answer.
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Unanswered> {
        let (sender, receiver) = oneshot::channel();
        self.send(command(sender))?;
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(Unanswered),
        }
    }

    /// Sends a command that has no answer.
    pub(crate) fn send(&self, command: Command) -> Result<(), Unanswered> {
        self.sender.try_send(command).map_err(|_| Unanswered)?;
        self.waker.wake().map_err(|_| Unanswered)
    }
}
