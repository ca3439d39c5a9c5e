//! Whose session it is. Under sudo that is the user who called sudo: programs named in a kubeconfig run as
//! that user, and the session's files are that user's.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::cli::environment::Environment;
use crate::helper::Escalation;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// Numeric id.
    pub(crate) uid: u32,
    /// Numeric id of the primary group.
    pub(crate) gid: u32,
    /// Login name, when it is known.
    pub(crate) name: Option<String>,
    /// Home directory.
    pub(crate) home: PathBuf,
    /// Whether this process is root on behalf of this user.
    behind_sudo: bool,
}

impl User {
    /// Who called this process.
    ///
    /// # Errors
    ///
    /// The home directory is not known.
    pub(crate) fn of_caller(environment: &Environment) -> anyhow::Result<Self> {
        let (euid, egid) = (rustix::process::geteuid(), rustix::process::getegid());
        match environment.sudo_uid {
            Some(uid) if euid.is_root() && uid != 0 => Self::behind_sudo(uid, environment.sudo_gid),
            Some(_) | None => {
                let entry = Entry::of(euid.as_raw());
                let home = environment
                    .home
                    .clone()
                    .or_else(|| entry.as_ref().map(|entry| entry.home.clone()));
                let home = home.context("the home directory is not known: set HOME")?;
                let name = entry.map(|entry| entry.name);
                Ok(Self {
                    uid: euid.as_raw(),
                    gid: egid.as_raw(),
                    name,
                    home,
                    behind_sudo: false,
                })
            }
        }
    }

    fn behind_sudo(uid: u32, gid: Option<u32>) -> anyhow::Result<Self> {
        let entry = Entry::of(uid)
            .with_context(|| format!("SUDO_UID is {uid}, but this machine knows no such user"))?;
        let Entry {
            name,
            home,
            gid: primary,
            ..
        } = entry;
        Ok(Self {
            uid,
            gid: gid.unwrap_or(primary),
            name: Some(name),
            home,
            behind_sudo: true,
        })
    }

    /// Whether this process is root on behalf of this user.
    pub(crate) fn is_behind_sudo(&self) -> bool {
        self.behind_sudo
    }

    /// Whether this process may change the machine.
    pub(crate) fn is_administrator(&self) -> bool {
        self.escalation() == Escalation::Direct
    }

    /// How a helper gets its privileges when this user connects.
    pub(crate) fn escalation(&self) -> Escalation {
        if self.behind_sudo || self.uid == 0 {
            Escalation::Direct
        } else {
            Escalation::Sudo
        }
    }

    /// Where sockets and locks of this user's sessions are, and where logs.
    pub(crate) fn folders(&self, environment: &Environment) -> (PathBuf, PathBuf) {
        let state = match (&environment.state_home, self.behind_sudo) {
            (Some(home), false) if home.is_absolute() => home.join("kvpn"),
            (Some(_) | None, _) => self.home.join(".local/state/kvpn"),
        };
        let usual = PathBuf::from(format!("/run/user/{}", self.uid));
        let run = match (&environment.runtime_dir, self.behind_sudo) {
            (Some(runtime), false) if runtime.is_absolute() => runtime.join("kvpn"),
            (Some(_) | None, _) if belongs_to(&usual, self.uid) => usual.join("kvpn"),
            (Some(_) | None, _) => state.join("run"),
        };
        (run, state)
    }

    /// Who it is, for others to read: `ana@laptop`.
    pub(crate) fn title(&self) -> String {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        match &self.name {
            Some(name) => format!("{name}@{host}"),
            None => format!("{}@{host}", self.uid),
        }
    }

    /// Runs this program with these arguments as root, which may ask for a password on the terminal.
    ///
    /// # Errors
    ///
    /// sudo is missing, or refused, or the command failed.
    pub(crate) fn run_as_root(arguments: &[&str]) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("the path of this program is not known")?;
        let mut sudo = Command::new("sudo");
        let status = sudo.arg("--").arg(program).args(arguments).status();
        let status = status.context("sudo cannot be run")?;
        let words = arguments.join(" ");
        ensure!(
            status.success(),
            "`sudo kvpn {words}` failed ({status}); run `sudo kvpn disconnect`"
        );
        Ok(())
    }

    /// Makes a program run as this user, with this user's home. Supplementary groups are given up.
    pub(crate) fn dress(&self, command: &mut Command) {
        if !self.behind_sudo {
            return;
        }
        command
            .uid(self.uid)
            .gid(self.gid)
            .env("HOME", &self.home)
            .env_remove("SUDO_UID")
            .env_remove("SUDO_GID");
        if let Some(name) = &self.name {
            command.env("USER", name).env("LOGNAME", name);
        }
    }

    /// Replaces this process with the same command, run as this user. Returns only when that fails.
    pub(crate) fn become_and_run_again(&self) -> anyhow::Error {
        let program = match std::env::current_exe() {
            Ok(program) => program,
            Err(error) => {
                return anyhow::Error::new(error).context("the path of this program is not known");
            }
        };
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1));
        self.dress(&mut command);
        anyhow::Error::new(command.exec()).context(format!(
            "cannot run {} as user {}",
            program.display(),
            self.uid
        ))
    }
}

fn belongs_to(directory: &Path, uid: u32) -> bool {
    directory
        .metadata()
        .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == uid)
}

/// A line of the user database.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: PathBuf,
}

impl Entry {
    /// The user's entry: from the file, else (directory services) from `getent`.
    fn of(uid: u32) -> Option<Self> {
        let file = fs::read_to_string("/etc/passwd").unwrap_or_default();
        Self::find(&file, uid).or_else(|| {
            let output = Command::new("getent")
                .args(["passwd", &uid.to_string()])
                .output()
                .ok()?;
            Self::find(&String::from_utf8_lossy(&output.stdout), uid)
        })
    }

    fn find(passwd: &str, uid: u32) -> Option<Self> {
        passwd
            .lines()
            .filter_map(Self::parse)
            .find(|entry| entry.uid == uid)
    }

    /// `name:password:uid:gid:comment:home:shell`, passwd(5).
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).filter(|home| Path::new(home).is_absolute())?;
        Some(Self {
            name,
            uid,
            gid,
            home: PathBuf::from(home),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\n# a comment\nana:x:1000:1001:Ana,,,:/home/ana:/bin/zsh\n";

    #[test]
    fn a_user_is_found_by_id() {
        let entry = Entry::find(PASSWD, 1000).unwrap();
        assert_eq!(
            entry,
            Entry {
                name: "ana".into(),
                uid: 1000,
                gid: 1001,
                home: "/home/ana".into()
            }
        );
        assert_eq!(Entry::find(PASSWD, 1001), None);
    }

    #[test]
    fn a_home_that_is_no_path_is_no_home() {
        assert_eq!(Entry::parse("x:x:7:7::nonsense:/bin/sh"), None);
    }

    #[test]
    fn root_without_sudo_is_root() {
        let user = User {
            uid: 0,
            gid: 0,
            name: None,
            home: "/root".into(),
            behind_sudo: false,
        };
        assert_eq!(user.escalation(), Escalation::Direct);
        assert!(!user.is_behind_sudo());
    }
}
