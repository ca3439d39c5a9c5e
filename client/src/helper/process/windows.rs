//! The helper as a thread of the agent: Windows has no way to hand a TUN from one process to another. It speaks the same protocol
//! over memory and checks the same, so that what it changes is bounded and undone as elsewhere; it does not keep the agent from
//! what the agent's own rights allow.
//!
//! Must not speak the protocol ([`super::server`]).

use anyhow::{Context, Result, ensure};

use super::channel::{self, Channel};
use super::exceptions::Exceptions;
use super::runtime;
use super::server::{self, Place};
use crate::os::platform::{may_administer, state_folder};

/// What leads to a helper: nothing is needed for that.
#[derive(Debug)]
pub(crate) struct Lease;

/// The agent's end of a lease; the helper begins.
///
/// # Errors
/// This process has not the rights of administrators, or the exceptions cannot be read.
pub(super) fn agents_end(_lease: Lease) -> Result<Channel> {
    ensure!(
        may_administer(),
        "the TUN, routes and names need a process that was started as administrator"
    );
    let exceptions = Exceptions::of_this_machine()?;
    let (ours, theirs) = channel::pair();
    let thread = std::thread::Builder::new().name("helper".to_owned());
    let place = Place::Machine(state_folder());
    thread
        .spawn(move || {
            let served =
                runtime().and_then(|it| it.block_on(server::serve(theirs, place, exceptions)));
            if let Err(error) = served {
                tracing::error!(error = format!("{error:#}"), "the helper failed");
            }
        })
        .context("no thread for the helper")?;
    Ok(ours)
}
