//! Where a session's socket, lock and log are, and what a session is called.
//!
//! Files are made by the agent only, as the user: a root process never writes below a user's directory.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::cli::environment::Environment;
use crate::cli::user::User;
use crate::os::private;

/// The longest name of a session: the socket's path has to fit into 107 bytes.
const MAX_NAME: usize = 48;
/// A log that has grown beyond this many bytes is set aside when the next session starts.
const MAX_LOG: u64 = 4 << 20;

/// What a session is called: in `kvpn status`, in file names, to `kvpn disconnect`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct SessionName(String);

impl SessionName {
    /// The name of a session that the user did not name: `CONTEXT.NAMESPACE`. Namespaces have no dots, so two
    /// different sessions differ in it; what a file name cannot hold becomes `-`, and a hash keeps those apart.
    pub(crate) fn of(context: &str, namespace: &str) -> Self {
        let plain = format!("{context}.{namespace}");
        let tame: String = plain
            .chars()
            .map(|c| if is_tame(c) { c } else { '-' })
            .collect();
        let tame = tame.trim_start_matches(['-', '.']);
        if tame == plain && tame.len() <= MAX_NAME {
            return Self(plain);
        }
        // The end tells more than the beginning: arn:aws:eks:eu-west-1:123456789012:cluster/shop.
        let kept = &tame[tame.len().saturating_sub(MAX_NAME - 9)..];
        Self(format!(
            "{}-{:08x}",
            kept.trim_start_matches(['-', '.']),
            fnv1a(plain.as_bytes())
        ))
    }

    /// The name of the session of a program with this process id.
    #[cfg(unix)]
    pub(crate) fn of_program(context: &str, namespace: &str, pid: u32) -> Self {
        Self::of(context, &format!("{namespace}.{pid}"))
    }

    /// The name of an exposure: `CONTEXT.NAMESPACE.SERVICE`. Services have no dots either.
    pub(crate) fn of_exposure(context: &str, namespace: &str, service: &str) -> Self {
        Self::of(context, &format!("{namespace}.{service}"))
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_tame(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// FNV-1a, 32 bits: equal on every machine and version, which the standard library's hash is not.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

impl FromStr for SessionName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_NAME {
            return Err(format!("a session's name has 1 to {MAX_NAME} characters"));
        }
        if text.starts_with(['-', '.']) || !text.chars().all(is_tame) {
            return Err("a session's name consists of letters, digits, '.', '_' and '-', and starts with a letter, a digit or '_'".into());
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for SessionName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> Self {
        name.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The user's directories of kvpn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    /// Sockets and locks; private to the user.
    run: PathBuf,
    /// Logs.
    state: PathBuf,
}

impl Places {
    /// The user's directories. The same for `kvpn` and `sudo kvpn`, which drops XDG_RUNTIME_DIR: the login's
    /// usual one is looked for.
    pub(crate) fn of(environment: &Environment, user: &User) -> Self {
        let (run, state) = user.folders(environment);
        Self { run, state }
    }

    /// Directories of a test.
    #[cfg(test)]
    pub(crate) fn within(folder: &Path) -> Self {
        Self {
            run: folder.join("run/kvpn"),
            state: folder.join("state"),
        }
    }

    /// The same for sessions that one program has for itself: they are not the machine's.
    #[cfg(unix)]
    pub(crate) fn of_programs(&self) -> Self {
        Self {
            run: self.run.join("run"),
            state: self.state.join("run"),
        }
    }

    /// The same for exposures, which are no sessions in the sense of `kvpn status`.
    pub(crate) fn of_exposures(&self) -> Self {
        Self {
            run: self.run.join("expose"),
            state: self.state.join("expose"),
        }
    }

    /// The session's control socket.
    pub(crate) fn socket(&self, name: &SessionName) -> PathBuf {
        self.run.join(format!("{name}.sock"))
    }

    /// The file that the session's agent keeps locked while it lives.
    pub(crate) fn lock(&self, name: &SessionName) -> PathBuf {
        self.run.join(format!("{name}.lock"))
    }

    /// What a session keeps locked while it decides what it routes: the directory itself, so that no file stays behind.
    pub(crate) fn turn(&self) -> &Path {
        &self.run
    }

    /// The session's log.
    pub(crate) fn log(&self, name: &SessionName) -> PathBuf {
        self.state.join(format!("{name}.log"))
    }

    /// Names of sessions that are there, or died without tidying up.
    ///
    /// # Errors
    ///
    /// The directory is there but cannot be read.
    pub(crate) fn sessions(&self) -> anyhow::Result<Vec<SessionName>> {
        let entries = match std::fs::read_dir(&self.run) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", self.run.display()));
            }
        };
        let names = entries.filter_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .strip_suffix(".lock")?
                .parse()
                .ok()
        });
        let mut names: Vec<SessionName> = names.collect();
        names.sort();
        Ok(names)
    }

    /// Makes the directories, closed to everybody else.
    ///
    /// # Errors
    ///
    /// One cannot be made, or is somebody else's.
    pub(crate) fn create(&self) -> anyhow::Result<()> {
        for directory in [&self.run, &self.state] {
            private::make_own_folder(directory)
                .with_context(|| format!("the directory {} cannot be used", directory.display()))?;
        }
        Ok(())
    }

    /// Opens the session's log for appending.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub(crate) fn open_log(&self, name: &SessionName) -> anyhow::Result<File> {
        let path = self.log(name);
        if path
            .metadata()
            .is_ok_and(|metadata| metadata.len() > MAX_LOG)
        {
            let _ = std::fs::rename(&path, path.with_extension("log.old"));
        }
        private::append(&path).with_context(|| format!("cannot open the log {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_context_names_its_session() {
        assert_eq!(
            SessionName::of("kind-dev", "shop").as_str(),
            "kind-dev.shop"
        );
    }

    #[test]
    fn what_a_file_name_cannot_hold_stays_distinct() {
        let (a, b) = (
            SessionName::of("ana@dev/eu", "x"),
            SessionName::of("ana@dev:eu", "x"),
        );
        assert_ne!(a, b);
        let arn = SessionName::of("arn:aws:eks:eu-west-1:123456789012:cluster/shop", "default");
        for name in [&a, &b, &arn] {
            assert_eq!(name.as_str().parse().as_ref(), Ok(name), "{name}");
        }
        assert!(arn.as_str().contains("cluster-shop.default"), "{arn}");
    }

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for bad in ["", ".", "..", "../x", "-x", "a/b", &"x".repeat(49)] {
            assert!(bad.parse::<SessionName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn directories_are_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places::within(directory.path());
        places.create().unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            assert_eq!(places.run.metadata().unwrap().mode() & 0o777, 0o700);
        }
        assert!(places.sessions().unwrap().is_empty());
        let name: SessionName = "dev.shop".parse().unwrap();
        File::create(places.lock(&name)).unwrap();
        assert_eq!(places.sessions().unwrap(), [name]);
    }
}
