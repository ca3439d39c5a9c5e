//! The helper as a daemon of launchd: what is put where, so that `connect` needs no sudo, and how it goes again. It is root's: this
//! system has no capabilities to take away.
//!
//! Must not know the helper's work: it is a program with arguments here.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::job::{self, Job};
use crate::os::installing::{COPY, program, put, remove_empty, tool};

const LABEL: &str = "dev.kvpn.helper";
const SERVICE: &str = "system/dev.kvpn.helper";
const FILE: &str = "/Library/LaunchDaemons/dev.kvpn.helper.plist";
const GROUP: &str = "kvpn";
/// Where the group finds it.
pub(crate) const SOCKET: &str = "/var/run/kvpn/helper.sock";
const STATE_FOLDER: &str = "/var/db/kvpn";

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Whether it runs.
    pub(crate) active: bool,
    /// The program that it runs.
    pub(crate) program: PathBuf,
    /// Whether it is root's: always.
    pub(crate) root: bool,
}

/// Installs the service or brings it up to date, and starts it. Whether anything changed; sessions through it ended then.
///
/// # Errors
/// This is not root, or one of the system's tools failed.
pub(crate) fn install() -> Result<bool> {
    let (program, copied) = program()?;
    if tool("dscl", &[".", "-read", "/Groups/kvpn"]).is_err() {
        tool("dseditgroup", &["-o", "create", GROUP])?;
    }
    let words = ["helper", "--listen", SOCKET].map(OsString::from);
    let job = Job {
        label: LABEL,
        command: &[&[program.into_os_string()][..], &words].concat(),
        environment: &[],
        group: Some(GROUP),
    };
    let changed = put(Path::new(FILE), Some(&job.text()?))? | copied;
    if !changed && is_active() {
        return Ok(false);
    }
    // One that does not run is not there to be ended.
    let _ = tool("launchctl", &["bootout", SERVICE]);
    tool("launchctl", &["bootstrap", "system", FILE])?;
    Ok(true)
}

/// Stops the service and removes all that [`install`] made. Whether there was anything.
///
/// # Errors
/// This is not root, or something cannot be removed.
pub(crate) fn uninstall() -> Result<bool> {
    if is_active() {
        tool("launchctl", &["bootout", SERVICE])?;
    }
    let mut any = put(Path::new(FILE), None)?;
    any |= put(Path::new(COPY), None)?;
    for folder in [STATE_FOLDER, "/var/run/kvpn"] {
        remove_empty(Path::new(folder))?;
    }
    if tool("dscl", &[".", "-read", "/Groups/kvpn"]).is_ok() {
        tool("dseditgroup", &["-o", "delete", GROUP])?;
        any = true;
    }
    Ok(any)
}

/// No package brings one.
pub(crate) fn is_packaged() -> bool {
    false
}

/// What is installed now, as far as anybody can see it.
pub(crate) fn look() -> Option<Service> {
    let text = fs::read_to_string(FILE).ok()?;
    Some(Service {
        active: is_active(),
        program: PathBuf::from(job::program(&text)?),
        root: true,
    })
}

/// Lets a user use the helper, from the next login on.
pub(crate) fn admit(user: &str) -> Result<()> {
    tool(
        "dseditgroup",
        &["-o", "edit", "-a", user, "-t", "user", GROUP],
    )
}

fn is_active() -> bool {
    tool("launchctl", &["print", SERVICE]).is_ok()
}
