//! Starts an agent for a command, as the session's user, and waits for its end.

use std::process::{Child, ExitStatus};
use std::time::Duration;

use crate::agent::contact::Contact;
use crate::agent::handover;
use crate::cli::user::User;
use crate::helper::Lease;

/// How long an agent may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(15);
/// How often a child that ought to end is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// An agent that this process started.
#[derive(Debug)]
pub(crate) struct Launched {
    child: Child,
    /// The control connection with it.
    pub(crate) contact: Contact,
}

/// Starts an agent, which waits for a request; one to hold a session needs a helper. What it logs `in_front`
/// is for the terminal.
///
/// # Errors
///
/// The process cannot be started.
pub(crate) async fn launch(
    user: &User,
    helper: Option<Lease>,
    in_front: bool,
) -> anyhow::Result<Launched> {
    let (child, stream) = handover::start(user, helper, in_front).await?;
    Ok(Launched {
        child,
        contact: Contact::with_child(stream),
    })
}

impl Launched {
    /// Waits until the agent is gone; one that does not end is killed (its helper then undoes all).
    ///
    /// # Errors
    ///
    /// The system does not say what became of the child.
    pub(crate) async fn gone(mut self) -> anyhow::Result<ExitStatus> {
        drop(self.contact);
        let deadline = tokio::time::Instant::now() + END_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if tokio::time::Instant::now() >= deadline {
                self.child.kill()?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
