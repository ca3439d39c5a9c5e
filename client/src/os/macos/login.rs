//! Sessions that begin when their user logs in: an agent of launchd each, in the user's own folder.
//!
//! Must not know what a session is: a name, and a command that stays as long as it does.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::job::Job;
use crate::os::durable::replace;
use crate::os::installing::{named, put};

/// The user's agents, below the home directory.
const FOLDER: &str = "Library/LaunchAgents";
const PREFIX: &str = "dev.kvpn.session.";
const SUFFIX: &str = ".plist";

/// Has `command` run as the session `name` from the next login on, with this environment. Nobody else may read it: a proxy may
/// have a password.
///
/// # Errors
/// Something is not text, or the file cannot be written.
pub(crate) fn enable(
    home: &Path,
    name: &str,
    command: &[OsString],
    environment: &[(&str, OsString)],
) -> Result<PathBuf> {
    let label = format!("{PREFIX}{name}");
    let job = Job {
        label: &label,
        command,
        environment,
        group: None,
    };
    let (text, path) = (job.text()?, path(home, name));
    fs::create_dir_all(home.join(FOLDER))
        .and_then(|()| {
            replace(
                &path,
                &path.with_added_extension("new"),
                text.as_bytes(),
                0o600,
            )
        })
        .with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}

/// Has it not begin at login any more; whether it would have.
///
/// # Errors
/// The file cannot be removed.
pub(crate) fn disable(home: &Path, name: &str) -> Result<bool> {
    put(&path(home, name), None)
}

/// The sessions that begin at login.
pub(crate) fn names(home: &Path) -> Vec<String> {
    named(&home.join(FOLDER), PREFIX, SUFFIX)
}

fn path(home: &Path, name: &str) -> PathBuf {
    home.join(FOLDER).join(format!("{PREFIX}{name}{SUFFIX}"))
}
