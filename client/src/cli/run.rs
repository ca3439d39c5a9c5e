//! `kvpn run`: a program in a network of its own that leads into the cluster, without privileges.
//!
//! This process becomes the program, so that its exit code, signals and terminal need nobody between. All else is done by
//! others before: a second process of this command (`--prepare`) starts helper and agent as `connect` does, follows them until
//! the tunnel works, says where the network is, and ends; the agent ends when this process does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal as _};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use clap::Args;
use kvpn_k8s::Cluster;
use rustix::process::getppid;
use serde::{Deserialize, Serialize};

use crate::agent::check;
use crate::agent::launch::launch;
use crate::agent::message::Request;
use crate::agent::places::{Places, SessionName};
use crate::agent::report::SessionReport;
use crate::cli::connect::{Outcome, SessionArgs, Signals, finish, follow};
use crate::cli::failure::{FAILED, Failure};
use crate::cli::progress::Display;
use crate::cli::{Situation, block_on, env, output};
use crate::helper::{self, OwnHelper};
use crate::os::platform::{self, Process};

/// What a shell answers for a program that cannot be run, and for one that is not there.
const NOT_RUNNABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Run a program in a network of its own that leads into the cluster
///
/// Needs neither root nor `kvpn connect`, and changes nothing on this machine: the program alone has the cluster's network and
/// names, and the way there ends with it. Several can run at once, each with another cluster or namespace. The program is
/// yours, with your terminal, files and exit code.
///
/// Inside there is no way out but the tunnel: this machine's own loopback and network are not there, and public addresses
/// cannot be reached, though their names resolve, unless --cidr sends them through the cluster.
///
/// For example `kvpn run -- curl http://web`, or `kvpn run --like deployment/web -- npm start`. With no program but your
/// shell (`kvpn run -- $SHELL`) the whole shell is inside.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Give the program the environment of this workload's container, as `kvpn env` prints it
    #[arg(long, value_name = "WORKLOAD")]
    like: Option<String>,
    #[command(flatten)]
    choice: env::Choice,
    #[command(flatten)]
    session: SessionArgs,
    /// Do all but run the program, and say where
    #[arg(long, hide = true)]
    prepare: bool,
    /// The program and its arguments, after `--`
    #[arg(last = true, value_name = "CMD", required_unless_present = "prepare")]
    program: Vec<OsString>,
}

/// What the program's process has to know.
#[derive(Serialize, Deserialize)]
struct Prepared {
    /// Whose namespaces are the program's.
    helper: u32,
    /// The cluster's domain.
    domain: String,
    /// Where names are asked.
    stubs: Vec<IpAddr>,
    /// The workload's environment.
    variables: BTreeMap<String, String>,
}

/// `kvpn run`
pub(crate) fn run(situation: Situation, args: RunArgs) -> anyhow::Result<ExitCode> {
    if args.prepare {
        return block_on(prepare(situation, args));
    }
    let Some((program, arguments)) = args.program.split_first() else {
        bail!("there is no program to run");
    };
    let prepared = match prepared()? {
        Ok(prepared) => prepared,
        Err(code) => return Ok(code),
    };
    platform::join(prepared.helper).context("the program's network cannot be entered")?;
    block_on(prove(&prepared))?;
    let error = Command::new(program)
        .args(arguments)
        .envs(&prepared.variables)
        .exec();
    output::tell(&format!("kvpn: {}: {error}", program.display()));
    Ok(ExitCode::from(match error.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_RUNNABLE,
    }))
}

/// Has another process prepare everything: this one must not have threads yet. Its exit code when that failed; it has told
/// the user why.
fn prepared() -> anyhow::Result<Result<Prepared, ExitCode>> {
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let ours = std::env::args_os().skip(1).take_while(|word| word != "--");
    let output = Command::new(program)
        .args(ours)
        .arg("--prepare")
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .context("the session's launcher cannot be started")?;
    if output.status.success() {
        let prepared = serde_json::from_slice(&output.stdout);
        return Ok(Ok(prepared.context("the session's launcher said nonsense")?));
    }
    let code = output
        .status
        .code()
        .and_then(|code| u8::try_from(code).ok());
    Ok(Err(ExitCode::from(code.unwrap_or(FAILED))))
}

/// Tries names on the way that the program will take; the answer came through the tunnel from the cluster's own DNS.
async fn prove(prepared: &Prepared) -> anyhow::Result<ExitCode> {
    let stub = prepared.stubs.first();
    let stub = stub.context("the gateway granted no addresses")?;
    check::stub(*stub, &prepared.domain).await?;
    check::system(&prepared.domain).await.map_err(|error| {
        let failure = Failure::new(FAILED, format!("{error:#}"));
        failure.hint(
            "look at /etc/nsswitch.conf and /etc/hosts: inside, names come from files, then DNS",
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// `--prepare`: everything up to the program.
async fn prepare(situation: Situation, args: RunArgs) -> anyhow::Result<ExitCode> {
    // Ended with the process that waits.
    platform::end_with_parent()?;
    let parent = getppid().context("`kvpn run` has ended")?;
    let program = Process::of(parent.as_raw_nonzero().get().unsigned_abs())?;
    let places = Places::of(&situation.environment, &situation.user).of_programs();
    let mut start = args.session.start(&situation, places);
    let interactive = std::io::stdin().is_terminal();
    let cluster = Cluster::load(&start.access.kube.options(interactive))?;
    let name = SessionName::of_program(cluster.context(), cluster.namespace(), program.pid);
    start.name = Some(name.clone());
    start.program = Some(program);
    let display = display(&situation);
    display.step(&format!("calling {}", cluster.server()));
    let variables = variables(&cluster, args.like, &args.choice, &display).await?;
    if interactive {
        // Only here can a credential plugin ask its user.
        cluster.version().await?;
    }
    let mut signals = Signals::new()?;
    let OwnHelper { socket, pid } = helper::spawn_own()?;
    let mut launched = launch(&situation.user, Some(socket), false).await?;
    launched
        .contact
        .ask(&Request::Start(Box::new(start)))
        .await?;
    let outcome = follow(&mut launched.contact, &mut signals, &display, false).await;
    display.clear();
    let report = match outcome {
        Ok(Outcome::Connected(report)) => report,
        outcome => return finish(outcome, launched, &name).await,
    };
    output::print_json(&place(pid, *report, variables)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Standard output is the program's, and so is standard error where nobody watches.
fn display(situation: &Situation) -> Display {
    let display = Display::new(situation.globals.quiet).without_results();
    if std::io::stderr().is_terminal() || situation.globals.verbose > 0 {
        display
    } else {
        display.without_steps()
    }
}

async fn variables(
    cluster: &Cluster,
    like: Option<String>,
    choice: &env::Choice,
    display: &Display,
) -> anyhow::Result<BTreeMap<String, String>> {
    let Some(workload) = like else {
        return Ok(BTreeMap::new());
    };
    let environment = env::read(cluster, &workload, choice).await?;
    for note in &environment.notes {
        display.note(&format!("note: {note}"));
    }
    Ok(environment.variables)
}

fn place(
    helper: u32,
    report: SessionReport,
    variables: BTreeMap<String, String>,
) -> anyhow::Result<Prepared> {
    let network = report
        .network
        .context("the agent does not say what it set up")?;
    Ok(Prepared {
        helper,
        domain: network.domain,
        stubs: network.dns_servers,
        variables,
    })
}
