//! Files and folders that nobody else may read: what lies below a user's profile is that user's, the system's and the
//! administrators' by inheritance, and what belongs to the machine is closed to all but the last two.
//!
//! Must not know what stands in them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::platform::security;

/// Makes the machine's folder.
///
/// # Errors
/// It cannot be made, or users can change what is in it.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        if is_administrators(path)? {
            return Ok(());
        }
        let message = "it is not the administrators': remove it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    security::make_administrators_folder(path)
}

/// Makes a folder below this user's profile.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make_own_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path)?;
    let metadata = path.symlink_metadata().context("it is not there")?;
    ensure!(metadata.is_dir(), "it is no folder");
    Ok(())
}

/// Opens a file for appending, or makes it.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// An empty file, whatever stood there; who may read it, its folder says.
pub(crate) fn create(path: &Path, _mode: u32) -> io::Result<File> {
    File::create(path)
}

/// NTFS writes names down by itself.
#[expect(clippy::unnecessary_wraps, reason = "other systems may fail")]
pub(crate) fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether a file or folder that is there belongs to the administrators or the system.
pub(crate) fn is_administrators(path: &Path) -> io::Result<bool> {
    security::is_owned_by_administrators(path)
}
