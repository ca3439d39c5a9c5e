//! `kvpn service`: the privileged helper as a service of the system, so that connecting needs no sudo.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use rustix::process::geteuid;
use serde::Serialize;

use crate::cli::Situation;
use crate::cli::failure::{FAILED, Failure};
use crate::cli::output::{self, Format, OutputArgs};
use crate::os::platform::service::{self, SOCKET};

/// Install, remove or look at the helper as a service of this machine
///
/// With it `kvpn connect` works without sudo for members of group `kvpn`, up to four sessions a user.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Install the service, or bring it up to date, and start it (as root)
    Install(InstallArgs),
    /// Stop the service and remove all that belongs to it (as root)
    Uninstall,
    /// Show the service
    Status(OutputArgs),
}

/// Who may use it.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// Add this user to the group; without it who called sudo. May be given again
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
}

/// The JSON document of `kvpn service status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    installed: bool,
    active: bool,
    /// The helper's program.
    program: Option<PathBuf>,
    socket: &'static str,
    /// How it splits names: `systemd-resolved` or `resolv.conf`.
    names: Option<&'static str>,
}

/// `kvpn service …`
pub(crate) fn run(situation: &Situation, command: &ServiceCommand) -> anyhow::Result<ExitCode> {
    match command {
        ServiceCommand::Install(args) => install(situation, args),
        ServiceCommand::Uninstall => uninstall(situation),
        ServiceCommand::Status(args) => status(*args),
    }
}

fn install(situation: &Situation, args: &InstallArgs) -> anyhow::Result<ExitCode> {
    as_root("install")?;
    let changed = service::install().context("the service cannot be installed")?;
    let mut users = args.user.clone();
    if users.is_empty() && situation.user.is_behind_sudo() {
        users.extend(situation.user.name.clone());
    }
    for user in &users {
        service::admit(user)?;
    }
    if situation.globals.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    output::print(if changed {
        "the service runs: `kvpn connect` needs no sudo for members of group kvpn"
    } else {
        "the service runs already, as it should be"
    });
    for user in users {
        output::tell(&format!(
            "{user} is a member from the next login on, or in a shell that `newgrp kvpn` starts"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn uninstall(situation: &Situation) -> anyhow::Result<ExitCode> {
    as_root("uninstall")?;
    let any = service::uninstall().context("the service cannot be removed")?;
    if !situation.globals.quiet {
        output::print(match any {
            true if service::is_packaged() => {
                "the service is stopped and disabled; the rest goes with its package"
            }
            true => "the service is removed, its group and user too",
            false => "there is no service",
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn status(args: OutputArgs) -> anyhow::Result<ExitCode> {
    let found = service::look();
    let names = |root: bool| {
        if root {
            "resolv.conf"
        } else {
            "systemd-resolved"
        }
    };
    let document = Document {
        installed: found.is_some(),
        active: found.as_ref().is_some_and(|found| found.active),
        names: found.as_ref().map(|found| names(found.root)),
        program: found.map(|found| found.program),
        socket: SOCKET,
    };
    match args.format {
        Format::Json => output::print_json(&document)?,
        Format::Table => output::print(&table(&document)),
    }
    Ok(if document.active {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn table(document: &Document) -> String {
    let state = match (document.installed, document.active) {
        (false, _) => "not installed: `sudo kvpn service install`",
        (true, false) => "installed, but it does not run: `systemctl status kvpn-helper`",
        (true, true) => "running",
    };
    let program = document
        .program
        .as_deref()
        .unwrap_or_else(|| Path::new("-"));
    output::rows([
        ("service", state.to_owned()),
        ("program", program.display().to_string()),
        ("socket", document.socket.to_owned()),
        ("names", document.names.unwrap_or("-").to_owned()),
    ])
}

fn as_root(what: &str) -> anyhow::Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    let failure = Failure::new(FAILED, "only root can change the system's services");
    Err(failure.hint(format!("`sudo kvpn service {what}`")).into())
}
