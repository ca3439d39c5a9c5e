//! Locks that the system drops when their process ends, however it ends: a file is held by who has it open without sharing it for
//! writing, so that others can read it meanwhile (a lock of LockFileEx would keep them from that).
//!
//! Must not know what is locked.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::Path;

use windows_sys::Win32::Foundation::ERROR_SHARING_VIOLATION;
use windows_sys::Win32::Storage::FileSystem::{FILE_SHARE_DELETE, FILE_SHARE_READ};

/// What is locked in place of a folder, which cannot be.
const TURN: &str = "turn";

/// Opens a file of the user's, or makes it, and holds it; `None` when another process does. Others can read it meanwhile.
pub(crate) fn hold(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false);
    open_for_oneself(options.read(true).write(true), path)
}

/// Whether this file is the one at a path: nobody else can make one there while a removed one is held.
pub(crate) fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// What stands in a file that may be held, and whether it is.
pub(crate) fn read(path: &Path) -> io::Result<(Vec<u8>, bool)> {
    // What Rust opens with by default shares everything.
    let content = std::fs::read(path)?;
    let is_held = open_for_oneself(OpenOptions::new().write(true), path)?.is_none();
    Ok((content, is_held))
}

fn open_for_oneself(options: &mut OpenOptions, path: &Path) -> io::Result<Option<File>> {
    let sharing = FILE_SHARE_READ | FILE_SHARE_DELETE;
    match options.share_mode(sharing).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is_shared_no_more(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_shared_no_more(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .and_then(|code| u32::try_from(code).ok())
        == Some(ERROR_SHARING_VIOLATION)
}

/// Waits until nobody else holds a folder, and holds it.
pub(crate) fn wait_for_folder(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(TURN))?;
    file.lock()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_held_can_be_read_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let mut held = hold(&path).unwrap().unwrap();
        held.write_all(b"who").unwrap();
        assert!(hold(&path).unwrap().is_none());
        assert_eq!(read(&path).unwrap(), (b"who".to_vec(), true));
        std::fs::remove_file(&path).unwrap();
        drop(held);
        assert!(read(&path).is_err(), "it went with its holder");
    }
}
