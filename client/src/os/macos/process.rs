//! Which process is meant, so that a reused process id is not taken for it: by ps(1) and sysctl(8), which are part of the system.
//!
//! Must not decide who ends.

use std::io;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How often a process whose end is waited for is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// One process of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
    /// When it started: the digits of year, month, day and time of day.
    pub(crate) start_time: u64,
    /// `kern.bootsessionuuid`.
    pub(crate) boot: String,
}

impl Process {
    /// This process.
    pub(crate) fn current() -> Result<Self> {
        Self::of(std::process::id())
    }

    /// A process that runs.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            pid,
            start_time: running_since(pid).with_context(|| format!("there is no process {pid}"))?,
            boot: boot().context("`sysctl kern.bootsessionuuid` failed")?,
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

    /// Signals this process; nothing happens when it has ended.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        match pid.filter(|_| self.is_alive()) {
            Some(pid) => Ok(kill_process(pid, signal)?),
            None => Ok(()),
        }
    }

    /// Waits until it has ended. Needs a tokio runtime.
    pub(crate) async fn ended(&self) -> Result<()> {
        while self.is_alive() {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Whether the machine has run without a break since.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        boot().is_some_and(|boot| boot == self.boot)
    }

    /// A name for its files; never used again on this machine.
    pub(crate) fn session(&self) -> String {
        let digits = self.boot.chars().filter(char::is_ascii_hexdigit);
        let boot: String = digits.take(8).collect();
        format!("{}-{}-{boot}", self.pid, self.start_time)
    }

    /// Whether the process of this [`Process::session`] name still runs.
    pub(crate) fn session_is_alive(session: &str) -> bool {
        let pid = session.split('-').next().and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| Self::of(pid).is_ok_and(|process| process.session() == session))
    }
}

fn said(program: &str, words: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let output = command.args(words).env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn boot() -> Option<String> {
    said("/usr/sbin/sysctl", &["-n", "kern.bootsessionuuid"])
}

/// The start time of a process that runs.
fn running_since(pid: u32) -> Option<u64> {
    parse(&said(
        "/bin/ps",
        &["-o", "stat=,lstart=", "-p", &pid.to_string()],
    )?)
}

/// `Ss Sun Nov 22 00:16:57 2026`
fn parse(line: &str) -> Option<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = line.split_whitespace();
    if words.next()?.starts_with('Z') {
        return None;
    }
    let (month, day) = (words.nth(1)?, words.next()?.parse::<u64>().ok()?);
    let month = u64::try_from(MONTHS.find(month)? / 3).ok()? + 1;
    let time: u64 = words.next()?.replace(':', "").parse().ok()?;
    let year: u64 = words.next()?.parse().ok()?;
    Some(((year * 100 + month) * 100 + day) * 1_000_000 + time)
}

/// There is no such thing here; only `kvpn run` wants it, which needs what macOS has not.
#[expect(clippy::unnecessary_wraps, reason = "other systems may refuse")]
pub(crate) fn end_with_parent() -> io::Result<()> {
    Ok(())
}

/// The machine has one network.
#[expect(clippy::unnecessary_wraps, reason = "other systems have to look")]
pub(crate) fn network_namespace() -> Result<String> {
    Ok("machine".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn start_times_are_read_and_zombies_are_not() {
        assert_eq!(
            parse("Ss   Sun Nov 22 00:16:57 2026"),
            Some(20_261_122_001_657)
        );
        assert_eq!(parse("Z    Sun Nov  2 00:16:57 2026"), None);
        assert_eq!(parse(""), None);
    }
}
