//! Starts an agent for a command: `kvpn agent` as the session's user, with a control connection as its standard
//! input and the helper's socket as its standard output.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::agent::contact::Contact;
use crate::cli::user::User;

/// How long an agent may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(15);
/// How often a child that ought to end is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// An agent that this process started.
#[derive(Debug)]
pub(crate) struct Launched {
    child: Child,
    /// The control connection that is its standard input.
    pub(crate) contact: Contact,
}

/// Starts an agent. It waits for a `Start` request.
///
/// # Errors
///
/// The process cannot be started.
pub(crate) fn launch(user: &User, helper: OwnedFd) -> anyhow::Result<Launched> {
    let (ours, theirs) = UnixStream::pair().context("a socketpair for the agent cannot be made")?;
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let mut command = Command::new(program);
    command
        .arg("agent")
        .stdin(OwnedFd::from(theirs))
        .stdout(helper)
        .stderr(Stdio::inherit());
    user.dress(&mut command);
    let child = command.spawn().context("the agent cannot be started")?;
    Ok(Launched {
        child,
        contact: Contact::of_child(ours)?,
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
