//! Commands that are there for other systems: what Windows' program says to them.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli::failure::{FAILED, Failure, USAGE};

/// What takes network namespaces, or a helper that is a process of its own.
const COMMANDS: [&str; 2] = ["run", "service"];

/// # Errors
///
/// Always: what is missing, and where it is to be had.
pub(crate) fn run(words: &[OsString]) -> anyhow::Result<ExitCode> {
    let command = words.first().map(|word| word.to_string_lossy());
    let command = command.as_deref().unwrap_or_default();
    if COMMANDS.contains(&command) {
        let message = format!("`kvpn {command}` is not there for Windows");
        let hint = "`kvpn proxy` leads programs into the cluster without further rights; in WSL2, kvpn for Linux has it";
        return Err(Failure::new(FAILED, message).hint(hint).into());
    }
    let hint = "`kvpn --help` lists the commands";
    let message = format!("there is no command `{command}`");
    Err(Failure::new(USAGE, message).hint(hint).into())
}
