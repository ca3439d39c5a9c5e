//! The helper as a service of launchd: to come. Until then sudo starts helpers.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// Where an installed helper would answer.
pub(crate) const SOCKET: &str = "/var/run/kvpn/helper.sock";

/// What is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Whether it runs.
    pub(crate) active: bool,
    /// The program that it runs.
    pub(crate) program: PathBuf,
    /// Whether it is root's.
    pub(crate) root: bool,
}

/// # Errors
/// Always.
pub(crate) fn install() -> Result<bool> {
    bail!("there is no service for macOS yet: use `sudo kvpn connect`")
}

/// Whether there was anything: there is not.
#[expect(
    clippy::unnecessary_wraps,
    reason = "other systems have something to remove"
)]
pub(crate) fn uninstall() -> Result<bool> {
    Ok(false)
}

/// No package brings one.
pub(crate) fn is_packaged() -> bool {
    false
}

/// Nothing can be installed.
pub(crate) fn look() -> Option<Service> {
    None
}

/// # Errors
/// Always.
pub(crate) fn admit(_user: &str) -> Result<()> {
    install().map(drop)
}
