//! The `kvpn` command: parses, sets up logs, turns the outcome into an exit code; nothing else.

mod agent;
mod cli;
mod helper;
mod os;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let parsed = cli::Cli::parse();
    if !matches!(parsed.command, cli::Command::Agent) {
        cli::log::to_stderr(&parsed.globals);
    }
    match cli::run(parsed) {
        Ok(code) => code,
        Err(error) => cli::failure::report(&error),
    }
}
