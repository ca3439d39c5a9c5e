//! Files and folders that nobody else may read.
//!
//! Must not know what stands in them.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;

use anyhow::{Result, ensure};

/// Makes a folder, and those it is in.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a folder of this process's user; one that is there is closed to others.
///
/// # Errors
/// It cannot be made, or is somebody else's.
pub(crate) fn make_own_folder(path: &Path) -> Result<()> {
    make_folder(path)?;
    let metadata = path.symlink_metadata()?;
    let me = rustix::process::geteuid().as_raw();
    ensure!(
        metadata.is_dir() && metadata.uid() == me,
        "it belongs to user {}, not to {me}",
        metadata.uid()
    );
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Opens a file for appending, or makes it.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path)
}

/// An empty file of this mode, whatever stood there.
pub(crate) fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let file = options.mode(mode).open(path)?;
    // The mode given to open is cut by the umask, and resolv.conf has to be readable by everyone.
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// Waits until a path's name is on the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()
}

/// Whether nobody but root can change a file that is there.
pub(crate) fn is_administrators(path: &Path) -> io::Result<bool> {
    let metadata = path.metadata()?;
    Ok(metadata.uid() == 0 && metadata.mode() & 0o022 == 0)
}
