//! The steps that lead a Service here, and the way back. Each may be done again, and the way back may be gone from anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kvpn_k8s::{
    Claim, Cluster, Error as ClusterError, ExposureWish, GatewayPod, Inspection, Restored, Whose,
};
use kvpn_wire::control::Exposed;
use kvpn_wire::exposure::Protocol;
use kvpn_wire::packet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::board::Board;
use crate::agent::driver::{Handle, Reading};
use crate::agent::exposure::control::{Control, Refused};
use crate::agent::exposure::{Prepared, Wanted, denied};
use crate::agent::opening::Opening;
use crate::agent::report::ExposureReport;
use crate::agent::session::Peer;
use crate::agent::stack::Stack;
use crate::agent::wall_clock;
use crate::cli::failure::{FAILED, Failure};

/// How long giving a Service back may take.
const RESTORE_LIMIT: Duration = Duration::from_secs(10);
/// How long the steps that lead a Service here may take, when they are done again.
const STEPS_LIMIT: Duration = Duration::from_secs(30);
/// How long connections to programs here may go on after the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How often it is asked whether they are done.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// An exposure and its session.
pub(crate) struct Exposing {
    pub(super) cluster: Cluster,
    pub(super) board: Arc<Board>,
    pub(super) stack: Stack,
    wish: ExposureWish,
    claim: Claim,
    takeover: bool,
}

impl Exposing {
    /// Opens the session. The Service is not touched. `former` is the session of a process that died with this exposure.
    ///
    /// # Errors
    ///
    /// As [`Stack::open`].
    pub(crate) async fn open(
        opening: &Opening<'_>,
        wanted: &Wanted,
        prepared: Prepared,
        former: Option<String>,
    ) -> anyhow::Result<Self> {
        let stack = Stack::open(opening, prepared.gateway.clone(), &[]).await?;
        let wish = wanted.wish(opening.cluster, &prepared.gateway);
        let (cluster, board) = (opening.cluster.clone(), Arc::clone(opening.board));
        Ok(Self::new(
            cluster,
            board,
            stack,
            wish,
            prepared.inspection,
            former,
        ))
    }

    pub(super) fn new(
        cluster: Cluster,
        board: Arc<Board>,
        stack: Stack,
        wish: ExposureWish,
        inspection: Inspection,
        former: Option<String>,
    ) -> Self {
        let claim = Claim {
            namespace: wish.namespace.clone(),
            service: wish.service.clone(),
            session: stack.fingerprint.clone(),
            replaces: former,
            gateway: wish.gateway.clone(),
            since: kvpn_k8s::since(wall_clock()),
            expose: inspection.expose,
        };
        Self {
            cluster,
            board,
            stack,
            wish,
            claim,
            takeover: inspection.takeover,
        }
    }

    /// Leads the Service here: claim, gateway, shadow, swap. What is done already changes nothing.
    ///
    /// # Errors
    ///
    /// The step that failed; [`Exposing::end`] undoes the others.
    pub(crate) async fn take_effect(&mut self) -> anyhow::Result<()> {
        let (namespace, service) = self.place();
        self.stack.driver.expose(self.laptop_ports()).await;
        self.board
            .step(format!("claiming Service {namespace}/{service}"));
        self.go_to_the_gateway().await?;
        if let Err(error) = self.cluster.claim_service(&self.claim).await {
            return Err(denied(&self.cluster, error).await);
        }
        self.board.step("waiting for the gateway to listen");
        let exposed = self.put().await?;
        self.board.step("leading the Service to the gateway");
        let led = async {
            self.cluster.shadow_service(&namespace, &service).await?;
            let session = &self.claim.session;
            self.cluster
                .swap_service(&namespace, &service, session, &exposed)
                .await
        };
        if let Err(error) = led.await {
            return Err(denied(&self.cluster, error).await);
        }
        Ok(())
    }

    /// The same, when it was in effect before: gateway and Service may have become others meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Exposing::take_effect`], or it takes longer than 30 s.
    pub(super) async fn take_effect_again(&mut self) -> anyhow::Result<()> {
        let steps = async {
            self.go_to_the_gateway().await?;
            let inspection = self.cluster.inspect_service(&self.wish).await?;
            if inspection.takeover != self.takeover {
                let (namespace, service) = self.place();
                let message =
                    format!("Service {namespace}/{service} was deleted or replaced by somebody");
                return Err(Failure::new(FAILED, message).into());
            }
            self.claim.expose = inspection.expose;
            self.take_effect().await
        };
        tokio::time::timeout(STEPS_LIMIT, steps)
            .await
            .context("the API server or the gateway does not answer")?
    }

    /// A claim names the pod that the session is with. A Service that leads to another one goes by way of its origin.
    async fn go_to_the_gateway(&mut self) -> anyhow::Result<()> {
        let GatewayPod { name, .. } = self.stack.peer_rx.borrow().gateway.clone();
        if self.claim.gateway == name {
            return Ok(());
        }
        self.give_back().await?;
        self.claim.gateway.clone_from(&name);
        self.wish.gateway = name;
        Ok(())
    }

    async fn put(&self) -> anyhow::Result<Exposed> {
        let (namespace, service) = self.place();
        let control = self.control();
        let answer = control.put(&namespace, &service, &self.claim.expose).await;
        answer.map_err(Refused::into_error)
    }

    /// Gives the Service back to its origin, as far as this session is concerned.
    ///
    /// # Errors
    ///
    /// The API server does not answer within 10 s, or refuses.
    pub(super) async fn give_back(&self) -> anyhow::Result<Restored> {
        let (namespace, service) = self.place();
        let whose = Whose::Session(self.claim.session.clone());
        let restored = self.cluster.restore_service(&namespace, &service, &whose);
        tokio::time::timeout(RESTORE_LIMIT, restored)
            .await
            .context("the API server does not answer")?
            .map_err(anyhow::Error::from)
    }

    /// Undoes everything, from wherever the steps got to; what the user should know about that. `hurry`: nothing is waited for.
    pub(crate) async fn end(self, hurry: &CancellationToken) -> Vec<String> {
        let (namespace, service) = self.place();
        self.board
            .step(format!("giving Service {namespace}/{service} back"));
        let restored = at_most(self.give_back(), hurry).await;
        let note = |error: &anyhow::Error| {
            format!(
                "Service {namespace}/{service} could not be put back: {error:#}; the gateway does it as soon as it can; `kvpn -n {namespace} restore {service}` makes sure"
            )
        };
        let notes = restored.as_ref().err().map(note).into_iter().collect();
        let control = self.control();
        match at_most(control.delete(&namespace, &service), hurry).await {
            Ok(()) => self.drain(hurry).await,
            Err(error) => {
                tracing::info!(error = format!("{error:#}"), "the gateway was not told");
                self.sweep(&restored).await;
            }
        }
        self.stack.goodbye().await;
        notes
    }

    /// The gateway removes the shadow when it no longer needs it. Without the gateway nobody does.
    async fn sweep(&self, restored: &anyhow::Result<Restored>) {
        let (namespace, service) = self.place();
        if !matches!(restored, Ok(Restored::Service)) || !self.takeover {
            return;
        }
        let removed = self.cluster.remove_shadow(&namespace, &service);
        match tokio::time::timeout(RESTORE_LIMIT, removed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the shadow Service is left"),
            Err(_) => tracing::info!("the shadow Service is left"),
        }
    }

    /// Lets open connections to programs here end by themselves, for a while.
    async fn drain(&self, hurry: &CancellationToken) {
        let driver = &self.stack.driver;
        driver.expose(BTreeSet::new()).await;
        let drained = async {
            let mut told = 0;
            while let Some(Reading { laptop_flows, .. }) = driver.status().await
                && laptop_flows > 0
            {
                if told != laptop_flows {
                    let text = format!("waiting for {laptop_flows} connection(s) to end");
                    self.board.step(text);
                    told = laptop_flows;
                }
                tokio::time::sleep(DRAIN_LOOK).await;
            }
            Ok(())
        };
        // Those that do not end by themselves end with the session.
        let _ = tokio::time::timeout(DRAIN_LIMIT, at_most(drained, hurry)).await;
    }

    /// What is exposed, for reports.
    pub(crate) fn report(&self) -> ExposureReport {
        ExposureReport {
            service: self.claim.service.clone(),
            takeover: self.takeover,
            ports: self.claim.expose.ports.clone(),
            traffic: self.claim.expose.traffic.clone(),
            session: self.claim.session.clone(),
        }
    }

    /// The fingerprint of the session.
    pub(crate) fn session(&self) -> &str {
        &self.claim.session
    }

    /// Namespace and Service.
    pub(super) fn place(&self) -> (String, String) {
        (self.claim.namespace.clone(), self.claim.service.clone())
    }

    /// The gateway's control API, as it is now.
    pub(super) fn control(&self) -> Control {
        Control {
            driver: self.stack.driver.clone(),
            peer: self.stack.peer_rx.borrow().clone(),
        }
    }

    /// What the live view reads from.
    pub(super) fn session_parts(&self) -> (Handle, watch::Receiver<Peer>) {
        (self.stack.driver.clone(), self.stack.peer_rx.clone())
    }

    fn laptop_ports(&self) -> BTreeSet<(packet::Protocol, u16)> {
        let ports = self.claim.expose.ports.iter();
        ports
            .filter_map(|port| {
                let protocol = match port.protocol {
                    Protocol::Tcp => packet::Protocol::Tcp,
                    Protocol::Udp => packet::Protocol::Udp,
                };
                Some((protocol, port.laptop_port?))
            })
            .collect()
    }
}

/// The work, unless the user does not want to wait for it.
async fn at_most<T>(
    work: impl Future<Output = anyhow::Result<T>>,
    hurry: &CancellationToken,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        () = hurry.cancelled() => Err(anyhow::anyhow!("interrupted")),
    }
}

/// Whether another attempt may succeed.
pub(super) fn may_pass(error: &anyhow::Error) -> bool {
    if error.chain().any(|cause| cause.is::<Failure>()) {
        return false;
    }
    let cluster = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ClusterError>());
    match cluster {
        None => true,
        Some(error) => !matches!(
            error,
            ClusterError::Forbidden { .. }
                | ClusterError::NotFound { .. }
                | ClusterError::Refused { .. }
        ),
    }
}
