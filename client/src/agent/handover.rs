//! How a command and the agent that it starts find each other, both ends: the agent's standard input is a control connection, its
//! standard output the helper's socket.
//!
//! Must not know what is said.

use std::io;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use rustix::io::fcntl_dupfd_cloexec;

use crate::agent::transport::{Stream, pair};
use crate::cli::user::User;
use crate::helper::Lease;

/// Starts an agent; gives back this process's end of the control connection. Needs a tokio runtime.
///
/// # Errors
///
/// The process cannot be started.
#[expect(
    clippy::unused_async,
    reason = "elsewhere the agent has to be waited for"
)]
pub(super) async fn start(
    user: &User,
    helper: Option<Lease>,
    _in_front: bool,
) -> anyhow::Result<(Child, Stream)> {
    let (ours, theirs) = pair().context("a socketpair for the agent cannot be made")?;
    let theirs = theirs.into_std()?;
    // tokio's sockets do not block, and a descriptor has that in common with its copies.
    theirs.set_nonblocking(false)?;
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let mut command = Command::new(program);
    command
        .arg("agent")
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(helper.map_or_else(Stdio::null, Stdio::from))
        .stderr(Stdio::inherit());
    user.dress(&mut command);
    let child = command.spawn().context("the agent cannot be started")?;
    Ok((child, ours))
}

/// What an agent was given.
pub(super) struct Given {
    launcher: std::os::unix::net::UnixStream,
    helper: Lease,
}

/// Takes this process's standard streams for what they are. From then on the terminal's signals and its end are not ours.
///
/// # Errors
///
/// They are closed.
pub(super) fn take() -> anyhow::Result<Given> {
    let stdin = fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let helper = fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let nothing = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    let _ = rustix::process::setsid();
    Ok(Given {
        launcher: stdin.into(),
        helper,
    })
}

impl Given {
    /// The connection with the command, and the way to the helper. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// Standard input is no socket.
    #[expect(
        clippy::unused_async,
        reason = "elsewhere the command has to be called"
    )]
    pub(super) async fn open(self) -> io::Result<(Stream, Lease)> {
        self.launcher.set_nonblocking(true)?;
        Ok((Stream::from_std(self.launcher)?, self.helper))
    }
}

/// Has a file take what this process writes from now on, panics among it.
///
/// # Errors
///
/// The streams are closed.
pub(super) fn redirect(file: &std::fs::File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(file)?;
    rustix::stdio::dup2_stderr(file)?;
    Ok(())
}
