//! How a command and the agent that it starts find each other, both ends: the first line of the agent's standard input names a
//! pipe at which the command waits. The helper is a part of the agent.
//!
//! Must not know what is said.

use std::io::{self, Write as _};
use std::os::windows::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use windows_sys::Win32::System::Threading::{CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW};

use crate::agent::transport::{Listener, Stream, connect_with};
use crate::cli::user::User;
use crate::helper::Lease;
use crate::os::platform::process;

/// How long an agent may take to call.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Starts an agent; gives back this process's end of the control connection. In front, it writes to this process's console; else it
/// has one of its own that nobody sees, which is its children's too. Ctrl-C is not for it. Needs a tokio runtime.
///
/// # Errors
///
/// The process cannot be started, or does not call.
pub(super) async fn start(
    _user: &User,
    _helper: Option<Lease>,
    in_front: bool,
) -> anyhow::Result<(Child, Stream)> {
    let listener = Listener::open().context("a pipe for the agent cannot be made")?;
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let mut child = Command::new(program)
        .arg("agent")
        .creation_flags(if in_front { 0 } else { CREATE_NO_WINDOW } | CREATE_NEW_PROCESS_GROUP)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .context("the agent cannot be started")?;
    if let Some(mut stdin) = child.stdin.take() {
        writeln!(stdin, "{}", listener.name()).context("the agent does not listen")?;
    }
    let called = tokio::time::timeout(CALL_LIMIT, listener.accept()).await;
    let (stream, ()) = called.context("the agent does not call")??;
    Ok((child, stream))
}

/// What an agent was given.
pub(super) struct Given {
    pipe: String,
}

/// Reads what this process was given.
///
/// # Errors
///
/// Standard input is closed.
pub(super) fn take() -> anyhow::Result<Given> {
    let mut pipe = String::new();
    io::stdin().read_line(&mut pipe)?;
    Ok(Given {
        pipe: pipe.trim_end().to_owned(),
    })
}

impl Given {
    /// The connection with the command, and the way to the helper. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// Nobody waits.
    pub(super) async fn open(self) -> io::Result<(Stream, Lease)> {
        Ok((connect_with(&self.pipe).await?, Lease))
    }
}

/// Has a file take what this process writes from now on, panics among it.
///
/// # Errors
///
/// The system does not allow it.
pub(super) fn redirect(file: &std::fs::File) -> io::Result<()> {
    process::redirect(file.try_clone()?)
}
