//! `kvpn expose`: a Service's traffic, or a chosen part of it, for programs on this machine.

mod arguments;
mod command;
mod printer;
mod text;
mod view;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use kvpn_k8s::Cluster;
use kvpn_wire::exposure::{HeaderRule, Method, PathPrefix, Percent, Traffic};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent::exposure::{Process, Wanted, interrupted};
use crate::agent::launch::launch;
use crate::agent::message::{Access, Request};
use crate::agent::places::{Places, SessionName};
use crate::cli::Situation;
use crate::cli::access::AccessArgs;
use crate::cli::connect::{Outcome, Signals, finish, follow};
use crate::cli::failure::{Failure, USAGE};
use crate::cli::progress::Display;
use view::View;

pub(crate) use text::{bytes, summary};

/// Events that wait to be shown; then the gateway counts what it leaves out.
const LIVE_QUEUE: usize = 256;

/// Send a Service's traffic to programs on this machine
///
/// `kvpn expose 8080 as web` makes a Service `web` in the namespace (-n) whose callers reach 127.0.0.1:8080 here. When
/// `web` is there already, its traffic comes here until the command ends (it asks first, or --takeover); its pods go on
/// running, and serve what is not chosen, and everything as soon as this machine does not answer. Several developers
/// share a Service with different --match. Nothing is restarted, no port is opened here, root is not needed, nor is
/// `kvpn connect`. Shows each request as it comes; Ctrl-C puts the Service back.
#[derive(Debug, Args)]
#[command(
    override_usage = "kvpn expose [OPTIONS] PORT[:SERVICE-PORT][/udp].. as SERVICE [-- COMMAND..]"
)]
pub(crate) struct ExposeArgs {
    /// The ports of 127.0.0.1, each with the Service's port (by number or name) where that is another, then `as` and the Service
    #[arg(required = true, value_name = "PORT.. as SERVICE")]
    words: Vec<String>,
    /// Take all traffic of a Service that is there already, without asking
    #[arg(long)]
    takeover: bool,
    /// Only requests with this header: 'NAME: VALUE', or 'NAME=~REGEX'; several must all match
    #[arg(long = "match", value_name = "HEADER")]
    headers: Vec<HeaderRule>,
    /// Only requests whose path begins with this; one of several must match
    #[arg(long = "match-path", value_name = "PREFIX")]
    paths: Vec<PathPrefix>,
    /// Only requests with this method; one of several must match
    #[arg(long = "match-method", value_name = "METHOD")]
    methods: Vec<Method>,
    /// Only this share of the requests (of the connections, where it is not HTTP)
    #[arg(long, value_name = "PERCENT")]
    weight: Option<Percent>,
    /// Only a copy of the requests: the Service's pods answer, this machine's answers are dropped
    #[arg(long)]
    mirror: bool,
    /// Answer 502 when the program here does not answer, instead of letting the Service's pods answer
    #[arg(long)]
    no_fallback: bool,
    /// Begin each TCP connection to the program here with a PROXY protocol header (version 2), which has the caller's address
    #[arg(long)]
    proxy_protocol: bool,
    /// Do it even if something about the Service says that it will break
    #[arg(long)]
    force: bool,
    /// Return when the Service leads here (the nodes follow within about a second); `kvpn unexpose` ends it
    #[arg(long, conflicts_with_all = ["output", "command"])]
    detach: bool,
    /// How requests are shown
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORMAT")]
    output: ViewFormat,
    #[command(flatten)]
    access: AccessArgs,
    /// Run this command while the Service is exposed; its exit code is kvpn's. It finds KVPN_SERVICE and KVPN_NAMESPACE set
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// `-o`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ViewFormat {
    /// For people
    Text,
    /// One JSON document a line, whose fields stay
    Json,
}

impl ExposeArgs {
    /// What the agent is told; the namespace of the gateway follows when the kubeconfig is read.
    fn wanted(self, situation: &Situation) -> anyhow::Result<Wanted> {
        let usage = |error: String| Failure::new(USAGE, error);
        let (ports, service) = arguments::split(&self.words).map_err(usage)?;
        let traffic = Traffic::of_options(
            self.headers,
            self.paths,
            self.methods,
            self.weight,
            self.mirror,
        )
        .map_err(|error| usage(error.to_string()))?;
        let places = Places::of(&situation.environment, &situation.user);
        Ok(Wanted {
            places: places.of_exposures(),
            access: self.access.access(situation),
            service,
            ports,
            traffic,
            fallback: !self.no_fallback,
            proxy_protocol: self.proxy_protocol,
            owner: situation.user.title(),
            force: self.force,
            takeover: self.takeover,
            verbose: situation.globals.verbose,
            log_format: situation.globals.log_format,
        })
    }
}

/// `kvpn expose`
pub(crate) async fn run(situation: Situation, mut args: ExposeArgs) -> anyhow::Result<ExitCode> {
    let (detach, format) = (args.detach, args.output);
    let command = std::mem::take(&mut args.command);
    let wanted = args.wanted(&situation)?;
    let cluster = wanted.cluster(std::io::stdin().is_terminal())?;
    // Selectors do not cross namespaces: the gateway has to be where the Service is.
    let wanted = Wanted {
        access: Access {
            gateway_namespace: Some(cluster.namespace().to_owned()),
            ..wanted.access
        },
        ..wanted
    };
    let display = Display::new(situation.globals.quiet);
    if detach {
        return behind(&situation, wanted, &cluster, &display).await;
    }
    let process = Process::take(wanted, cluster, false)?;
    in_front(process, command, format, display).await
}

async fn in_front(
    mut process: Process,
    command: Vec<OsString>,
    format: ViewFormat,
    display: Display,
) -> anyhow::Result<ExitCode> {
    let (live_tx, live_rx) = mpsc::channel(LIVE_QUEUE);
    let (hurry, display) = (CancellationToken::new(), Arc::new(display));
    let view = View::new(
        Arc::clone(&process.board),
        Arc::clone(&display),
        hurry.clone(),
        format,
        command,
    )?;
    let view = tokio::spawn(view.show(live_rx));
    let mut prepared = process.prepare().await;
    let asks = (prepared.as_ref()).is_ok_and(|prepared| process.needs_consent(prepared));
    if asks && arguments::is_interactive() {
        tokio::select! {
            consents = consents(process.question(), &display) => if consents {
                process.consent();
            },
            _ = process.board.end_wanted() => prepared = Err(interrupted().into()),
        }
    }
    let outcome = process.live(prepared, Some(live_tx), &hurry).await;
    let code = view.await.context("the view failed")?;
    outcome?;
    Ok(code)
}

/// Starts a process that holds the exposure, and returns when it is in effect. Who has to be asked is asked here.
async fn behind(
    situation: &Situation,
    mut wanted: Wanted,
    cluster: &Cluster,
    display: &Display,
) -> anyhow::Result<ExitCode> {
    let name = SessionName::of_exposure(cluster.context(), cluster.namespace(), &wanted.service);
    let no_consent = wanted.no_consent(cluster);
    if std::io::stdin().is_terminal() {
        // Only here can a credential plugin ask its user.
        cluster.version().await?;
    }
    let mut signals = Signals::new()?;
    loop {
        let mut launched = launch(&situation.user, None, false).await?;
        let request = Request::Expose(Box::new(wanted.clone()));
        launched.contact.ask(&request).await?;
        let outcome = follow(&mut launched.contact, &mut signals, display, false).await;
        match &outcome {
            Ok(Outcome::Failed(failure)) if *failure == no_consent => {
                launched.gone().await.context("the process did not end")?;
                if !arguments::is_interactive()
                    || !consents(no_consent.message.clone(), display).await
                {
                    display.clear();
                    return Err(no_consent.into());
                }
                wanted.takeover = true;
            }
            Ok(_) | Err(_) => {
                display.clear();
                return finish(outcome, launched, &name).await;
            }
        }
    }
}

async fn consents(question: String, display: &Display) -> bool {
    display.pause();
    let answer = tokio::task::spawn_blocking(move || arguments::ask(&question)).await;
    display.resume();
    answer.unwrap_or(false)
}

#[cfg(test)]
mod tests;
