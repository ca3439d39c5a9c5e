//! Files that are on the disk when a function returns, and never half written under their name.
//!
//! Must not know what stands in them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::private;
pub(crate) use super::private::sync_folder;

/// Writes a file nobody else may read and waits until it is on the disk, its name too.
pub(crate) fn keep(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().context("a kept file needs a folder")?;
    private::make_folder(folder).with_context(|| {
        format!(
            "{} cannot be made; kvpn keeps there what it needs to undo its changes",
            folder.display()
        )
    })?;
    replace(path, &unfinished(path), content, 0o600)
        .with_context(|| format!("{} cannot be written", path.display()))
}

/// Removes what [`keep`] made, finished or not.
pub(crate) fn forget(path: &Path) -> Result<()> {
    remove(&unfinished(path))?;
    remove(path)
}

/// The name under which [`keep`] begins; what stands there was never in force.
const UNFINISHED: &str = "new";

/// Whether a kept file of this name was not finished.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == UNFINISHED)
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_added_extension(UNFINISHED)
}

/// Removes a file; it may be gone already.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Puts a file of this mode at a path, whatever stood there, by way of a temporary name in the same folder.
pub(crate) fn replace(path: &Path, temporary: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = private::create(temporary, mode)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    sync_folder(path)
}
