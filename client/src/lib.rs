//! Everything of the `kvpn` command: CLI, agent, helper and operating system backends around `kvpn-client-core`.
//!
//! A library only so that the program stays thin and benches can run [`tunnel`]; users meet the program.

#![cfg_attr(
    windows,
    expect(dead_code, reason = "sessions have no backends there yet")
)]

#[cfg(unix)]
mod agent;
mod cli;
mod cluster;
#[cfg(unix)]
mod helper;
#[cfg(unix)]
mod os;
#[cfg(unix)]
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
