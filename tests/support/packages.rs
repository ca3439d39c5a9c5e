//! What a release is made of, around the program under test.
//!
//! Nothing here decides what is right: that stands in the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::outcome::Outcome;
use crate::settings::{Settings, checkout};

/// The folder with one of each, made once a process.
///
/// # Panics
///
/// When one cannot be made: `make package-tools` installs what that takes.
pub fn packages() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = checkout().join("target/tmp/packages");
        let mut build = Command::new(checkout().join("client/package/build.sh"));
        Outcome::of(build.arg("-q").arg(&folder).arg(Settings::read().client)).ok();
        folder
    })
}
