//! The command line: its types, whose doc comments are the manual, and the way from a parsed command to
//! the file that carries it out. Nothing here talks to a cluster or to the system.

pub(crate) mod access;
pub(crate) mod connect;
pub(crate) mod disconnect;
pub(crate) mod doctor;
pub(crate) mod env;
pub(crate) mod environment;
pub(crate) mod expose;
mod exposures;
pub(crate) mod failure;
pub(crate) mod gateway;
pub(crate) mod kube;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod manual;
#[cfg(windows)]
mod missing;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod proxy;
pub(crate) mod restore;
#[cfg(unix)]
pub(crate) mod run;
#[cfg(unix)]
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod unexpose;
#[cfg_attr(windows, path = "cli/user/windows.rs")]
pub(crate) mod user;

#[cfg(windows)]
use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use kvpn_wire::name::Namespace;

use crate::cli::environment::Environment;
use crate::cli::user::User;

/// Puts this computer inside a Kubernetes cluster's network.
///
/// `kvpn connect` needs a kubeconfig and nothing else: it finds or installs a gateway pod, opens a
/// WireGuard tunnel to it through the API server (and over UDP where that works), routes the cluster's
/// pods and Services into it and makes their names resolve. Everything else keeps going where it went.
///
/// Exit codes: 0 done; 1 failed; 2 wrong usage; 3 not connected; 4 not permitted (the verb and the resource
/// are named); 5 the cluster cannot be reached; 6 conflict (an overlapping range, a session of that name,
/// somebody else's exposure).
#[derive(Debug, Parser)]
#[command(
    name = "kvpn",
    version,
    max_term_width = 100,
    propagate_version = true,
    disable_help_subcommand = true
)]
#[cfg_attr(
    windows,
    command(
        after_help = "`kvpn run`, `kvpn service` and `connect --at-login` are not there for Windows; `kvpn connect` needs wintun.dll and a terminal opened with 'Run as administrator'."
    )
)]
pub(crate) struct Cli {
    /// Options that every command takes.
    #[command(flatten)]
    pub(crate) globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Kubeconfig file; without it $KUBECONFIG (sudo drops that one), then ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; without it the current one
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// Namespace whose Services have short names; without it the context's own
    #[arg(short, long, global = true, value_name = "NAMESPACE", value_parser = namespace)]
    pub(crate) namespace: Option<String>,
    /// Say more: -v what happens, -vv details with names and addresses, -vvv every packet
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// How log lines are written
    #[arg(long, global = true, value_enum, default_value_t = log::Format::Text, value_name = "FORMAT")]
    pub(crate) log_format: log::Format,
}

/// A namespace's name; a bad one would travel to the cluster, and an empty one means all of them there.
fn namespace(text: &str) -> Result<String, String> {
    let name: Namespace = text.parse().map_err(|error| format!("{error}"))?;
    Ok(name.as_str().to_owned())
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Connect(connect::ConnectArgs),
    Disconnect(disconnect::DisconnectArgs),
    Status(status::StatusArgs),
    Expose(expose::ExposeArgs),
    Unexpose(unexpose::UnexposeArgs),
    Restore(restore::RestoreArgs),
    List(list::ListArgs),
    #[command(subcommand)]
    Gateway(gateway::GatewayCommand),
    Doctor(doctor::DoctorArgs),
    Env(env::EnvArgs),
    #[cfg(unix)]
    Run(run::RunArgs),
    #[cfg(unix)]
    #[command(subcommand)]
    Service(service::ServiceCommand),
    Proxy(proxy::ProxyArgs),
    Completion(manual::CompletionArgs),
    Man(manual::ManArgs),
    #[cfg(unix)]
    /// The privileged process that opens the TUN and sets routes and names (started by `connect`)
    #[command(hide = true)]
    Helper(HelperArgs),
    /// The process that holds a session (started by `connect`)
    #[command(hide = true)]
    Agent,
    /// What is there for other systems
    #[cfg(windows)]
    #[command(external_subcommand)]
    Missing(Vec<OsString>),
}

impl Command {
    /// Whether this process has a log of its own.
    pub(crate) fn is_agent(&self) -> bool {
        matches!(self, Self::Agent)
    }
}

/// How the helper was started.
#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct HelperArgs {
    /// Undo what a helper that died left behind, and end
    #[arg(long)]
    pub(crate) undo: bool,
    /// Serve: the helper starts itself again like this, detached from the terminal
    #[arg(long, conflicts_with = "undo")]
    pub(crate) serve: bool,
    /// Serve one program's own network, unprivileged, in namespaces made for it
    #[arg(long, conflicts_with_all = ["undo", "serve"])]
    pub(crate) own: bool,
    /// Serve members of the socket's group, each with a helper of their own
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["undo", "serve", "own"])]
    pub(crate) listen: Option<PathBuf>,
}

/// What a command knows besides its own options.
#[derive(Debug, Clone)]
pub(crate) struct Situation {
    /// Options that every command takes.
    pub(crate) globals: Globals,
    /// The environment, read once.
    pub(crate) environment: Environment,
    /// Whom the session belongs to: under sudo, the user who called it.
    pub(crate) user: User,
}

/// Carries a parsed command out.
///
/// # Errors
///
/// Whatever made it fail; [`failure::report`] knows the exit code.
pub(crate) fn run(parsed: Cli) -> anyhow::Result<ExitCode> {
    match parsed.command {
        #[cfg(unix)]
        Command::Helper(args) => return run_helper(&args),
        Command::Agent => return crate::agent::run(),
        Command::Completion(args) => return manual::completion(&args),
        Command::Man(args) => return manual::man(&args),
        #[cfg(windows)]
        Command::Missing(words) => return missing::run(&words),
        Command::Connect(_)
        | Command::Disconnect(_)
        | Command::Status(_)
        | Command::Expose(_)
        | Command::Unexpose(_)
        | Command::Restore(_)
        | Command::List(_)
        | Command::Gateway(_)
        | Command::Doctor(_)
        | Command::Env(_)
        | Command::Proxy(_) => {}
        #[cfg(unix)]
        Command::Run(_) | Command::Service(_) => {}
    }
    let environment = Environment::read()?;
    let user = User::of_caller(&environment)?;
    #[cfg(unix)]
    if user.is_behind_sudo() && runs_plugins(&parsed.command) {
        return Err(user.become_and_run_again());
    }
    let situation = Situation {
        globals: parsed.globals,
        environment,
        user,
    };
    match parsed.command {
        Command::Connect(args) => block_on(connect::run(situation, args)),
        Command::Disconnect(args) => block_on(disconnect::run(situation, args)),
        Command::Status(args) => block_on(status::run(situation, args)),
        Command::Expose(args) => block_on(expose::run(situation, args)),
        Command::Unexpose(args) => block_on(unexpose::run(situation, args)),
        Command::Restore(args) => block_on(restore::run(situation, args)),
        Command::List(args) => block_on(list::run(situation, args)),
        Command::Gateway(command) => block_on(gateway::run(situation, command)),
        Command::Doctor(args) => block_on(doctor::run(situation, args)),
        Command::Env(args) => block_on(env::run(situation, args)),
        Command::Proxy(args) => block_on(proxy::run(situation, args)),
        #[cfg(unix)]
        Command::Run(args) => run::run(situation, args),
        #[cfg(unix)]
        Command::Service(command) => service::run(&situation, &command),
        #[cfg(unix)]
        Command::Helper(_) => Ok(ExitCode::SUCCESS),
        #[cfg(windows)]
        Command::Missing(_) => Ok(ExitCode::SUCCESS),
        Command::Completion(_) | Command::Man(_) | Command::Agent => Ok(ExitCode::SUCCESS),
    }
}

/// Whether the command itself speaks to the cluster: a kubeconfig can name programs to run, and those must
/// never run as root on behalf of somebody else. `connect` leaves that to its agent.
#[cfg(unix)]
fn runs_plugins(command: &Command) -> bool {
    matches!(
        command,
        Command::Gateway(_)
            | Command::Doctor(_)
            | Command::Expose(_)
            | Command::Unexpose(_)
            | Command::Restore(_)
            | Command::List(_)
            | Command::Env(_)
            | Command::Run(_)
            | Command::Proxy(_)
    )
}

#[cfg(unix)]
fn run_helper(args: &HelperArgs) -> anyhow::Result<ExitCode> {
    if args.undo {
        crate::helper::undo_leftovers()?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.own {
        return run_own_helper();
    }
    if let Some(socket) = &args.listen {
        crate::helper::listen::run(socket)?;
        return Ok(ExitCode::SUCCESS);
    }
    crate::helper::run(args.serve)?;
    Ok(ExitCode::SUCCESS)
}

/// What failed goes to who started it, as a document: it tells the user.
#[cfg(unix)]
fn run_own_helper() -> anyhow::Result<ExitCode> {
    if let Err(error) = crate::helper::run_own() {
        output::print_json(&failure::Failure::of(&error))?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn block_on(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let outcome = runtime.block_on(work);
    // A name lookup that hangs in its thread must not hold the command up.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests;
