//! Putting a service or a login's session on a machine and taking it away again: files, the program, the system's own tools. What
//! every system needs for that.
//!
//! Must not know what is installed.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::durable::{remove, replace};

/// The program's own place where the one that installs is not the system's: no user may change what root starts.
pub(super) const COPY: &str = "/usr/local/libexec/kvpn/kvpn";

/// The program that a service starts, and whether it was copied for that just now.
pub(super) fn program() -> Result<(PathBuf, bool)> {
    let own = std::env::current_exe().context("the path of this program is not known")?;
    let own = own.canonicalize()?;
    if own == Path::new(COPY) || is_roots(&own)? {
        return Ok((own, false));
    }
    let copy = PathBuf::from(COPY);
    let content = fs::read(&own).with_context(|| format!("{} cannot be read", own.display()))?;
    if fs::read(&copy).is_ok_and(|there| there == content) {
        return Ok((copy, false));
    }
    write(&copy, &content, 0o755)?;
    Ok((copy, true))
}

/// Whether nobody but root can change a file, or what its path leads to.
fn is_roots(path: &Path) -> Result<bool> {
    for part in path.ancestors() {
        let metadata = fs::metadata(part)?;
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a file have this content, or be gone; whether that was a change.
pub(super) fn put(path: &Path, text: Option<&str>) -> Result<bool> {
    match text {
        Some(text) => {
            if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
                return Ok(false);
            }
            write(path, text.as_bytes(), 0o644)?;
            Ok(true)
        }
        None => {
            let there = path.symlink_metadata().is_ok();
            remove(path)?;
            if let Some(folder) = path.parent().filter(|folder| is_ours(folder)) {
                remove_empty(folder)?;
            }
            Ok(there)
        }
    }
}

/// What stands between these in the names of a folder's files.
pub(super) fn named(folder: &Path, prefix: &str, suffix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let name = |file: OsString| {
        let name = file.to_str()?.strip_prefix(prefix)?.strip_suffix(suffix)?;
        Some(name.to_owned())
    };
    entries
        .filter_map(|entry| name(entry.ok()?.file_name()))
        .collect()
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let folder = path.parent().context("a file needs a folder")?;
    if !folder.exists() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    replace(path, &path.with_added_extension("new"), content, mode)
        .with_context(|| format!("{} cannot be written", path.display()))
}

/// Folders that nobody else puts anything into: `write` makes them.
fn is_ours(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with("kvpn")
}

/// Removes a folder that is empty; what is in one is a session's that sudo started, or not ours.
pub(super) fn remove_empty(folder: &Path) -> Result<()> {
    match fs::remove_dir(folder) {
        Err(error)
            if ![ErrorKind::NotFound, ErrorKind::DirectoryNotEmpty].contains(&error.kind()) =>
        {
            Err(error).with_context(|| format!("{} cannot be removed", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Runs one of the system's tools.
pub(super) fn tool(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} cannot be run"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{program} {}` failed: {}",
            arguments.join(" "),
            said.trim()
        );
    }
    Ok(())
}
