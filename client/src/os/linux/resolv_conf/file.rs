//! Reading, writing and putting back one small file so that a crash at any point can be told apart afterwards.
//!
//! Must not know what stands in it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Before;
use crate::os::linux::durable::{remove, replace as replace_durably, sync_folder};

/// glibc reads whatever there is; a megabyte is no resolv.conf.
const MAX_SIZE: u64 = 1024 * 1024;

/// The content, `None` when there is no such file (or a link that leads nowhere).
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let context = || format!("{} cannot be read", path.display());
    match fs::metadata(path) {
        Ok(metadata) => {
            ensure!(
                metadata.is_file() && metadata.len() <= MAX_SIZE,
                "{} is no small regular file",
                path.display()
            );
            fs::read(path).map(Some).with_context(context)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(context),
    }
}

/// What stands at the path. Its content would be kept at a path in the state folder that is named here.
pub(super) fn look(path: &Path, state: &Path, session: &str) -> Result<Before> {
    let file = |target| Before::File {
        target,
        backup: state.join(format!("resolv.conf-{session}")),
    };
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(Before::Nothing);
    };
    if !metadata.is_symlink() {
        return Ok(file(path.to_owned()));
    }
    match fs::canonicalize(path) {
        Ok(target) if is_mount_point(&target)? => Ok(file(target)),
        Ok(_) | Err(_) => {
            let target = fs::read_link(path)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            Ok(Before::Link { target })
        }
    }
}

/// Whether something is mounted on this very file (`/proc/self/mountinfo`, field 5, octal escapes for blanks).
fn is_mount_point(target: &Path) -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .context("/proc/self/mountinfo cannot be read")?;
    let escaped = target
        .to_string_lossy()
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011");
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(escaped.as_str())))
}

/// Writes over a file without ever emptying it: first the new bytes, then the length.
pub(super) fn write_in_place(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        let file = OpenOptions::new().write(true).open(path)?;
        file.write_all_at(content, 0)?;
        file.set_len(content.len() as u64)?;
        file.sync_all()
    };
    write().with_context(|| {
        format!(
            "{} cannot be written; check that it is neither immutable (lsattr) nor read-only",
            path.display()
        )
    })
}

/// Puts a new file at a path, whatever stood there.
pub(super) fn replace(path: &Path, content: &[u8], session: &str) -> Result<()> {
    replace_durably(path, &temporary(path, session), content, 0o644)
        .with_context(|| format!("{} cannot be replaced", path.display()))
}

/// Puts a symbolic link at a path, whatever stood there.
pub(super) fn replace_by_link(path: &Path, target: &Path, session: &str) -> Result<()> {
    let temporary = temporary(path, session);
    remove(&temporary)?;
    let replace = || {
        symlink(target, &temporary)?;
        fs::rename(&temporary, path)?;
        sync_folder(path)
    };
    replace().with_context(|| format!("the link {} cannot be put back", path.display()))
}

/// The name beside a path under which its replacement is made.
pub(super) fn temporary(path: &Path, session: &str) -> PathBuf {
    path.with_file_name(format!(".resolv.conf.kvpn-{session}"))
}
