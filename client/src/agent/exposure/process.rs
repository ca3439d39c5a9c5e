//! The process of an exposure: lock and socket, so that there is one and `kvpn unexpose` finds it, and its life from the first step
//! to the last. The same in the foreground and behind.

use std::process::ExitCode;
use std::sync::Arc;

use futures::SinkExt as _;
use kvpn_k8s::Cluster;
use kvpn_wire::control::LiveEvent;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::board::{Board, End};
use crate::agent::control::{Caller, Control, Lines};
use crate::agent::driver::Figures;
use crate::agent::exposure::{Exposing, Prepared, Wanted, events, prepare};
use crate::agent::lock::{self, Held, Holder};
use crate::agent::message::Reply;
use crate::agent::opening::Opening;
use crate::agent::places::SessionName;
use crate::agent::report::State;
use crate::agent::seat::Seat;
use crate::agent::{end_on_signals, first_report, log_to, now};
use crate::cli::failure::{CONFLICT, FAILED, Failure};
use crate::cli::log;

/// A process that may hold an exposure; nothing else was changed.
pub(crate) struct Process {
    cluster: Cluster,
    wanted: Wanted,
    /// What happens, for whoever follows.
    pub(crate) board: Arc<Board>,
    figures: Figures,
    /// Commands find the process here.
    pub(crate) control: Control,
    seat: Seat,
    former: Option<String>,
}

impl Process {
    /// Takes the exposure's lock and socket. `behind`: logs go to the exposure's file.
    ///
    /// # Errors
    ///
    /// Another process of this user has the exposure (exit code 6), or the user's directories cannot be used.
    pub(crate) fn take(wanted: Wanted, cluster: Cluster, behind: bool) -> anyhow::Result<Self> {
        let name =
            SessionName::of_exposure(cluster.context(), cluster.namespace(), &wanted.service);
        wanted.places.create()?;
        if behind {
            log_to(&wanted.places, &name)?;
            log::for_agent(wanted.verbose, wanted.log_format);
        }
        let holder = Holder {
            service: Some(wanted.service.clone()),
            ..Holder::of(&cluster)?
        };
        let former = match lock::look(&wanted.places.lock(&name)) {
            Held::Dead(Some(dead)) if dead.server == holder.server => dead.fingerprint,
            Held::Dead(_) | Held::Alive(_) | Held::Absent => None,
        };
        let board = Arc::new(Board::new(first_report(&wanted.places, &name, &holder)));
        let Some(seat) = Seat::take(&wanted.places, &name, holder)? else {
            return Err(occupied(&wanted, &cluster).into());
        };
        let figures = Figures::default();
        Ok(Self {
            control: Control::new(Arc::clone(&board), figures.clone()),
            cluster,
            wanted,
            board,
            figures,
            seat,
            former,
        })
    }

    /// Looks at cluster and Service, before anything is changed there.
    ///
    /// # Errors
    ///
    /// As [`prepare`], or somebody wanted the end.
    pub(crate) async fn prepare(&mut self) -> anyhow::Result<Prepared> {
        let former = self.former.as_deref();
        tokio::select! {
            prepared = prepare(&self.cluster, &self.wanted, &self.board, former) => prepared,
            _ = self.board.end_wanted() => Err(interrupted().into()),
            usurped = self.control.serve(&mut self.seat) => Err(usurped.into()),
        }
    }

    /// Whether the user has to be asked, in this process or at all.
    pub(crate) fn needs_consent(&self, prepared: &Prepared) -> bool {
        prepared.needs_consent(&self.wanted)
    }

    /// What the user would have to consent to, in words.
    pub(crate) fn question(&self) -> String {
        self.wanted.no_consent(&self.cluster).message
    }

    /// The user consented.
    pub(crate) fn consent(&mut self) {
        self.wanted.takeover = true;
    }

    /// From the session to the end of the exposure; everything is undone when this returns. `hurry`: do not wait for connections.
    /// The failure is why it ended, if nobody wanted that.
    pub(crate) async fn live(
        mut self,
        prepared: anyhow::Result<Prepared>,
        live_tx: Option<mpsc::Sender<LiveEvent>>,
        hurry: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut exposing = None;
        let begun = match prepared {
            Ok(prepared) => self.begin(prepared, &mut exposing).await,
            Err(error) => Err(error),
        };
        let outcome = match (begun, &mut exposing) {
            (Ok(()), Some(exposing)) => self.hold(exposing, live_tx).await,
            (Ok(()), None) => Ok(()),
            (Err(error), _) => Err(Failure::of(&error)),
        };
        let was_in_effect = self.board.is_connected();
        self.board.update(|report| report.state = State::Ending);
        let notes = match exposing {
            Some(exposing) => exposing.end(hurry).await,
            None => Vec::new(),
        };
        self.finish(&outcome, was_in_effect, notes).await;
        outcome
    }

    async fn begin(
        &mut self,
        prepared: Prepared,
        exposing: &mut Option<Exposing>,
    ) -> anyhow::Result<()> {
        if prepared.needs_consent(&self.wanted) {
            return Err(self.wanted.no_consent(&self.cluster).into());
        }
        let opening = Opening {
            cluster: &self.cluster,
            access: &self.wanted.access,
            board: &self.board,
            figures: &self.figures,
        };
        let former = self.former.take();
        let open = Exposing::open(&opening, &self.wanted, prepared, former);
        let opened = tokio::select! {
            opened = open => opened?,
            _ = self.board.end_wanted() => return Err(interrupted().into()),
            usurped = self.control.serve(&mut self.seat) => return Err(usurped.into()),
        };
        let exposing = exposing.insert(opened);
        self.seat.note(exposing.session())?;
        tokio::select! {
            taken = exposing.take_effect() => taken,
            _ = self.board.end_wanted() => Err(interrupted().into()),
            usurped = self.control.serve(&mut self.seat) => Err(usurped.into()),
        }
    }

    /// It is in effect, until somebody wants the end or it cannot go on.
    async fn hold(
        &mut self,
        exposing: &mut Exposing,
        live_tx: Option<mpsc::Sender<LiveEvent>>,
    ) -> Result<(), Failure> {
        self.board
            .update(|report| report.exposure = Some(exposing.report()));
        self.board.connected(now());
        let mut view = JoinSet::new();
        if let Some(live_tx) = &live_tx {
            let (driver, peer_rx) = exposing.session_parts();
            view.spawn(events::follow(driver, peer_rx, live_tx.clone()));
        }
        tokio::select! {
            failure = exposing.keep(live_tx.as_ref()) => Err(failure),
            end = self.board.end_wanted() => match end {
                End::Wanted => Ok(()),
                End::Trouble(why) => Err(Failure::new(FAILED, why)),
            },
            usurped = self.control.serve(&mut self.seat) => Err(Failure::new(FAILED, usurped.to_string())),
        }
    }

    /// The last words, and no trace of the process.
    async fn finish(self, outcome: &Result<(), Failure>, was_in_effect: bool, notes: Vec<String>) {
        self.figures.stop_driver().await;
        self.seat.leave();
        let reply = match outcome {
            Err(failure) if !was_in_effect => Reply::Failed(failure.clone()),
            Err(failure) => Reply::Ended {
                reason: Some(failure.message.clone()),
                notes,
            },
            Ok(()) => Reply::Ended {
                reason: None,
                notes,
            },
        };
        tracing::info!(?reply, "the exposure is over");
        self.board.finish(reply);
        self.control.finish().await;
    }
}

/// The process behind `kvpn expose --detach`.
///
/// # Errors
///
/// The launcher cannot be told what came of it.
pub(crate) async fn serve_detached(
    wanted: Wanted,
    mut launcher: Lines,
) -> anyhow::Result<ExitCode> {
    let process = wanted
        .cluster(false)
        .and_then(|cluster| Process::take(wanted, cluster, true));
    let mut process = match process {
        Ok(process) => process,
        Err(error) => {
            let reply = Reply::Failed(Failure::of(&error));
            launcher.send(serde_json::to_string(&reply)?).await?;
            return Ok(ExitCode::FAILURE);
        }
    };
    process
        .control
        .attend(launcher, Caller::Launcher { foreground: false });
    let signals = tokio::spawn(end_on_signals(Arc::clone(&process.board)));
    let prepared = process.prepare().await;
    let outcome = process
        .live(prepared, None, &CancellationToken::new())
        .await;
    signals.abort();
    Ok(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.code),
    })
}

/// That the user did not want it any more before it was there.
pub(crate) fn interrupted() -> Failure {
    Failure::new(FAILED, "interrupted")
}

fn occupied(wanted: &Wanted, cluster: &Cluster) -> Failure {
    let message = format!(
        "Service {} is exposed already, by another kvpn of yours",
        wanted.full_name(cluster)
    );
    let remedy = format!(
        "end it with `kvpn -n {} unexpose {}`",
        cluster.namespace(),
        wanted.service
    );
    Failure::new(CONFLICT, message).hint(remedy)
}
