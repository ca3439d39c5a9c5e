//! The agent: the unprivileged process that holds one session, from `kvpn connect` to `kvpn disconnect`.
//!
//! Its life: start request on standard input, lock and control socket, [`startup`], then the [`driver`] moves
//! packets, the [`keeper`] keeps the session, [`network`] speaks with the helper, [`control`] with commands, all of
//! them on one thread; when one of them, a signal or a command wants the end, everything is undone in order.
//! It is never root, except where its user is.

pub(crate) mod board;
pub(crate) mod changes;
pub(crate) mod check;
pub(crate) mod contact;
pub(crate) mod control;
pub(crate) mod driver;
pub(crate) mod exposure;
pub(crate) mod gateway;
pub(crate) mod goodbye;
pub(crate) mod guests;
#[cfg_attr(windows, path = "agent/handover/windows.rs")]
mod handover;
pub(crate) mod keeper;
pub(crate) mod laptop;
pub(crate) mod launch;
pub(crate) mod lock;
pub(crate) mod message;
pub(crate) mod names;
pub(crate) mod network;
pub(crate) mod opening;
pub(crate) mod others;
pub(crate) mod places;
pub(crate) mod ranges;
pub(crate) mod report;
pub(crate) mod seat;
pub(crate) mod session;
pub(crate) mod stack;
pub(crate) mod startup;
#[cfg_attr(windows, path = "agent/transport/windows.rs")]
pub(crate) mod transport;
pub(crate) mod upgrade;
pub(crate) mod upstream;
pub(crate) mod virtual_ranges;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, bail};
use futures::{SinkExt as _, StreamExt as _};
use kvpn_k8s::Cluster;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::board::{Board, End};
use crate::agent::changes::Listeners;
use crate::agent::control::{Caller, Control, Lines};
use crate::agent::driver::Figures;
use crate::agent::handover::Given;
use crate::agent::keeper::{Keeper, Routing};
use crate::agent::lock::Holder;
use crate::agent::message::{Reply, Request, Start};
use crate::agent::network::{Network, Place};
use crate::agent::places::{Places, SessionName};
use crate::agent::report::{SessionReport, State, TrafficReport};
use crate::agent::seat::Seat;
use crate::agent::session::Peer;
use crate::agent::startup::{Standing, Startup};
use crate::cli::failure::Failure;
use crate::cli::log;
use crate::helper::HelperConnection;
use crate::os::platform::Process;
use crate::os::signals::{SignalKind, signal};

/// The agent's clock, and the only one.
#[expect(
    clippy::disallowed_methods,
    reason = "the shell's clock, handed to the core as an argument"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The calendar's time, for what people and other machines read.
#[expect(
    clippy::disallowed_methods,
    reason = "the shell's clock, handed on as an argument"
)]
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// The agent's process.
///
/// # Errors
///
/// It was not started by `kvpn connect`. Failures of the session are told over the control connection.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let given = handover::take()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve(given));
    runtime.shutdown_background();
    outcome
}

async fn serve(given: Given) -> anyhow::Result<ExitCode> {
    let (launcher, lease) =
        (given.open().await).context("the agent is started by `kvpn connect` only")?;
    let mut launcher = control::lines(launcher);
    let start = match read_request(&mut launcher).await? {
        Request::Start(start) => *start,
        Request::Expose(wanted) => return exposure::serve_detached(*wanted, launcher).await,
        Request::Status | Request::Follow | Request::Disconnect | Request::Guest(_) => {
            bail!("the agent was not told which session to hold")
        }
    };
    let helper = HelperConnection::open(lease)?;
    let reply = match Agent::prepare(start) {
        Ok(Some(agent)) => return Ok(agent.live(launcher, helper).await),
        Ok(None) => Reply::Occupied,
        Err(error) => Reply::Failed(Failure::of(&error)),
    };
    release(helper).await;
    launcher.send(serde_json::to_string(&reply)?).await?;
    Ok(ExitCode::FAILURE)
}

async fn read_request(launcher: &mut Lines) -> anyhow::Result<Request> {
    let line = launcher
        .next()
        .await
        .context("the agent is started by `kvpn connect` only")??;
    serde_json::from_str(&line).context("the agent was not told which session to hold")
}

/// A session's process, before anything was changed.
struct Agent {
    start: Arc<Start>,
    cluster: Cluster,
    board: Arc<Board>,
    figures: Figures,
    name: SessionName,
    seat: Seat,
}

impl Agent {
    /// What can be done without cluster and helper: the kubeconfig, the user's directories, lock and socket. `None` when
    /// another agent holds the session.
    fn prepare(start: Start) -> anyhow::Result<Option<Self>> {
        let cluster = Cluster::load(&start.access.kube.options(false))?;
        let name = start
            .name
            .clone()
            .unwrap_or_else(|| SessionName::of(cluster.context(), cluster.namespace()));
        start.places.create()?;
        if !start.foreground {
            log_to(&start.places, &name)?;
        }
        log::for_agent(start.verbose, start.log_format);
        let holder = Holder::of(&cluster)?;
        let board = Arc::new(Board::new(first_report(&start.places, &name, &holder)));
        let Some(seat) = Seat::take(&start.places, &name, holder)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            start: Arc::new(start),
            cluster,
            board,
            figures: Figures::default(),
            name,
            seat,
        }))
    }

    /// From connecting to the end; everything is undone when this returns.
    async fn live(mut self, launcher: Lines, mut helper: HelperConnection) -> ExitCode {
        let mut control = Control::new(Arc::clone(&self.board), self.figures.clone());
        control.attend(
            launcher,
            Caller::Launcher {
                foreground: self.start.foreground,
            },
        );
        let signals = tokio::spawn(end_on_signals(Arc::clone(&self.board)));
        if let Some(program) = self.start.program.clone() {
            tokio::spawn(end_with(program, Arc::clone(&self.board)));
        }
        let startup = Startup {
            cluster: &self.cluster,
            start: &self.start,
            board: &self.board,
            figures: &self.figures,
            helper: &mut helper,
        };
        let established = tokio::select! {
            established = startup.establish() => established.map(Some),
            _ = self.board.end_wanted() => Ok(None),
            usurped = control.serve(&mut self.seat) => Err(usurped.into()),
        };
        let (outcome, helper) = match established {
            Ok(Some(standing)) => self.hold(standing, helper, &mut control).await,
            Ok(None) => (Ok(None), Some(helper)),
            Err(error) => (Err(Failure::of(&error)), Some(helper)),
        };
        signals.abort();
        self.end(outcome, helper, control).await
    }

    /// Holds the session until somebody wants its end; gives back why, and the helper if it lives.
    async fn hold(
        &mut self,
        standing: Standing,
        helper: HelperConnection,
        control: &mut Control,
    ) -> (Result<Option<String>, Failure>, Option<HelperConnection>) {
        let driver = standing.driver.clone();
        let (peer_tx, peer_rx) = watch::channel(Peer::new(&standing.gateway, &standing.keys.grant));
        let [changed, moved, ranges] = std::array::from_fn(|_| Arc::new(Notify::new()));
        let listeners = Listeners {
            moved: vec![Arc::clone(&changed), Arc::clone(&moved)],
            ranges: Some(Arc::clone(&ranges)),
        };
        let changes = tokio::spawn(changes::watch(standing.driver.clone(), listeners));
        let (wish_tx, wish_rx) = watch::channel(standing.wish.clone());
        let upstream_rx = standing.upstream_tx.subscribe();
        let stop = CancellationToken::new();
        let network = Network {
            helper,
            board: Arc::clone(&self.board),
            driver: standing.driver.clone(),
            route_rx: standing.route_rx,
            wish_rx,
            standing: standing.wish,
            changed: moved,
            upstream_tx: standing.upstream_tx,
            domain: standing.names.domain.clone(),
            own_domain: standing.names.own_domain.clone(),
            names_note: standing.host.as_ref().map(|host| {
                host.note(&standing.names.domain, standing.names.own_domain.as_deref())
            }),
            place: standing.host.map_or(Place::Own, Place::Guest),
            name: self.name.clone(),
            places: self.start.places.clone(),
        };
        let network = tokio::spawn(network.serve(stop.clone()));
        let keeper = Keeper {
            cluster: self.cluster.clone(),
            access: Arc::new(self.start.access.clone()),
            board: Arc::clone(&self.board),
            peer_tx,
            gateway: standing.gateway,
            keys: standing.keys,
            driver: standing.driver,
            occurrence_rx: standing.occurrence_rx,
            udp_candidates: standing.udp_candidates,
            changed,
            keeps_key: false,
            routing: Some(Routing {
                start: Arc::clone(&self.start),
                wish_tx,
                names: standing.names,
                survey: standing.survey,
                notes: standing.notes,
                resolvers: standing.resolvers,
                upstream_rx,
                ranges,
            }),
        };
        let keeper = tokio::spawn(keeper.keep());
        self.board.connected(now());
        let end = tokio::select! {
            end = self.board.end_wanted() => end,
            usurped = control.serve(&mut self.seat) => End::Trouble(usurped.to_string()),
        };
        self.board.update(|report| report.state = State::Ending);
        keeper.abort();
        changes.abort();
        let peer = peer_rx.borrow().clone();
        goodbye::goodbye(&driver, &peer).await;
        stop.cancel();
        let reason = match end {
            End::Wanted => None,
            End::Trouble(why) => Some(why),
        };
        (Ok(reason), network.await.ok())
    }

    /// Undoes everything, then says so.
    async fn end(
        self,
        outcome: Result<Option<String>, Failure>,
        helper: Option<HelperConnection>,
        control: Control,
    ) -> ExitCode {
        self.figures.stop_driver().await;
        let notes = match helper {
            Some(helper) => release(helper).await,
            None => Vec::new(),
        };
        if self.start.program.is_some() && outcome.is_ok() {
            // One for each program would pile up.
            let _ = std::fs::remove_file(self.start.places.log(&self.name));
        }
        self.seat.leave();
        let (reply, code) = match outcome {
            Ok(reason) => (Reply::Ended { reason, notes }, ExitCode::SUCCESS),
            Err(failure) => (Reply::Failed(failure), ExitCode::FAILURE),
        };
        tracing::info!(?reply, "the session is over");
        self.board.finish(reply);
        control.finish().await;
        code
    }
}

/// Has the session's file take what is logged from now on.
fn log_to(places: &Places, name: &SessionName) -> anyhow::Result<()> {
    let file = places.open_log(name)?;
    handover::redirect(&file)?;
    Ok(())
}

/// What is reported of a session before anything was done.
pub(crate) fn first_report(places: &Places, name: &SessionName, holder: &Holder) -> SessionReport {
    SessionReport {
        name: name.clone(),
        state: State::Connecting,
        trouble: None,
        context: holder.context.clone(),
        namespace: holder.namespace.clone(),
        server: holder.server.clone(),
        pid: holder.process.pid,
        log: places.log(name),
        connected_seconds: None,
        gateway: None,
        carrier: None,
        carriers: Vec::new(),
        offload: None,
        network: None,
        exposure: None,
        traffic: TrafficReport::default(),
        notes: Vec::new(),
    }
}

async fn end_on_signals(board: Arc<Board>) {
    let kinds = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ];
    let waits = kinds
        .into_iter()
        .filter_map(|kind| signal(kind).ok())
        .map(|mut signal| {
            Box::pin(async move {
                signal.recv().await;
            })
        });
    futures::future::select_all(waits).await;
    board.end(End::Wanted);
}

/// Ends the session with the program that has it.
async fn end_with(program: Process, board: Arc<Board>) {
    if let Err(error) = program.ended().await {
        tracing::warn!(
            error = format!("{error:#}"),
            "the program cannot be watched"
        );
    }
    board.end(End::Wanted);
}

/// Has the helper undo everything; what the user should know about that.
async fn release(helper: HelperConnection) -> Vec<String> {
    match helper.release().await {
        Ok(changed) => changed.refused.into_iter().chain(changed.notes).collect(),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "the helper did not confirm that all is undone"
            );
            vec![format!(
                "it is not certain that routes and names were put back ({error:#}); `kvpn disconnect` makes sure"
            )]
        }
    }
}
