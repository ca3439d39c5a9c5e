//! The privileged process on the laptop: opens the TUN, sets addresses, routes and DNS, and undoes them; nothing else.
//!
//! It serves the one peer at the other end of its standard input. That connection is the lease: at its end everything
//! is undone. It re-checks all it is handed, reads no kubeconfig, speaks to no network, and never runs what it is told.
//! A helper that is killed leaves a journal, which the next one (or [`undo_leftovers`]) works off.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use ipnetwork::IpNetwork;
use rustix::process::setsid;

use crate::os::platform::{self, may_administer, state_folder};

mod channel;
mod connection;
mod exceptions;
mod installed;
mod journal;
pub(crate) mod listen;
mod network;
mod own;
mod patience;
pub(crate) mod protocol;
mod server;
mod spawn;
mod upkeep;
mod validate;

pub(crate) use connection::{Changed, Configured, HelperConnection};
use exceptions::Exceptions;
pub(crate) use installed::{Installed, ask as ask_installed};
pub(crate) use own::{OwnHelper, spawn_own};
pub(crate) use protocol::{DnsBackend, DnsConfig, NetworkConfig, News};
use server::Place;
pub(crate) use spawn::{Escalation, spawn};

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
    runtime()?.block_on(server::serve(socket, place, exceptions))
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
    runtime()?.block_on(server::serve(
        socket,
        Place::Own(unshared),
        Exceptions::default(),
    ))
}

/// Whether a helper of this machine would send a range into a tunnel.
///
/// # Errors
/// Why not, as text for the user.
pub(crate) fn range_limits(range: IpNetwork) -> Result<(), String> {
    let exceptions = Exceptions::of_this_machine().map_err(|error| format!("{error:#}"))?;
    validate::limits(range, &exceptions)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no asynchronous runtime")
}

/// Undoes what killed helpers left in this network namespace. Needs root. Returns what was undone and what the user
/// should know, one text each. A starting helper does the same by itself and tells it in its greeting.
///
/// # Errors
/// Not root, or something cannot be put back; its record stays then.
pub(crate) fn undo_leftovers() -> Result<Vec<String>> {
    ensure!(
        may_administer(),
        "only root can undo what a helper left: try `sudo kvpn disconnect`"
    );
    // A thread of its own, so that callers may be inside a runtime.
    let undone = std::thread::scope(|scope| {
        let undoing = scope.spawn(|| runtime()?.block_on(journal::undo_leftovers(&state_folder())));
        undoing.join()
    });
    undone.unwrap_or_else(|_| bail!("undoing what a helper left failed"))
}

/// What a killed helper left, as far as an unprivileged user can see it: text for the user, `None` when all is well.
/// What it names is undone by starting a helper, or by [`undo_leftovers`].
pub(crate) fn visible_leftovers() -> Option<String> {
    platform::visible_leftovers()
}
