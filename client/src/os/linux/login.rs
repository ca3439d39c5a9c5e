//! Sessions that begin when their user logs in: a systemd user unit each, in the user's own folder, enabled by its link alone, so
//! that no user manager has to run for that.
//!
//! Must not know what a session is: a name, and a command that stays as long as it does.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::os::durable::replace;
use crate::os::installing::{named, put};

/// The user's units, below the home directory.
const FOLDER: &str = ".config/systemd/user";
/// What the user manager starts at login.
const WANTED: &str = "default.target.wants";
const PREFIX: &str = "kvpn-session-";
const SUFFIX: &str = ".service";

/// Has `command` run as the session `name` from the next login on, with this environment. Nobody else may read it: a proxy may
/// have a password.
///
/// # Errors
/// Something is not text, or the files cannot be written.
pub(crate) fn enable(
    home: &Path,
    name: &str,
    command: &[OsString],
    environment: &[(&str, OsString)],
) -> Result<PathBuf> {
    let unit = text(name, command, environment)?;
    let folder = home.join(FOLDER);
    let (path, link) = (folder.join(file(name)), link(home, name));
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder.join(WANTED))?;
        replace(
            &path,
            &path.with_added_extension("new"),
            unit.as_bytes(),
            0o600,
        )?;
        match std::os::unix::fs::symlink(&path, &link) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    };
    write().with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}

/// Has it not begin at login any more; whether it would have.
///
/// # Errors
/// The files cannot be removed.
pub(crate) fn disable(home: &Path, name: &str) -> Result<bool> {
    let path = home.join(FOLDER).join(file(name));
    Ok(put(&link(home, name), None)? | put(&path, None)?)
}

/// The sessions that begin at login.
pub(crate) fn names(home: &Path) -> Vec<String> {
    named(&home.join(FOLDER), PREFIX, SUFFIX)
}

fn file(name: &str) -> String {
    format!("{PREFIX}{name}{SUFFIX}")
}

fn link(home: &Path, name: &str) -> PathBuf {
    home.join(FOLDER).join(WANTED).join(file(name))
}

/// The network may come later than the login: it is tried again until it is there. Told to stop, the command has the time that
/// `disconnect` takes.
fn text(name: &str, command: &[OsString], environment: &[(&str, OsString)]) -> Result<String> {
    let words: Result<Vec<String>> = command.iter().map(|word| quoted(word)).collect();
    let mut settings = String::new();
    for (key, value) in environment {
        let mut setting = OsString::from(format!("{key}="));
        setting.push(value);
        settings += &format!("Environment={}\n", quoted(&setting)?);
    }
    Ok(format!(
        "# Made by `kvpn connect --at-login`, removed by `kvpn disconnect {name}`.\n\
         [Unit]\n\
         Description=kvpn session {name}\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         {settings}\
         ExecStart=:{}\n\
         Restart=on-failure\n\
         RestartSec=10\n\
         KillMode=mixed\n\
         TimeoutStopSec=30\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n",
        words?.join(" ")
    ))
}

/// A word as systemd reads it back (systemd.service(5), "Command lines"; `:` before the command leaves `$` alone).
fn quoted(word: &std::ffi::OsStr) -> Result<String> {
    let word = word
        .to_str()
        .with_context(|| format!("{} is no text", word.display()))?;
    let mut quoted = String::from("\"");
    for character in word.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '%' => quoted.push_str("%%"),
            '\n' => quoted.push_str("\\n"),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_session_is_enabled_listed_and_gone_again() {
        let home = tempfile::tempdir().unwrap();
        let command = ["/usr/bin/kvpn", "connect", "--cidr", "a \"b\" 100%"].map(OsString::from);
        let path = ["/a:/b"].map(OsString::from);
        for _ in 0..2 {
            let made = enable(
                home.path(),
                "dev.shop",
                &command,
                &[("KUBECONFIG", path[0].clone())],
            );
            let made = made.unwrap();
            assert_eq!(made.metadata().unwrap().mode() & 0o777, 0o600);
            let unit = fs::read_to_string(made).unwrap();
            assert!(
                unit.contains(
                    "ExecStart=:\"/usr/bin/kvpn\" \"connect\" \"--cidr\" \"a \\\"b\\\" 100%%\"\n"
                ),
                "{unit}"
            );
            assert!(
                unit.contains("Environment=\"KUBECONFIG=/a:/b\"\n"),
                "{unit}"
            );
        }
        let wanted = home.path().join(FOLDER).join(WANTED);
        assert!(fs::read_to_string(wanted.join("kvpn-session-dev.shop.service")).is_ok());
        assert_eq!(names(home.path()), ["dev.shop"]);
        assert!(disable(home.path(), "dev.shop").unwrap());
        assert!(!disable(home.path(), "dev.shop").unwrap());
        assert_eq!(names(home.path()), Vec::<String>::new());
        assert_eq!(fs::read_dir(wanted).unwrap().count(), 0);
    }
}
