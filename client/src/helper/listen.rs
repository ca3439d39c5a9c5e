//! The installed helper (`kvpn helper --listen`): a socket at which members of its group get a helper for each session, without
//! sudo. A few leases a user, so that nobody keeps the others out.
//!
//! Must not read what clients say: each has a process of its own for that ([`super::server`]), and here only the kernel's word
//! about who they are counts.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sd_notify::NotifyState;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::protocol::{Answer, Numbered};
use super::{may_administer, runtime};
use crate::os::platform;

/// Leases at a time, of all users together: a session has one.
const MAX_LEASES: usize = 64;
/// Leases of one user.
const MAX_LEASES_OF_USER: usize = 4;
/// The socket's mode: its owner and its group.
const MODE: u32 = 0o660;
/// The pause after an `accept` that failed, which is for want of descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(100);

/// The whole of `kvpn helper --listen PATH`: serves until SIGTERM, and then until every lease is undone.
///
/// # Errors
/// CAP_NET_ADMIN is missing, or the socket cannot be made.
pub(crate) fn run(path: &Path) -> Result<()> {
    ensure!(
        may_administer(),
        "the installed helper needs CAP_NET_ADMIN: `kvpn service install` sets it up"
    );
    runtime()?.block_on(listen(path))
}

async fn listen(path: &Path) -> Result<()> {
    let mut termination = signal(SignalKind::terminate())?;
    let listener =
        bind(path).with_context(|| format!("the socket {} cannot be made", path.display()))?;
    sd_notify::notify(&[NotifyState::Ready]).context("systemd cannot be told")?;
    let mut leases = Leases::default();
    loop {
        tokio::select! {
            _ = termination.recv() => break,
            Some(ended) = leases.processes.join_next() => leases.forget(ended.ok()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => leases.offer(stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection was lost");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let _ = std::fs::remove_file(path);
    leases.end().await;
    Ok(())
}

/// A socket that is there already is that of one that was killed: the system runs one at a time. Its group is this process's,
/// which elsewhere than on Linux it would not be by itself (and the service's sandbox on Linux has no chown).
fn bind(path: &Path) -> Result<UnixListener> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)?;
    }
    platform::remove(path)?;
    let listener = UnixListener::bind(path)?;
    #[cfg(not(target_os = "linux"))]
    rustix::fs::chown(path, None, Some(rustix::process::getegid()))?;
    std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Who has how many helpers.
#[derive(Default)]
struct Leases {
    users: BTreeMap<u32, usize>,
    /// The helpers; each gives back whose it was.
    processes: JoinSet<u32>,
    end: CancellationToken,
}

impl Leases {
    /// Gives a helper to who is at the other end, or says why not.
    fn offer(&mut self, stream: UnixStream) {
        let Ok(uid) = stream.peer_cred().map(|peer| peer.uid()) else {
            return;
        };
        if self
            .users
            .get(&uid)
            .is_some_and(|own| *own >= MAX_LEASES_OF_USER)
        {
            let why = format!(
                "user {uid} has {MAX_LEASES_OF_USER} sessions through the installed helper already"
            );
            return refuse(&stream, why);
        }
        if self.processes.len() >= MAX_LEASES {
            let why = format!("the installed helper serves {MAX_LEASES} sessions already");
            return refuse(&stream, why);
        }
        match spawn(stream) {
            Ok(helper) => {
                *self.users.entry(uid).or_default() += 1;
                let end = self.end.clone();
                self.processes.spawn(async move {
                    until_ended(helper, end).await;
                    uid
                });
            }
            Err(error) => tracing::warn!(error = format!("{error:#}"), "no helper can be started"),
        }
    }

    fn forget(&mut self, uid: Option<u32>) {
        let Some(uid) = uid else { return };
        if let Some(own) = self.users.get_mut(&uid) {
            *own -= 1;
        }
        self.users.retain(|_, own| *own > 0);
    }

    /// Has every lease undone.
    async fn end(mut self) {
        self.end.cancel();
        while self.processes.join_next().await.is_some() {}
    }
}

/// Says no, if that can be said at once, and hangs up.
fn refuse(stream: &UnixStream, error: String) {
    tracing::info!(error, "refused");
    let body = Answer::Failed { error, taken: true };
    if let Ok(line) = serde_json::to_string(&Numbered { id: 0, body }) {
        // Who does not read its refusal learns of it by the end of the stream.
        let _ = stream.try_write(format!("{line}\n").as_bytes());
    }
}

/// A helper with the connection as its standard input. It inherits the capability and nothing else.
fn spawn(stream: UnixStream) -> Result<Child> {
    let socket = OwnedFd::from(stream.into_std()?);
    Command::new("/proc/self/exe")
        .arg0("kvpn")
        .args(["helper", "--serve"])
        .env_clear()
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .spawn()
        .context("the helper cannot start a process of its own")
}

/// Waits for a helper's end; told to, it is made to undo everything. What a killed one left is undone.
async fn until_ended(mut helper: Child, end: CancellationToken) {
    tokio::select! {
        ended = helper.wait() => {
            if !ended.is_ok_and(|status| status.success()) {
                undo().await;
            }
            return;
        }
        () = end.cancelled() => {}
    }
    let pid = helper.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It is not waited for yet, so the number is still its own.
        let _ = kill_process(pid, Signal::TERM);
    }
    let _ = helper.wait().await;
}

async fn undo() {
    tracing::warn!("a helper was killed: what it left is undone");
    let undone = Command::new("/proc/self/exe")
        .arg0("kvpn")
        .args(["helper", "--undo"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    if !undone.await.is_ok_and(|status| status.success()) {
        tracing::warn!("not everything could be undone: the next session tries again");
    }
}
