//! Where log lines go and how many: stderr for commands, a file for the agent. Packets are TRACE, names and
//! addresses at most DEBUG, keys never.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::cli::Globals;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// How much is said: kvpn's own level, where 0 is warnings, and the libraries' one step less. What kube_client,
/// kube_runtime and boringtun complain about comes back as something of ours, which says more.
fn filter(level: u8) -> EnvFilter {
    let directives = match level {
        0 => "warn,kvpn=warn,kube_client=off,kube_runtime=off,boringtun=off",
        1 => "warn,kvpn=info,kube_client=off,kube_runtime=off,boringtun=off",
        2 => "info,kvpn=debug,kube_client=off,kube_runtime=off,boringtun=off",
        3.. => "debug,kvpn=trace",
    };
    EnvFilter::new(directives)
}

/// Logs of a command that a person runs.
pub(crate) fn to_stderr(globals: &Globals) {
    let filter = if globals.quiet {
        EnvFilter::new("error")
    } else {
        filter(globals.verbose)
    };
    begin(filter, globals.log_format);
}

/// Logs of an agent, whose stderr is its log file as a rule: one step more than a command says.
pub(crate) fn for_agent(verbose: u8, format: Format) {
    begin(filter(verbose.saturating_add(1)), format);
}

fn begin(filter: EnvFilter, format: Format) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second subscriber is refused, which is right: the first one stays.
    let _ = match format {
        Format::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        Format::Json => builder.json().try_init(),
    };
}
