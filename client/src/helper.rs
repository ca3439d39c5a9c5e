//! The privileged process on the laptop: opens the TUN, sets addresses, routes and DNS, and undoes them; nothing else.
//!
//! It serves one peer; on Unix the one at the other end of its standard input, on Windows the agent that it is a part of. That
//! connection is the lease: at its end everything is undone. It re-checks all it is handed, reads no kubeconfig, speaks to no network, and never runs what it is told.
//! A helper that is killed leaves a journal, which the next one (or [`undo_leftovers`]) works off.

use anyhow::{Context, Result, bail, ensure};
use ipnetwork::IpNetwork;

use crate::os::platform::{self, may_administer, state_folder};

#[cfg_attr(windows, path = "helper/channel/windows.rs")]
mod channel;
mod connection;
mod exceptions;
#[cfg(unix)]
mod installed;
mod journal;
#[cfg(unix)]
pub(crate) mod listen;
mod network;
#[cfg(unix)]
mod own;
mod patience;
#[cfg_attr(windows, path = "helper/process/windows.rs")]
mod process;
pub(crate) mod protocol;
mod server;
#[cfg(unix)]
mod spawn;
mod upkeep;
mod validate;

pub(crate) use connection::{Changed, Configured, HelperConnection};
use exceptions::Exceptions;
#[cfg(unix)]
pub(crate) use installed::{Installed, ask as ask_installed};
#[cfg(unix)]
pub(crate) use own::{OwnHelper, spawn_own};
pub(crate) use process::Lease;
#[cfg(unix)]
pub(crate) use process::{run, run_own};
pub(crate) use protocol::{DnsBackend, DnsConfig, NetworkConfig, News};
#[cfg(unix)]
pub(crate) use spawn::{Escalation, spawn};

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
