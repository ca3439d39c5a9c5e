//! What wants a process to end: signals.
//!
//! Must not decide what is done about them.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::{Pid, kill_process};
pub(crate) use tokio::signal::unix::{Signal, SignalKind, signal};

/// Passes a signal on to a child that is not waited for yet.
pub(crate) fn pass_on(child: u32, kind: SignalKind) {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
    let signal = rustix::process::Signal::from_named_raw(kind.as_raw_value());
    if let (Some(pid), Some(signal)) = (pid, signal) {
        // It may be gone already.
        let _ = kill_process(pid, signal);
    }
}

/// What a shell has for the exit code of a process that a signal ended.
pub(crate) fn exit_code(status: ExitStatus) -> Option<i32> {
    status.signal().map(|signal| 128 + signal)
}
