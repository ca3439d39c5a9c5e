//! Sees to an exposure that is in effect: takes it up again with another gateway, gives it back when the gateway is gone, ends
//! when somebody else wanted that.

use std::time::{Duration, Instant};

use kvpn_k8s::{Error as ClusterError, ExposedService};
use kvpn_wire::control::{ACTIVE_STATE, LiveEvent, StateEvent};
use tokio::sync::mpsc;

use crate::agent::driver::Reading;
use crate::agent::exposure::exposing::{Exposing, may_pass};
use crate::agent::exposure::judge::{Found, Judge, Step};
use crate::agent::now;
use crate::cli::failure::{FAILED, Failure};
use crate::os::platform::time_asleep;

/// How often it is thought about.
const TICK: Duration = Duration::from_millis(250);
/// A sleep of the machine that the gateway does not take for its end.
const NAP: Duration = Duration::from_secs(2);
/// How long the API server may take to show a Service.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// How long somebody else's exposure may be in the way after an interruption: of a session that died, as a rule.
const TAKEN_LIMIT: Duration = Duration::from_secs(30);

impl Exposing {
    /// Keeps the exposure in effect for as long as that is possible; then why not.
    pub(crate) async fn keep(&mut self, live_tx: Option<&mpsc::Sender<LiveEvent>>) -> Failure {
        let mut judge = Judge::new(now());
        let mut taken_since = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut peer_rx = self.stack.peer_rx.clone();
        let mut asleep = time_asleep();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = peer_rx.changed() => match changed {
                    Ok(()) => judge.replaced(now()),
                    Err(_) => return Failure::new(FAILED, "the session's driver ended"),
                },
            }
            // The clock stood still meanwhile, and the gateway's did not.
            let before = std::mem::replace(&mut asleep, time_asleep());
            if asleep.saturating_sub(before) > NAP {
                judge.replaced(now());
            }
            judge.heard(self.heard_ago().await, now());
            let done = match judge.step(now()) {
                Step::Wait => None,
                Step::Expose => self.again(&mut judge, &mut taken_since, live_tx).await,
                Step::GiveBack => {
                    self.leave_to_the_origin(&mut judge, live_tx).await;
                    None
                }
                Step::Look => self.look(&mut judge).await,
            };
            if let Some(failure) = done {
                return failure;
            }
        }
    }

    /// How long ago the gateway was heard on the path in use.
    async fn heard_ago(&self) -> Option<Duration> {
        let Reading { status, .. } = self.stack.driver.status().await?;
        let mut paths = status.paths.iter();
        let current = paths.find(|path| Some(path.path) == status.path)?;
        current.received_ago.filter(|_| status.established)
    }

    async fn again(
        &mut self,
        judge: &mut Judge,
        taken_since: &mut Option<Instant>,
        live_tx: Option<&mpsc::Sender<LiveEvent>>,
    ) -> Option<Failure> {
        match self.take_effect_again().await {
            Ok(()) => {
                *taken_since = None;
                judge.exposed(now());
                self.board.recovered();
                self.tell(ACTIVE_STATE, live_tx).await;
                None
            }
            Err(error) if self.may_pass(&error, taken_since) => {
                tracing::info!(error = format!("{error:#}"), "not in effect again yet");
                self.board.trouble(format!("{error:#}"));
                judge.failed(now());
                None
            }
            Err(error) => Some(Failure::of(
                &error.context("the exposure cannot be taken up again"),
            )),
        }
    }

    fn may_pass(&self, error: &anyhow::Error, taken_since: &mut Option<Instant>) -> bool {
        let is_taken = error
            .chain()
            .any(|cause| matches!(cause.downcast_ref(), Some(ClusterError::Taken { .. })));
        if !is_taken {
            return may_pass(error);
        }
        let since = *taken_since.get_or_insert_with(now);
        now().saturating_duration_since(since) < TAKEN_LIMIT
    }

    async fn leave_to_the_origin(
        &self,
        judge: &mut Judge,
        live_tx: Option<&mpsc::Sender<LiveEvent>>,
    ) {
        match self.give_back().await {
            Ok(_) => {
                judge.gave_back();
                self.tell("origin: the gateway does not answer", live_tx)
                    .await;
            }
            Err(error) => {
                tracing::info!(error = format!("{error:#}"), "the Service is not put back");
                judge.failed(now());
            }
        }
    }

    async fn look(&self, judge: &mut Judge) -> Option<Failure> {
        let (namespace, service) = self.place();
        let exposed = self.cluster.exposed_service(&namespace, &service);
        let found = match tokio::time::timeout(LOOK_LIMIT, exposed).await {
            Ok(Ok(exposed)) => Some(found(exposed.as_ref(), self.session())),
            Ok(Err(_)) | Err(_) => None,
        };
        if found == Some(Found::Changed) {
            tracing::warn!("somebody changed the Service; it is led here again");
        }
        judge.looked(found, now()).then(|| {
            let message = format!(
                "the exposure of Service {namespace}/{service} was ended by somebody else: the Service was put back (`kvpn restore`), or replaced"
            );
            Failure::new(FAILED, message).hint("expose it again, if they agree")
        })
    }

    /// Tells who looks on how the exposure is.
    async fn tell(&self, state: &str, live_tx: Option<&mpsc::Sender<LiveEvent>>) {
        tracing::info!(state, "exposure");
        let (namespace, service) = self.place();
        let event = StateEvent {
            namespace,
            service,
            state: state.to_owned(),
        };
        if let Some(live_tx) = live_tx {
            // Who does not look on any more does not matter.
            let _ = live_tx.send(LiveEvent::State(event)).await;
        }
    }
}

fn found(exposed: Option<&ExposedService>, session: &str) -> Found {
    match exposed {
        Some(service) if service.annotation.owner(session).is_some() => {
            if service.complete {
                Found::InEffect
            } else {
                Found::Changed
            }
        }
        Some(_) | None => Found::NotOurs,
    }
}
