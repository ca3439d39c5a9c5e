//! Sessions that begin when their user logs in: there are none on Windows, where nobody is there to confirm the rights of an
//! administrator.

use std::path::Path;

use anyhow::Result;

/// Has a session not begin at login any more; whether it would have: never.
#[expect(
    clippy::unnecessary_wraps,
    reason = "other systems have to remove something"
)]
pub(crate) fn disable(_home: &Path, _name: &str) -> Result<bool> {
    Ok(false)
}

/// The sessions that begin at login.
pub(crate) fn names(_home: &Path) -> Vec<String> {
    Vec::new()
}
