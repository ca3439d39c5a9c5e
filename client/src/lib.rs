//! Everything of the `kvpn` command: CLI, agent, helper and operating system backends around `kvpn-client-core`.
//!
//! A library only so that the program stays thin and benches can run [`tunnel`]; users meet the program.

mod agent;
mod cli;
mod cluster;
mod helper;
mod os;
mod proxy;
#[cfg(unix)]
pub mod tunnel;

use std::process::ExitCode;

use clap::Parser as _;

/// The program: parses the arguments, sets up logs, runs the command; its exit code.
pub fn run() -> ExitCode {
    let parsed = cli::Cli::parse();
    if !parsed.command.is_agent() {
        cli::log::to_stderr(&parsed.globals);
    }
    let code = match cli::run(parsed) {
        Ok(code) => code,
        Err(error) => cli::failure::report(&error),
    };
    match cli::output::lost() {
        Some(why) => cli::failure::report_lost(why, code),
        None => code,
    }
}
