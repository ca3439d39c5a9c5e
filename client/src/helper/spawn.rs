//! Starts a helper for this process: `kvpn helper` with one end of a socketpair as its standard input.
//!
//! Must not speak the protocol.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// How the helper gets its privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escalation {
    /// It inherits them: this process is root.
    Direct,
    /// Through `sudo`, which asks for the password on the terminal when it needs one.
    Sudo,
}

/// Starts a helper and returns the agent's end of the connection to it (close-on-exec; hand it on as a standard
/// stream or by `SCM_RIGHTS`). Blocks while sudo asks for a password; needs no runtime. The helper detaches itself
/// from the terminal, so it outlives the process that called this, as long as the descriptor is open somewhere.
///
/// # Errors
/// sudo is missing or refused, or the helper could not start; its own message is on standard error then.
pub(crate) fn spawn(escalation: Escalation) -> anyhow::Result<OwnedFd> {
    let (ours, theirs) =
        UnixStream::pair().context("a socketpair for the helper cannot be made")?;
    let program = std::env::current_exe().context("the path of this program cannot be found")?;
    let mut command = match escalation {
        Escalation::Direct => Command::new(program),
        Escalation::Sudo => {
            let mut sudo = Command::new("sudo");
            sudo.arg("--").arg(program);
            sudo
        }
    };
    command
        .arg("helper")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null());
    let status = command.status().with_context(|| match escalation {
        Escalation::Direct => "the helper cannot be started".to_owned(),
        Escalation::Sudo => {
            "sudo cannot be run; install it, or run `kvpn connect` as root".to_owned()
        }
    })?;
    // The command holds the helper's end; only when it is gone does a dead helper show as the end of the stream.
    drop(command);
    if status.success() {
        return Ok(OwnedFd::from(ours));
    }
    match escalation {
        Escalation::Direct => bail!("the helper could not start ({status})"),
        Escalation::Sudo => bail!(
            "`sudo kvpn helper` failed ({status}): TUN, routes and DNS need root; \
             check that you may use sudo (`sudo -v`), or run `sudo kvpn connect`"
        ),
    }
}
