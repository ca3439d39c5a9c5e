//! `kvpn connect --at-login`: connects, and has the same done at each login.
//!
//! Must not know how a system starts things at login.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use kvpn_k8s::Cluster;

use super::{ConnectArgs, connect, load, session_name};
use crate::agent::places::SessionName;
use crate::cli::failure::{FAILED, Failure};
use crate::cli::{Cli, Command, Situation, output};
use crate::os::platform::{login, service};

/// `kvpn connect --at-login`
pub(super) async fn run(situation: &Situation, args: ConnectArgs) -> anyhow::Result<ExitCode> {
    check(situation)?;
    let cluster = load(situation)?;
    let name = session_name(args.name.as_ref(), &cluster);
    let command = command(&cluster, &name)?;
    let code = connect(situation, args, cluster).await?;
    let environment = situation.environment.to_keep();
    let unit = login::enable(&situation.user.home, name.as_str(), &command, &environment)?;
    if !situation.globals.quiet {
        output::tell(&format!("at each login from now on: {}", unit.display()));
    }
    Ok(code)
}

/// Nobody is there to type a password at login.
fn check(situation: &Situation) -> Result<(), Failure> {
    let needs_service = situation.user.uid != 0 && service::look().is_none();
    if !needs_service && !situation.user.is_behind_sudo() {
        return Ok(());
    }
    Err(Failure::new(
        FAILED,
        "--at-login needs the installed service, and no sudo",
    )
    .hint("`sudo kvpn service install` once, then `kvpn connect --at-login` without sudo"))
}

/// This command as the user gave it; what may be another one at the next login is made fast.
fn command(cluster: &Cluster, name: &SessionName) -> anyhow::Result<Vec<OsString>> {
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let given = std::env::args_os().skip(1);
    let mut command = vec![program.into_os_string()];
    command.extend(given.filter(|word| word != "--at-login"));
    let said = Cli::try_parse_from(&command)?;
    let is_named = matches!(
        said.command,
        Command::Connect(ConnectArgs { name: Some(_), .. })
    );
    for (option, value, is_said) in [
        (
            "--context",
            cluster.context(),
            said.globals.context.is_some(),
        ),
        (
            "--namespace",
            cluster.namespace(),
            said.globals.namespace.is_some(),
        ),
        ("--name", name.as_str(), is_named),
    ] {
        if !is_said {
            command.extend([option, value].map(OsString::from));
        }
    }
    command.push("--foreground".into());
    Ok(command)
}
