//! The helper as a process of its own: how it starts, and whose end of a connection it serves.
//!
//! Must not speak the protocol ([`super::server`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::setsid;

use super::channel::Channel;
use super::exceptions::Exceptions;
use super::server::{self, Place};
use super::{own, runtime};
use crate::os::platform::{self, may_administer, state_folder};

/// What leads to a helper, and keeps what it changed as long as it is open: a socket.
pub(crate) type Lease = OwnedFd;

/// The agent's end of a lease. Needs a tokio runtime.
///
/// # Errors
/// It is no socket.
pub(super) fn agents_end(lease: Lease) -> io::Result<Channel> {
    Channel::new(lease, true)
}

/// The helper's end of one.
fn helpers_end(socket: OwnedFd) -> Result<Channel> {
    Channel::new(socket, false).context("the socket cannot be used")
}

/// The whole of `kvpn helper`. Must be called outside of any runtime.
///
/// The process that was started checks, starts a second one (`serving`) in a session of its own, and ends: neither
/// Ctrl-C, nor a closed terminal, nor sudo's end reaches the helper then.
///
/// # Errors
/// Not root, or standard input is not a socket from the user who started it.
pub(crate) fn run(serving: bool) -> Result<()> {
    ensure!(
        may_administer(),
        "the helper must run as root: `kvpn connect` starts it through sudo"
    );
    if serving {
        return serve();
    }
    check_peer()?;
    Command::new("/proc/self/exe")
        .arg0("kvpn")
        .args(["helper", "--serve"])
        .env_clear()
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("the helper cannot start a process of its own")?;
    Ok(())
}

/// The peer is who made the socketpair: root, or the user who called sudo.
fn check_peer() -> Result<()> {
    let uid = runtime()?.block_on(async { peer_uid() }).context(
        "standard input is not a socket: `kvpn helper` is started by `kvpn connect`, and sudo must hand its standard \
         input on (with its option log_input it does not: run `sudo kvpn connect` then)",
    )?;
    #[expect(
        clippy::disallowed_methods,
        reason = "sudo says in the environment who called it; nothing is configured by it"
    )]
    let caller = std::env::var("SUDO_UID")
        .ok()
        .and_then(|uid| uid.parse::<u32>().ok());
    if uid != 0 && Some(uid) != caller {
        bail!(
            "the helper was started by another user than the one (uid {uid}) at its standard input"
        );
    }
    Ok(())
}

/// tokio reads the credentials of a peer in another pid namespace too; rustix takes its missing pid for an error.
fn peer_uid() -> Result<u32> {
    let socket = std::os::unix::net::UnixStream::from(stdin()?);
    socket.set_nonblocking(true)?;
    Ok(tokio::net::UnixStream::from_std(socket)?.peer_cred()?.uid())
}

fn stdin() -> Result<OwnedFd> {
    io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("standard input cannot be used")
}

fn serve() -> Result<()> {
    let exceptions = Exceptions::of_this_machine()?;
    // Fails when this process leads a session already; then it is detached as well.
    let _ = setsid();
    let socket = stdin()?;
    let place = Place::Machine(state_folder());
    runtime()?.block_on(async { server::serve(helpers_end(socket)?, place, exceptions).await })
}

/// The whole of `kvpn helper --own`: makes a network for one program, without privileges, and serves the agent at its
/// standard input there. Must be called outside of any runtime.
///
/// # Errors
/// The system does not allow it; then standard output has the [`Failure`](crate::cli::failure::Failure), else nothing.
pub(crate) fn run_own() -> Result<()> {
    let socket = stdin()?;
    let unshared = platform::unshare().map_err(own::explain)?;
    // The terminal's signals and its end are the program's.
    let _ = setsid();
    let nothing = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    // Whoever waits at the other end knows now that the namespaces stand.
    rustix::stdio::dup2_stdout(&nothing)?;
    let place = Place::Own(unshared);
    runtime()?
        .block_on(async { server::serve(helpers_end(socket)?, place, Exceptions::default()).await })
}
