//! The steps that lead a Service here, and the way back. Each may be done again, and the way back may be gone from anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kvpn_k8s::{Claim, Cluster, Error as ClusterError, GatewayPod, Inspection, Restored, Whose};
use kvpn_wire::control::Exposed;
use kvpn_wire::exposure::Protocol;
use kvpn_wire::packet;
use tokio::sync::{Notify, watch};

use crate::agent::board::Board;
use crate::agent::driver::{Handle, Reading};
use crate::agent::exposure::control::{Control, Refused};
use crate::agent::exposure::{Prepared, Wanted, denied};
use crate::agent::opening::Opening;
use crate::agent::report::ExposureReport;
use crate::agent::session::Peer;
use crate::agent::stack::Stack;
use crate::agent::wall_clock;
use crate::cli::failure::Failure;

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
    claim: Claim,
    takeover: bool,
    /// Where the gateway listened last.
    exposed: Option<Exposed>,
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
        let Prepared {
            gateway,
            inspection: Inspection {
                takeover, expose, ..
            },
        } = prepared;
        let stack = Stack::open(opening, gateway.clone(), &[]).await?;
        let claim = Claim {
            namespace: gateway.namespace,
            service: wanted.service.clone(),
            session: stack.fingerprint.clone(),
            replaces: former,
            gateway: gateway.name,
            since: kvpn_k8s::since(wall_clock()),
            expose,
        };
        Ok(Self {
            cluster: opening.cluster.clone(),
            board: Arc::clone(opening.board),
            stack,
            claim,
            takeover,
            exposed: None,
        })
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
        self.exposed = Some(exposed);
        Ok(())
    }

    /// The same, when it was in effect before.
    ///
    /// # Errors
    ///
    /// As [`Exposing::take_effect`], or it takes longer than 30 s.
    pub(super) async fn take_effect_again(&mut self) -> anyhow::Result<()> {
        tokio::time::timeout(STEPS_LIMIT, self.take_effect())
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
        self.claim.gateway = name;
        self.exposed = None;
        Ok(())
    }

    async fn put(&self) -> anyhow::Result<Exposed> {
        let (namespace, service) = self.place();
        let control = self.control();
        let mut expose = self.claim.expose.clone();
        for port in &mut expose.ports {
            let former = self.exposed.iter().flat_map(|exposed| &exposed.ports);
            let mut former =
                former.filter(|led| (led.port, led.protocol) == (port.port, port.protocol));
            port.gateway_port = former
                .next()
                .map(|led| led.gateway_port)
                .or(port.gateway_port);
        }
        let answer = match control.put(&namespace, &service, &expose).await {
            // Somebody else has it now: a Service that is not led there yet can go elsewhere.
            Err(Refused::PortInUse) => control.put(&namespace, &service, &self.claim.expose).await,
            answer => answer,
        };
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

    /// Undoes everything, from wherever the steps got to; what the user should know about that.
    pub(crate) async fn end(self, hurry: &Notify) -> Vec<String> {
        let mut notes = Vec::new();
        let (namespace, service) = self.place();
        self.board
            .step(format!("giving Service {namespace}/{service} back"));
        let restored = self.give_back().await;
        if let Err(error) = &restored {
            notes.push(format!(
                "Service {namespace}/{service} could not be put back: {error:#}; the gateway does it as soon as it can; `kvpn -n {namespace} restore {service}` makes sure"
            ));
        }
        let control = self.control();
        let deleted = tokio::select! {
            deleted = control.delete(&namespace, &service) => deleted,
            () = hurry.notified() => Err(anyhow::anyhow!("interrupted")),
        };
        match deleted {
            Ok(()) => self.drain(hurry).await,
            Err(error) => {
                tracing::info!(error = format!("{error:#}"), "the gateway was not told");
                self.sweep(&restored).await;
            }
        }
        control.goodbye().await;
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
    async fn drain(&self, hurry: &Notify) {
        let driver = &self.stack.driver;
        driver.expose(BTreeSet::new()).await;
        let drained = async {
            while let Some(Reading { laptop_flows, .. }) = driver.status().await
                && laptop_flows > 0
            {
                self.board
                    .step(format!("waiting for {laptop_flows} connection(s) to end"));
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        tokio::select! {
            () = drained => {}
            () = tokio::time::sleep(DRAIN_LIMIT) => {}
            () = hurry.notified() => {}
        }
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
