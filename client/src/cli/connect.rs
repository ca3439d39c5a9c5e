//! `kvpn connect`: starts helper and agent, follows the agent until traffic and names work.

#[cfg(unix)]
mod at_login;
#[cfg_attr(windows, path = "connect/lease/windows.rs")]
mod lease;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use ipnetwork::IpNetwork;
use kvpn_k8s::Cluster;

use crate::agent::contact::Contact;
use crate::agent::launch::{Launched, launch};
use crate::agent::lock::{self, Held};
use crate::agent::message::{Access, Reply, Request, Start};
use crate::agent::places::{Places, SessionName};
use crate::agent::report::{SessionReport, State};
use crate::cli::Situation;
use crate::cli::access::AccessArgs;
use crate::cli::expose;
use crate::cli::failure::{CONFLICT, FAILED, Failure};
use crate::cli::kube::kube;
use crate::cli::progress::Display;
use crate::cluster::Datapath;
use crate::helper;
use crate::os::signals::{Signal, SignalKind, signal};
use lease::Wanted;

/// How often the socket of an agent that is starting is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Connect this machine to the cluster's network
///
/// Finds a gateway in the connected namespace, then in `kvpn`; installs one if there is none and you may. Returns
/// when traffic and names work (both were tried); the session stays until `kvpn disconnect`. Connecting again is
/// harmless; another context or namespace adds a session. Needs root for the TUN, routes and names: `sudo` is asked
/// for that part alone, everything else runs as you.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    session: SessionArgs,
    /// Stay in the foreground and log there; Ctrl-C disconnects
    #[arg(long)]
    foreground: bool,
    #[cfg(unix)]
    /// Connect at each login too, with the same options, until `kvpn disconnect`; needs the installed service
    #[arg(long, conflicts_with = "foreground")]
    at_login: bool,
    /// What the session is called; without it CONTEXT.NAMESPACE
    #[arg(long, value_name = "SESSION")]
    name: Option<SessionName>,
}

/// What a session is like, whoever has it.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    /// Look for the gateway here (and install it here), instead of the connected namespace and `kvpn`
    #[arg(long, value_name = "NAMESPACE", value_parser = super::namespace)]
    gateway_namespace: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// Upgrade the gateway even if others use it; their sessions come back by themselves
    #[arg(long, conflicts_with = "no_install")]
    upgrade: bool,
    /// How a gateway that has to be installed reaches the cluster
    #[arg(long, value_enum, default_value_t, value_name = "DATAPATH")]
    datapath: Datapath,
    /// Send this range into the tunnel too; may be given again
    #[arg(long, value_name = "CIDR", value_parser = range)]
    cidr: Vec<IpNetwork>,
    /// Keep this range out of the tunnel; may be given again
    #[arg(long, value_name = "CIDR", value_parser = excluded)]
    exclude: Vec<IpNetwork>,
    /// Resolve SERVICE.NAMESPACE for this namespace too, if you may not list namespaces; may be given again
    #[arg(long, value_name = "NAMESPACE", value_parser = super::namespace)]
    dns_namespace: Vec<String>,
}

/// A range for the tunnel: what the helper would refuse is refused before anything is done.
fn range(text: &str) -> Result<IpNetwork, String> {
    let range = excluded(text)?;
    helper::range_limits(range)?;
    Ok(range)
}

/// A range as users write it; a host part is a mistake rather than a wish.
fn excluded(text: &str) -> Result<IpNetwork, String> {
    let range: IpNetwork = text
        .parse()
        .map_err(|error| format!("{error}; write it as 10.20.0.0/16"))?;
    if range.prefix() == 0 {
        return Err("a default route is never taken over".to_owned());
    }
    if range.network() != range.ip() {
        return Err(format!(
            "{text} has bits set beyond its prefix; did you mean {}/{}?",
            range.network(),
            range.prefix()
        ));
    }
    Ok(range)
}

impl SessionArgs {
    /// A session without a name of the user's, in the background.
    pub(crate) fn start(self, situation: &Situation, places: Places) -> Start {
        Start {
            name: None,
            places,
            access: Access {
                gateway_namespace: self.gateway_namespace,
                upgrade: self.upgrade,
                datapath: self.datapath,
                ..self.access.access(situation)
            },
            ranges: self.cidr,
            exclude: self.exclude,
            dns_namespaces: self.dns_namespace,
            foreground: false,
            program: None,
            verbose: situation.globals.verbose,
            log_format: situation.globals.log_format,
        }
    }
}

/// `kvpn connect`
pub(crate) async fn run(situation: Situation, args: ConnectArgs) -> anyhow::Result<ExitCode> {
    #[cfg(unix)]
    if args.at_login {
        return at_login::run(&situation, args).await;
    }
    let cluster = load(&situation)?;
    connect(&situation, args, cluster).await
}

/// The cluster, whose credential plugin may ask the user where there is one to ask.
fn load(situation: &Situation) -> anyhow::Result<Cluster> {
    Ok(Cluster::load(
        &kube(situation).options(is_interactive(situation)),
    )?)
}

fn is_interactive(situation: &Situation) -> bool {
    !situation.user.is_behind_sudo() && std::io::stdin().is_terminal()
}

async fn connect(
    situation: &Situation,
    args: ConnectArgs,
    cluster: Cluster,
) -> anyhow::Result<ExitCode> {
    let places = Places::of(&situation.environment, &situation.user);
    let start = Start {
        name: args.name,
        foreground: args.foreground,
        ..args.session.start(situation, places)
    };
    let name = session_name(start.name.as_ref(), &cluster);
    let display = Display::new(situation.globals.quiet);
    // In the foreground the agent's log tells the steps.
    let display = if start.foreground {
        display.without_steps()
    } else {
        display
    };
    let places = start.places.clone();
    if let Some(contact) = Contact::open(&places, &name).await? {
        return join(contact, &cluster, &name, &display).await;
    }
    let wanted = Wanted {
        user: &situation.user,
        cluster: &cluster,
        display: &display,
        interactive: is_interactive(situation),
    };
    let (helper, mut signals) = wanted.get().await?;
    let stay = start.foreground;
    let mut launched = launch(&situation.user, Some(helper), stay).await?;
    launched
        .contact
        .ask(&Request::Start(Box::new(start)))
        .await?;
    let outcome = follow(&mut launched.contact, &mut signals, &display, stay).await;
    display.clear();
    if let Ok(Outcome::Occupied) = outcome {
        launched.gone().await.context("the agent did not end")?;
        return join_other(&places, &cluster, &name, &display, &mut signals).await;
    }
    finish(outcome, launched, &name).await
}

fn session_name(given: Option<&SessionName>, cluster: &Cluster) -> SessionName {
    let own = || SessionName::of(cluster.context(), cluster.namespace());
    given.cloned().unwrap_or_else(own)
}

/// Another `connect` was quicker: its session is as good as one of our own.
async fn join_other(
    places: &Places,
    cluster: &Cluster,
    name: &SessionName,
    display: &Display,
    signals: &mut Signals,
) -> anyhow::Result<ExitCode> {
    while let Held::Alive(_) = lock::look(&places.lock(name)) {
        if let Some(contact) = Contact::open(places, name).await? {
            return join(contact, cluster, name, display).await;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = signals.next() => bail!("interrupted"),
        }
    }
    let message = format!("another `kvpn connect` held the session {name} and has just ended");
    Err(Failure::new(FAILED, message).hint("try again").into())
}

/// A session of that name is there: the same one is as good as a new one.
async fn join(
    mut contact: Contact,
    cluster: &Cluster,
    name: &SessionName,
    display: &Display,
) -> anyhow::Result<ExitCode> {
    let report = contact.status().await?;
    if report.server != cluster.server()
        || report.context != cluster.context()
        || report.namespace != cluster.namespace()
    {
        let message = format!(
            "a session named {name} is there already, with context {} and namespace {}",
            report.context, report.namespace
        );
        return Err(Failure::new(CONFLICT, message)
            .hint("give this one another name with --name")
            .into());
    }
    if report.state == State::Connecting {
        contact.ask(&Request::Follow).await?;
        let mut signals = Signals::new()?;
        let outcome = follow(&mut contact, &mut signals, display, false).await;
        display.clear();
        return match outcome? {
            Outcome::Connected(_) | Outcome::Ended => Ok(ExitCode::SUCCESS),
            Outcome::Failed(failure) => Err(failure.into()),
            Outcome::Died | Outcome::Occupied => {
                Err(Failure::new(FAILED, format!("the agent of session {name} died")).into())
            }
        };
    }
    display.clear();
    display.result(&format!(
        "connected already: session {name} ({})",
        report.state.as_str()
    ));
    Ok(ExitCode::SUCCESS)
}

/// What came of following an agent.
pub(crate) enum Outcome {
    /// Traffic and names work.
    #[cfg_attr(windows, expect(dead_code, reason = "for `kvpn run`"))]
    Connected(Box<SessionReport>),
    /// The session is over, as was wanted.
    Ended,
    /// It did not come to be.
    Failed(Failure),
    /// Another agent holds the session.
    Occupied,
    /// It went without a word.
    Died,
}

/// Ctrl-C and its like.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they do not end this process.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Shows what the agent does until it is connected (with `stay`: until it ends). The first Ctrl-C asks it to end,
/// the second one does not wait for that.
pub(crate) async fn follow(
    contact: &mut Contact,
    signals: &mut Signals,
    display: &Display,
    stay: bool,
) -> anyhow::Result<Outcome> {
    let mut asked = false;
    let mut connected = false;
    loop {
        let reply = tokio::select! {
            reply = contact.answer() => reply?,
            () = signals.next() => {
                ensure!(!asked, "interrupted");
                asked = true;
                display.step("disconnecting");
                contact.ask(&Request::Disconnect).await?;
                continue;
            }
        };
        match reply {
            Some(Reply::Step { text }) => display.step(&text),
            Some(Reply::Note { text }) => display.note(&format!("note: {text}")),
            Some(Reply::Connected(report)) => {
                display.clear();
                display.result(&summary(&report));
                connected = true;
                if !stay {
                    return Ok(Outcome::Connected(report));
                }
            }
            Some(Reply::Failed(failure)) => return Ok(Outcome::Failed(failure)),
            Some(Reply::Occupied) => return Ok(Outcome::Occupied),
            Some(Reply::Ended { reason, notes }) => {
                for note in notes {
                    display.note(&note);
                }
                let reason = reason.or_else(|| (!connected).then(|| "interrupted".to_owned()));
                return Ok(reason.map_or(Outcome::Ended, |reason| {
                    Outcome::Failed(Failure::new(FAILED, reason))
                }));
            }
            Some(Reply::Report(_)) => {}
            None => return Ok(Outcome::Died),
        }
    }
}

/// Leaves a connected agent alone; waits until any other one is gone.
pub(crate) async fn finish(
    outcome: anyhow::Result<Outcome>,
    launched: Launched,
    name: &SessionName,
) -> anyhow::Result<ExitCode> {
    if let Ok(Outcome::Connected(_)) = outcome {
        return Ok(ExitCode::SUCCESS);
    }
    let status = launched.gone().await.context("the agent did not end")?;
    match outcome? {
        Outcome::Connected(_) | Outcome::Ended => Ok(ExitCode::SUCCESS),
        Outcome::Failed(failure) => Err(failure.into()),
        Outcome::Died | Outcome::Occupied => {
            let failure = Failure::new(
                FAILED,
                format!("the agent of session {name} died ({status})"),
            );
            Err(failure
                .hint("its log tells more; `kvpn disconnect` undoes what may be left")
                .into())
        }
    }
}

fn summary(report: &SessionReport) -> String {
    if let Some(exposure) = &report.exposure {
        return expose::summary(report, exposure);
    }
    let mut lines = Vec::new();
    let SessionReport {
        context, namespace, ..
    } = report;
    let through = report.gateway.as_ref().map_or_else(String::new, |gateway| {
        format!(
            " through {}/{} ({})",
            gateway.namespace, gateway.pod, gateway.datapath
        )
    });
    lines.push(format!(
        "connected to {context}, namespace {namespace},{through}"
    ));
    if let Some(network) = &report.network {
        let routes: Vec<String> = network.routes.iter().map(IpNetwork::to_string).collect();
        lines.push(format!("  {}: {}", network.interface, routes.join(" ")));
        lines.push(format!(
            "  names: SERVICE, SERVICE.NAMESPACE, *.{} ({})",
            network.domain, network.dns_backend
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_as_they_are_meant() {
        assert_eq!(range("10.20.0.0/16").unwrap().prefix(), 16);
        assert_eq!(range("10.20.0.7").unwrap().prefix(), 32);
        for bad in [
            "10.20.0.1/16",
            "0.0.0.0/0",
            "::/0",
            "example",
            "10.0.0.0/33",
            "10.0.0.0/7",
            "169.254.169.254",
        ] {
            assert!(range(bad).is_err(), "{bad}");
        }
        assert!(range("10.20.0.1/16").unwrap_err().contains("10.20.0.0/16"));
    }
}
