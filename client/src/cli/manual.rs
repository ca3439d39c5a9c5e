//! `kvpn completion` and `kvpn man`: both are made from the types of the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::{Cli, output};

/// Print a script that completes kvpn's commands and options in a shell
///
/// For bash, for example: `kvpn completion bash > ~/.local/share/bash-completion/completions/kvpn`
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or write one page a command into a directory
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write kvpn.1, kvpn-connect.1 and so on into this directory
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

/// `kvpn completion SHELL`
pub(crate) fn completion(args: &CompletionArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kvpn", &mut script);
    output::print(&String::from_utf8(script).context("the completion script is not UTF-8")?);
    Ok(ExitCode::SUCCESS)
}

/// `kvpn man`
pub(crate) fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    if let Some(directory) = &args.directory {
        clap_mangen::generate_to(Cli::command(), directory)
            .with_context(|| format!("cannot write manual pages into {}", directory.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .context("cannot make the manual page")?;
    output::print(&String::from_utf8(page).context("the manual page is not UTF-8")?);
    Ok(ExitCode::SUCCESS)
}
