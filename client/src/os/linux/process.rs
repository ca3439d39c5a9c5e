//! Which process is meant, so that a reused process id is not taken for it; and in which network it lives.
//!
//! Must not decide who ends.

use std::os::fd::OwnedFd;
use std::{fs, io};

use anyhow::{Context, Result};
use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One process of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
    /// Clock ticks from boot to its start (`/proc/PID/stat`, field 22).
    pub(crate) start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub(crate) boot: String,
}

impl Process {
    /// This process.
    pub(crate) fn current() -> Result<Self> {
        Self::of(std::process::id())
    }

    /// A process that runs.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let start_time = running_since(pid)
            .with_context(|| format!("/proc/{pid}/stat cannot be read: is /proc mounted?"))?;
        Ok(Self {
            pid,
            start_time,
            boot: boot()?,
        })
    }

    /// Whether it still runs. A zombie does not.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_of_this_boot() && running_since(self.pid) == Some(self.start_time)
    }

    /// Asks it to end; nothing happens when it has.
    pub(crate) fn ask_to_end(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it; nothing happens when it has ended.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Signals exactly this process; nothing happens when it has ended.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(Ok(descriptor)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else {
            return Ok(());
        };
        // The descriptor pins the process; only then is it compared with the one that is meant.
        if self.is_alive() {
            pidfd_send_signal(&descriptor, signal)?;
        }
        Ok(())
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It cannot be watched. Needs a tokio runtime.
    pub(crate) async fn ended(&self) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.context("this cannot be a process id")?;
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::NONBLOCK) else {
            return Ok(());
        };
        // The descriptor pins the process; only then is it compared with the one that is meant.
        if self.is_alive() {
            let _end = watch(descriptor)?.readable().await?;
        }
        Ok(())
    }

    /// Whether the machine has run without a break since.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot)
    }

    /// A name for its files; never used again on this machine.
    pub(crate) fn session(&self) -> String {
        let boot: String = self
            .boot
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(8)
            .collect();
        format!("{}-{}-{boot}", self.pid, self.start_time)
    }

    /// Whether the process of this [`Process::session`] name still runs.
    pub(crate) fn session_is_alive(session: &str) -> bool {
        let mut parts = session.split('-');
        let (pid, start) = (
            parts.next().and_then(|pid| pid.parse().ok()),
            parts.next().and_then(|start| start.parse().ok()),
        );
        let (Some(pid), Some(start_time), Ok(boot)) = (pid, start, boot()) else {
            return false;
        };
        let process = Self {
            pid,
            start_time,
            boot,
        };
        process.session() == session && process.is_alive()
    }
}

/// Has the runtime tell when a descriptor can be read.
#[expect(
    unsafe_code,
    reason = "tokio marks watching any descriptor unsafe, for those that are not owned"
)]
pub(super) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays the same open descriptor until it is dropped, and `AsyncFd` drops it last.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

fn boot() -> Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("the boot id cannot be read")?;
    Ok(boot.trim().to_owned())
}

/// The start time of a process that runs.
fn running_since(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `PID (NAME) STATE ...`: the name may hold anything, so what follows its last parenthesis is read.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Has this process end (SIGTERM) with the one that started it.
pub(crate) fn end_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
}

/// The network namespace of this process, as the kernel names it (`net:[4026531833]`).
pub(crate) fn network_namespace() -> Result<String> {
    let link = fs::read_link("/proc/self/ns/net").context("/proc/self/ns/net cannot be read")?;
    Ok(link.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Process, parse_stat};

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not() {
        let current = Process::current().unwrap();
        assert!(current.is_alive());
        assert!(Process::session_is_alive(&current.session()));
        let before = Process {
            start_time: current.start_time.wrapping_sub(1),
            ..current.clone()
        };
        assert!(!before.is_alive());
        assert!(!Process::session_is_alive(&before.session()));
        let other_boot = Process {
            boot: "00000000-0000".to_owned(),
            ..current
        };
        assert!(!other_boot.is_alive());
        assert!(!Process::session_is_alive(&other_boot.session()));
        assert!(!Process::session_is_alive("nonsense"));
    }

    #[test]
    fn a_name_with_parentheses_and_a_zombie_are_read_right() {
        let tail = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 19";
        assert_eq!(parse_stat(&format!("12 (a) b) S {tail}")), Some(4711));
        assert_eq!(parse_stat(&format!("12 (a) Z {tail}")), None);
        assert_eq!(parse_stat("12 (a"), None);
    }
}
