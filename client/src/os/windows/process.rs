//! Which process is meant, so that a reused process id is not taken for it; and this process's streams.
//!
//! Must not decide who ends.

use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, IntoRawHandle as _, OwnedHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use windows_sys::Win32::Foundation::{FILETIME, WAIT_TIMEOUT};
use windows_sys::Win32::System::Console::{STD_ERROR_HANDLE, STD_OUTPUT_HANDLE, SetStdHandle};
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE,
    PROCESS_TERMINATE, TerminateProcess, WaitForSingleObject,
};

/// How often a process whose end is waited for is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// One process. Its start time tells boots apart too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
    /// When it started, in 100 ns since 1601.
    pub(crate) start_time: u64,
}

impl Process {
    /// This process.
    pub(crate) fn current() -> Result<Self> {
        Self::of(std::process::id())
    }

    /// A process that runs.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let opened = open(pid, 0).and_then(|process| started(&process));
        Ok(Self {
            pid,
            start_time: opened.with_context(|| format!("there is no process {pid}"))?,
        })
    }

    /// Whether it still runs. One that cannot be looked at is another user's, and taken for it.
    pub(crate) fn is_alive(&self) -> bool {
        match open(self.pid, 0) {
            Ok(process) => self.is(&process),
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        }
    }

    fn is(&self, process: &OwnedHandle) -> bool {
        runs(process) && started(process).is_ok_and(|start| start == self.start_time)
    }

    /// There is no way to ask a process without a window; sessions are asked through their control pipe before.
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "other systems have signals"
    )]
    pub(crate) fn ask_to_end(&self) -> io::Result<()> {
        Ok(())
    }

    /// Ends it; nothing happens when it has ended.
    pub(crate) fn kill(&self) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let process = open(self.pid, PROCESS_TERMINATE)?;
        // The handle pins the process; only then is it compared with the one that is meant.
        if self.is(&process) {
            terminate(&process)?;
        }
        Ok(())
    }

    /// Waits until it has ended. Needs a tokio runtime.
    pub(crate) async fn ended(&self) -> Result<()> {
        while self.is_alive() {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Whether the machine has run without a break since: a process of an earlier boot is not alive, which says the same.
    #[expect(clippy::unused_self, reason = "other systems have to look")]
    pub(crate) fn is_of_this_boot(&self) -> bool {
        true
    }

    /// A name for its files; never used again on this machine.
    pub(crate) fn session(&self) -> String {
        format!("{}-{}", self.pid, self.start_time)
    }

    /// Whether the process of this [`Process::session`] name still runs.
    pub(crate) fn session_is_alive(session: &str) -> bool {
        let process = session.split_once('-').and_then(|(pid, start_time)| {
            Some(Self {
                pid: pid.parse().ok()?,
                start_time: start_time.parse().ok()?,
            })
        });
        process.is_some_and(|process| process.is_alive())
    }
}

#[expect(unsafe_code, reason = "the standard library opens no processes")]
fn open(pid: u32, further: u32) -> io::Result<OwnedHandle> {
    let rights = PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE | further;
    // SAFETY: takes numbers only; a handle that is not null is ours to close.
    unsafe {
        let handle = OpenProcess(rights, 0, pid);
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedHandle::from_raw_handle(handle))
    }
}

#[expect(
    unsafe_code,
    reason = "the standard library does not wait for processes of others"
)]
fn runs(process: &OwnedHandle) -> bool {
    // SAFETY: the handle is open, and was opened for this.
    unsafe { WaitForSingleObject(process.as_raw_handle(), 0) == WAIT_TIMEOUT }
}

#[expect(unsafe_code, reason = "the standard library knows no start times")]
fn started(process: &OwnedHandle) -> io::Result<u64> {
    let [mut start, mut end, mut kernel, mut user] = [FILETIME::default(); 4];
    // SAFETY: the handle is open, and each pointer leads to a FILETIME that lives until the call returns.
    let done = unsafe {
        GetProcessTimes(
            process.as_raw_handle(),
            &raw mut start,
            &raw mut end,
            &raw mut kernel,
            &raw mut user,
        )
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(start.dwHighDateTime) << 32 | u64::from(start.dwLowDateTime))
}

#[expect(
    unsafe_code,
    reason = "the standard library ends its own children only"
)]
fn terminate(process: &OwnedHandle) -> io::Result<()> {
    // SAFETY: the handle is open, and was opened for this.
    if unsafe { TerminateProcess(process.as_raw_handle(), 1) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has a file take what this process and its children write from now on.
///
/// # Errors
/// The system does not allow it.
#[expect(
    unsafe_code,
    reason = "the standard library does not replace its streams"
)]
pub(crate) fn redirect(file: File) -> io::Result<()> {
    // It stays open as long as the process.
    let handle = file.into_raw_handle();
    for stream in [STD_OUTPUT_HANDLE, STD_ERROR_HANDLE] {
        // SAFETY: the handle is open from here to the end of the process.
        if unsafe { SetStdHandle(stream, handle) } == 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The machine has one network.
#[expect(clippy::unnecessary_wraps, reason = "other systems have to look")]
pub(crate) fn network_namespace() -> Result<String> {
    Ok("machine".to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_and_can_be_ended() {
        let mut child = Command::new("cmd.exe")
            .arg("/k")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process::of(child.id()).unwrap();
        let other = Process {
            start_time: 1,
            ..process.clone()
        };
        assert!(process.is_alive() && !other.is_alive());
        assert!(Process::session_is_alive(&process.session()));
        other.kill().unwrap();
        assert!(process.is_alive(), "the other one was meant");
        process.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
        process.kill().unwrap();
    }
}
