//! Commands that are there for other systems: what Windows' program says to them.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli::failure::{FAILED, Failure, NOT_CONNECTED, USAGE};

/// What takes a session, and so a TUN, routes and names, or a process that holds it.
const COMMANDS: [&str; 9] = [
    "connect", "expose", "unexpose", "restore", "list", "doctor", "run", "service", "proxy",
];

/// # Errors
///
/// Always: what is missing, and where it is to be had.
pub(crate) fn run(words: &[OsString]) -> anyhow::Result<ExitCode> {
    let command = words.first().map(|word| word.to_string_lossy());
    let command = command.as_deref().unwrap_or_default();
    let failure = match command {
        "status" | "disconnect" => Failure::new(
            NOT_CONNECTED,
            "not connected: kvpn for Windows holds no sessions yet",
        ),
        _ if COMMANDS.contains(&command) => Failure::new(
            FAILED,
            format!("`kvpn {command}` is not there for Windows yet"),
        ),
        _ => {
            let hint = "`kvpn --help` lists the commands";
            let message = format!("there is no command `{command}`");
            return Err(Failure::new(USAGE, message).hint(hint).into());
        }
    };
    Err(failure.hint("in WSL2, kvpn for Linux does it").into())
}
