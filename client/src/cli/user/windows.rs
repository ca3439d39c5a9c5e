//! Whose command it is, on Windows: who called it.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::cli::environment::Environment;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// Home directory.
    pub(crate) home: PathBuf,
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
        Ok(Self { home })
    }
}
