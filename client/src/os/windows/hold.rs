//! Locks that the system drops when their process ends, however it ends: a file is held by who has it open without sharing it for
//! writing, so that others can read it meanwhile (a lock of LockFileEx would keep them from that).
//!
//! Must not know what is locked.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::AsRawHandle as _;
use std::path::Path;

use windows_sys::Win32::Foundation::ERROR_SHARING_VIOLATION;
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_SHARE_DELETE, FILE_SHARE_READ, GetFileInformationByHandle,
};

/// What is locked in place of a folder, which cannot be.
const TURN: &str = "turn";

/// Opens a file of the user's, or makes it, and holds it; `None` when another process does. Others can read it meanwhile.
pub(crate) fn hold(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false);
    open_for_oneself(options.read(true).write(true), path)
}

/// Whether this file is the one at a path: since Windows 10 a name is free as soon as its file is removed, held or not.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let there = File::open(path).and_then(|there| identity(&there));
    identity(file).is_ok_and(|own| there.is_ok_and(|there| own == there))
}

/// The volume of a file, and which one it is there.
#[expect(unsafe_code, reason = "the standard library does not tell it")]
fn identity(file: &File) -> io::Result<(u32, u32, u32)> {
    let mut told = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open, and what the pointer leads to lives until the call returns.
    if unsafe { GetFileInformationByHandle(file.as_raw_handle(), &raw mut told) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((
        told.dwVolumeSerialNumber,
        told.nFileIndexHigh,
        told.nFileIndexLow,
    ))
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
        let other = folder.path().join("y.lock");
        std::fs::write(&other, "").unwrap();
        assert!(is_at(&held, &path) && !is_at(&held, &other));
        std::fs::remove_file(&path).unwrap();
        drop(held);
        assert!(read(&path).is_err(), "it went with its holder");
    }
}
