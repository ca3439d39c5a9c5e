//! Locks that the system drops when their process ends, however it ends: `flock(2)`.
//!
//! Must not know what is locked.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Opens a file of the user's, or makes it, and holds it; `None` when another process does. Others can read it meanwhile.
pub(crate) fn hold(path: &Path) -> io::Result<Option<File>> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(0o600).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether this file is the one at a path.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(own), Ok(there)) = (file.metadata(), path.metadata()) else {
        return false;
    };
    (own.dev(), own.ino()) == (there.dev(), there.ino())
}

/// What stands in a file that may be held, and whether it is.
pub(crate) fn read(path: &Path) -> io::Result<(Vec<u8>, bool)> {
    let mut file = File::open(path)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    let is_held = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err();
    Ok((content, is_held))
}

/// Waits until nobody else holds a folder, and holds it.
pub(crate) fn wait_for_folder(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}
