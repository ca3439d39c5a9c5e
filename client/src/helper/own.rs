//! Starts the helper of one program's own network (`kvpn run`): unprivileged, in namespaces that it makes itself.
//!
//! Must not speak the protocol.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::cli::failure::{FAILED, Failure};
use crate::os::platform;

const TUN_DEVICE: &str = "/dev/net/tun";

/// A helper in a network of its own.
pub(crate) struct OwnHelper {
    /// The agent's end of the connection to it.
    pub(crate) socket: OwnedFd,
    /// The process whose namespaces are the program's.
    pub(crate) pid: u32,
}

/// Starts it, and waits until its namespaces stand. It detaches itself from the terminal, and lives as long as the socket is
/// open somewhere. Needs no runtime.
///
/// # Errors
/// The system does not allow it; the [`Failure`] says what an administrator can do.
pub(crate) fn spawn_own() -> anyhow::Result<OwnHelper> {
    if let Some(failure) = tun_is_missing() {
        return Err(failure.into());
    }
    let (ours, theirs) =
        UnixStream::pair().context("a socketpair for the helper cannot be made")?;
    let program = std::env::current_exe().context("the path of this program cannot be found")?;
    let mut child = Command::new(program)
        .args(["helper", "--own"])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .spawn()
        .context("the helper cannot be started")?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut said)?;
    }
    if said.is_empty() {
        return Ok(OwnHelper {
            socket: ours.into(),
            pid: child.id(),
        });
    }
    let status = child.wait()?;
    match serde_json::from_slice::<Failure>(&said) {
        Ok(failure) => Err(failure.into()),
        Err(_) => bail!("the helper could not start ({status})"),
    }
}

/// Looked at before: inside, the answer would be that there are no rights.
fn tun_is_missing() -> Option<Failure> {
    let opened = std::fs::File::options()
        .read(true)
        .write(true)
        .open(TUN_DEVICE);
    let error = opened.err()?;
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "everybody may use it on most systems, and rights on the machine's network do not come with it: \
             `sudo chmod 0666 /dev/net/tun`"
        }
        _ => "`sudo modprobe tun`; for a container `--device /dev/net/tun`",
    };
    let message = format!("{TUN_DEVICE} cannot be opened: {error}");
    Some(Failure::new(FAILED, message).hint(hint))
}

/// What an administrator can do.
pub(super) fn explain(error: anyhow::Error) -> anyhow::Error {
    let message = format!("a network of its own cannot be made for the program: {error:#}");
    let program = std::env::current_exe().unwrap_or_else(|_| Path::new("kvpn").to_owned());
    let hint = platform::remedy(&program).unwrap_or_else(|| {
        "nothing in the system's settings forbids it: in a container its seccomp profile does (Docker: `--security-opt \
         seccomp=unconfined`); `kvpn connect` and `kvpn proxy` do without user namespaces"
            .to_owned()
    });
    Failure::new(FAILED, message).hint(hint).into()
}
