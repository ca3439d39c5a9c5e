//! The command that runs while a Service is exposed: in the terminal's foreground, with its signals.

use std::ffi::OsString;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::agent::report::SessionReport;
use crate::cli::failure::{FAILED, Failure};
use crate::os::signals::{self, SignalKind};

/// How long a command may take to end when it is asked to.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Starts the command. It shares terminal and process group, so that Ctrl-C and Ctrl-Z are its own too.
///
/// # Errors
///
/// There is no such program, or it cannot be started.
pub(super) fn start(command: &[OsString], report: &SessionReport) -> Result<Child, Failure> {
    let (program, arguments) = command.split_first().expect("a command has a first word");
    let service = report
        .exposure
        .as_ref()
        .map_or("", |exposure| &exposure.service);
    Command::new(program)
        .args(arguments)
        .env("KVPN_SERVICE", service)
        .env("KVPN_NAMESPACE", &report.namespace)
        .spawn()
        .map_err(|error| {
            let message = format!("`{}` cannot be started: {error}", program.display());
            Failure::new(FAILED, message)
        })
}

/// Passes a signal on.
pub(super) fn signal(child: &Child, kind: SignalKind) {
    if let Some(pid) = child.id() {
        signals::pass_on(pid, kind);
    }
}

/// Ends a command that nobody needs any more.
pub(super) async fn end(mut child: Child) {
    signal(&child, SignalKind::terminate());
    if tokio::time::timeout(END_LIMIT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Its exit code, as a shell has it.
pub(super) fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| signals::exit_code(status));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(FAILED)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn the_exit_code_is_the_commands() {
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(15)), 143, "ended by SIGTERM");
    }
}
