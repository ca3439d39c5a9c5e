//! Sessions that begin when their user logs in, by an agent of launchd: to come.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// # Errors
/// Always.
pub(crate) fn enable(
    _home: &Path,
    _name: &str,
    _command: &[OsString],
    _environment: &[(&str, OsString)],
) -> Result<PathBuf> {
    bail!("`--at-login` is not there for macOS yet: put `kvpn connect` among your login items")
}

/// Whether the session would have begun at login: none does.
#[expect(
    clippy::unnecessary_wraps,
    reason = "other systems have something to remove"
)]
pub(crate) fn disable(_home: &Path, _name: &str) -> Result<bool> {
    Ok(false)
}

/// The sessions that begin at login.
pub(crate) fn names(_home: &Path) -> Vec<String> {
    Vec::new()
}
