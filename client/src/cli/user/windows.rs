//! Whose command it is, on Windows: who called it.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::cli::environment::Environment;
use crate::cli::failure::{FAILED, Failure};
use crate::os::platform::may_administer;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// Home directory.
    pub(crate) home: PathBuf,
    /// `ana@laptop`.
    title: String,
}

impl User {
    /// Who called this process.
    ///
    /// # Errors
    ///
    /// The home directory is not known.
    pub(crate) fn of_caller(environment: &Environment) -> anyhow::Result<Self> {
        let home = environment.home.clone().or_else(std::env::home_dir);
        let home = home.context("the home directory is not known: set USERPROFILE")?;
        let part = |it: &Option<String>| it.clone().unwrap_or_else(|| "unknown".to_owned());
        let title = format!(
            "{}@{}",
            part(&environment.user_name),
            part(&environment.computer_name)
        );
        Ok(Self { home, title })
    }

    /// Whether this process acts on behalf of another user: never.
    #[expect(clippy::unused_self, reason = "other systems have sudo")]
    pub(crate) fn is_behind_sudo(&self) -> bool {
        false
    }

    /// Whether this process may change the machine.
    #[expect(clippy::unused_self, reason = "other systems know by the user")]
    pub(crate) fn is_administrator(&self) -> bool {
        may_administer()
    }

    /// Looks that this process may change the machine.
    ///
    /// # Errors
    ///
    /// It may not; how it could.
    pub(crate) fn ensure_administrator(&self, what: &str) -> Result<(), Failure> {
        if self.is_administrator() {
            return Ok(());
        }
        let message = format!("{what} need the rights of an administrator");
        Err(Failure::new(FAILED, message)
            .hint("run it from a terminal opened with 'Run as administrator'"))
    }

    /// Where pipes and locks of this user's sessions are named, and where logs are.
    pub(crate) fn folders(&self, environment: &Environment) -> (PathBuf, PathBuf) {
        let own = environment.local_app_data.clone();
        let own = own.filter(|path| path.is_absolute());
        let own = own.unwrap_or_else(|| self.home.join(r"AppData\Local"));
        let kvpn = own.join("kvpn");
        (kvpn.join("run"), kvpn.join("log"))
    }

    /// Who it is, for others to read: `ana@laptop`.
    pub(crate) fn title(&self) -> String {
        self.title.clone()
    }

    /// # Errors
    ///
    /// Always: no program gets such rights from within another.
    pub(crate) fn run_as_root(_arguments: &[&str]) -> anyhow::Result<()> {
        let message = "what is left can only be removed with the rights of an administrator";
        let hint = "run `kvpn disconnect` from a terminal opened with 'Run as administrator'";
        Err(Failure::new(FAILED, message).hint(hint).into())
    }
}
