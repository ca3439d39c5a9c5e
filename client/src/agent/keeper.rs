//! Keeps a session that stands: renews its right, opens carriers again, finds the gateway again when it was
//! replaced. Tries for as long as the user wants the session. With a TUN it also follows the cluster's ranges and names
//! ([`routing`]).

mod routing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use kvpn_k8s::{Cluster, Error as ClusterError, Forward, GatewayPod};
use kvpn_wire::API_CARRIER_PORT;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::agent::board::Board;
use crate::agent::driver::{Command, Handle, Occurrence, Reading, Replacement};
use crate::agent::message::{Access, Carrier};
use crate::agent::session::{self, Keys, Peer};
use crate::agent::{gateway, laptop, now};

pub(crate) use routing::{Routing, Survey};

/// How often the right to the session is proved anew.
const RENEWAL: Duration = Duration::from_secs(600);
/// When a renewal that failed is tried again.
const RENEWAL_AGAIN: Duration = Duration::from_secs(30);
/// How long one attempt may take. Every request in it has a bound of its own; this one is for a slow credential
/// plugin among them.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(90);
/// How long a gateway may take to become ready in one attempt.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// How long a carrier or session that was just opened may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long a gateway that is there may take to answer on one of its carriers.
const ANSWER_SOON: Duration = Duration::from_secs(1);
/// How often it is asked meanwhile whether it did.
const LOOK: Duration = Duration::from_millis(50);
/// A path that works has carried something within this time: it is probed when idle for 5 s.
const IDLE: Duration = Duration::from_secs(6);
/// The pause after the first failed attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A session that stands, and what keeps it.
pub(crate) struct Keeper {
    pub(crate) cluster: Cluster,
    pub(crate) access: Arc<Access>,
    pub(crate) board: Arc<Board>,
    pub(crate) gateway: GatewayPod,
    pub(crate) keys: Keys,
    pub(crate) driver: Handle,
    /// driver --news of paths--> keeper
    pub(crate) occurrence_rx: mpsc::Receiver<Occurrence>,
    /// Addresses at which the gateway may answer UDP.
    pub(crate) udp_candidates: Vec<SocketAddr>,
    /// The machine's network changed, or it slept.
    pub(crate) changed: Arc<Notify>,
    /// keeper --the other end as it is now--> whoever uses the session
    pub(crate) peer_tx: watch::Sender<Peer>,
    /// Whether another gateway gets the key that the session has; a fresh one otherwise.
    pub(crate) keeps_key: bool,
    /// What is routed into the session, if it has a TUN.
    pub(crate) routing: Option<Routing>,
}

impl Keeper {
    /// Keeps the session until this is cancelled, or the driver is gone.
    pub(crate) async fn keep(mut self) {
        let mut namespaces = self.namespaces();
        let mut renewal = Instant::now() + RENEWAL;
        loop {
            tokio::select! {
                occurrence = self.occurrence_rx.recv() => match occurrence {
                    Some(occurrence) => self.occurred(occurrence).await,
                    None => return,
                },
                Some(list) = namespaces.next() => match list {
                    Ok(list) => self.namespaces_changed(&list).await,
                    Err(error) => tracing::info!(%error, "namespaces are not watched"),
                },
                () = tokio::time::sleep_until(renewal) => {
                    let again = if self.renewed().await { RENEWAL } else { RENEWAL_AGAIN };
                    self.look_again().await;
                    renewal = Instant::now() + again;
                }
                () = routing::others_changed(self.routing.as_ref()) => self.plan_again().await,
                () = self.changed.notified() => {
                    // A stream that a change of networks killed breaks without a word.
                    self.call_anew();
                    if self.access.carrier != Carrier::Udp {
                        self.open_api().await;
                    }
                }
            }
        }
    }

    async fn occurred(&mut self, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Established(path) => {
                tracing::info!(%path, "the tunnel works");
                self.board.recovered();
            }
            Occurrence::PathChanged(from, to) => {
                tracing::info!(%from, %to, "packets take another carrier")
            }
            Occurrence::ApiLost(why) => {
                tracing::info!(why, "the stream through the API server broke")
            }
            Occurrence::ApiWanted => self.open_api().await,
            Occurrence::Quiet => self.recover("the gateway does not answer".to_owned()).await,
        }
    }

    async fn open_api(&mut self) {
        match tokio::time::timeout(ATTEMPT_LIMIT, self.api(&self.gateway)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(stream))) => {
                self.driver.tell(Command::Api(stream)).await;
                // The gateway may have restarted in its place, and know the session no more.
                self.renewed().await;
            }
            Ok(Err(error)) => self.without_api(error.to_string(), is_gone(&error)).await,
            Err(_) => {
                let why = "the API server does not answer".to_owned();
                self.without_api(why, false).await;
            }
        }
    }

    /// The stream cannot be opened. While packets flow another way that is no trouble: the core asks for it again.
    async fn without_api(&mut self, why: String, gateway_is_gone: bool) {
        if !gateway_is_gone && self.works().await {
            tracing::info!(why, "no stream through the API server for now");
            self.call_anew();
        } else {
            self.recover(why).await;
        }
    }

    /// Whether the gateway answers on the path in use, as far as is known without asking it.
    async fn works(&self) -> bool {
        self.heard_within(IDLE).await
    }

    /// Whether something came from the gateway on the path in use within this time.
    async fn heard_within(&self, limit: Duration) -> bool {
        let Some(Reading { status, .. }) = self.driver.status().await else {
            return false;
        };
        let mut paths = status.paths.iter();
        let current = paths.find(|path| Some(path.path) == status.path);
        let heard = current.and_then(|path| path.received_ago);
        status.established && heard.is_some_and(|ago| ago <= limit)
    }

    /// Finds a way back, for as long as it takes.
    async fn recover(&mut self, why: String) {
        tracing::warn!(why, "the session is interrupted");
        self.board.trouble(why);
        let mut pause = FIRST_PAUSE;
        let mut told = String::new();
        self.call_anew();
        let changed = Arc::clone(&self.changed);
        loop {
            let attempt = tokio::select! {
                attempt = tokio::time::timeout(ATTEMPT_LIMIT, self.come_back()) => attempt,
                () = changed.notified() => {
                    self.call_anew();
                    continue;
                }
            };
            let attempt =
                attempt.unwrap_or_else(|_| Err(anyhow::anyhow!("the API server does not answer")));
            let wait = match attempt {
                Ok(()) => ANSWER_LIMIT,
                Err(error) => {
                    self.not_back(&error, &mut told);
                    pause
                }
            };
            tokio::select! {
                answered = self.answered_within(wait) => {
                    if answered {
                        return self.is_back().await;
                    }
                }
                () = changed.notified() => self.call_anew(),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn is_back(&mut self) {
        self.board.recovered();
        self.look_again().await;
    }

    /// An attempt failed; the log hears of each reason once.
    fn not_back(&mut self, error: &anyhow::Error, told: &mut String) {
        let why = format!("{error:#}");
        if *told != why {
            tracing::info!(why, "not back yet");
            told.clone_from(&why);
        }
        if is_about_the_api_server(error) {
            self.call_anew();
        }
        self.board.trouble(why);
    }

    /// Leaves connections behind that a change of networks may have killed without a word, and reads the kubeconfig
    /// again: its credentials may have been renewed.
    fn call_anew(&mut self) {
        match Cluster::load(&self.access.kube.options(false)) {
            Ok(cluster) if cluster.server() == self.cluster.server() => self.cluster = cluster,
            Ok(_) => tracing::debug!(
                "the kubeconfig names another API server now; the session keeps its own"
            ),
            Err(error) => tracing::debug!(%error, "the kubeconfig cannot be read again"),
        }
    }

    /// One attempt: the gateway as it is now, a carrier to it, a session with it.
    async fn come_back(&mut self) -> anyhow::Result<()> {
        let places = gateway::namespaces(&self.access, &self.cluster);
        let found = self.find_gateway(&places).await?;
        let found = found.with_context(|| {
            format!(
                "there is no gateway in namespace {} any more",
                places.join(" and ")
            )
        })?;
        let found = if found.ready {
            found
        } else {
            self.until_ready(&found.namespace).await?
        };
        let replaced = found.uid != self.gateway.uid;
        let private = if replaced && !self.keeps_key {
            session::new_key()?
        } else {
            self.keys.private.clone()
        };
        let keys = self.session(&found, private);
        let (keys, api, endpoints) = tokio::join!(keys, self.api(&found), self.endpoints(&found));
        self.adopt(found, keys?).await?;
        self.set_candidates(endpoints).await;
        if let Some(api) = api? {
            self.driver.tell(Command::Api(api)).await;
        }
        Ok(())
    }

    /// The pod of the session's name, if it is ready: with several gateways others may share what the session has there. Else
    /// the best one.
    async fn find_gateway(&self, places: &[&str]) -> Result<Option<GatewayPod>, ClusterError> {
        let own = &self.gateway;
        if places.contains(&own.namespace.as_str()) {
            let pods = self.cluster.gateway_pods(&own.namespace).await;
            let mut pods = pods.unwrap_or_default().into_iter();
            if let Some(same) = pods.find(|pod| pod.name == own.name && pod.ready) {
                return Ok(Some(same));
            }
        }
        self.cluster.find_gateway(places).await
    }

    async fn until_ready(&self, namespace: &str) -> Result<GatewayPod, ClusterError> {
        let mut progress = |progress: kvpn_k8s::Progress| {
            self.board
                .trouble(format!("waiting for the gateway: {progress}"))
        };
        self.cluster
            .wait_ready_again(namespace, READY_LIMIT, &mut progress)
            .await
    }

    async fn session(
        &self,
        gateway: &GatewayPod,
        private: kvpn_wire::wireguard::PrivateKey,
    ) -> anyhow::Result<Keys> {
        let machine = laptop::look().await?;
        let name = self.board.report(now()).name.to_string();
        let request = session::request(&private, &machine, &self.keys.grant.addresses, name);
        let grant = self.cluster.create_session(gateway, &request).await?;
        Ok(Keys { private, grant })
    }

    async fn api(&self, gateway: &GatewayPod) -> Result<Option<Forward>, ClusterError> {
        match self.access.carrier {
            Carrier::Auto | Carrier::Api => self
                .cluster
                .forward(gateway, API_CARRIER_PORT)
                .await
                .map(Some),
            Carrier::Udp => Ok(None),
        }
    }

    /// Where UDP may reach the gateway; `None` when that cannot be seen, or is of no interest.
    async fn endpoints(&self, gateway: &GatewayPod) -> Option<Vec<SocketAddr>> {
        match self.access.carrier {
            Carrier::Auto | Carrier::Udp => self.cluster.udp_endpoints(gateway).await.ok(),
            Carrier::Api => None,
        }
    }

    async fn set_candidates(&mut self, endpoints: Option<Vec<SocketAddr>>) {
        let Some(endpoints) = endpoints else { return };
        let candidates = session::candidates(endpoints, &self.keys.grant);
        if candidates != self.udp_candidates {
            tracing::info!(
                count = candidates.len(),
                "the gateway answers UDP elsewhere now"
            );
            self.udp_candidates.clone_from(&candidates);
            self.driver.tell(Command::UdpCandidates(candidates)).await;
        }
    }

    /// Goes on with what the gateway granted: the session as it was, or a new one.
    async fn adopt(&mut self, gateway: GatewayPod, keys: Keys) -> anyhow::Result<()> {
        let same = session::is_same(&self.keys.grant, &keys.grant);
        if !same {
            tracing::info!(pod = gateway.name, "a new session takes over");
            let (private_key, grant) = (keys.private.clone(), keys.grant.clone());
            let replacement = Replacement {
                private_key,
                grant,
                index: session::new_index(),
            };
            self.driver
                .tell(Command::Replace(Box::new(replacement)))
                .await;
        }
        let end = session::gateway_report(&gateway, &keys.grant);
        self.board.update(|report| report.gateway = Some(end));
        let addresses = session::blocks(&keys.grant)?;
        (self.gateway, self.keys) = (gateway, keys);
        self.wish(|wish| wish.addresses = addresses);
        if !same {
            self.peer_tx
                .send_replace(Peer::new(&self.gateway, &self.keys.grant));
        }
        Ok(())
    }

    /// Whether the gateway answers from now on, be it in a session that stood before and may never have broken.
    async fn answered_within(&mut self, limit: Duration) -> bool {
        let begun = Instant::now();
        while let Some(left) = limit.checked_sub(begun.elapsed()) {
            match tokio::time::timeout(LOOK.min(left), self.occurrence_rx.recv()).await {
                Ok(Some(Occurrence::Established(path))) => {
                    tracing::info!(%path, "the tunnel works again");
                    return true;
                }
                Ok(Some(_)) => {}
                // The driver is gone, and the session with it.
                Ok(None) => return true,
                Err(_) if self.heard_within(begun.elapsed()).await => return true,
                Err(_) => {}
            }
        }
        false
    }

    /// Proves anew that the user may; false when that is to be tried again.
    async fn renewed(&mut self) -> bool {
        let Err(error) = self.renew().await else {
            return true;
        };
        let why = format!("{error:#}");
        tracing::warn!(why, "the session could not be renewed; it is tried again");
        if !takes_no_connections(&error) {
            return false;
        }
        // The pod is there, and the gateway in it is not: unless every carrier says otherwise it is being restarted.
        self.driver.tell(Command::NetworkChanged).await;
        let is_there = self.answered_within(ANSWER_SOON).await;
        if !is_there {
            self.recover(why).await;
        }
        !is_there
    }

    async fn renew(&mut self) -> anyhow::Result<()> {
        let gateway = self.gateway.clone();
        let renewal = tokio::time::timeout(
            ATTEMPT_LIMIT,
            self.session(&gateway, self.keys.private.clone()),
        );
        match renewal.await {
            Ok(Ok(keys)) => self.adopt(gateway, keys).await,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(anyhow::anyhow!("the API server does not answer")),
        }
    }
}

/// Whether the pod that was forwarded to is no more.
fn is_gone(error: &ClusterError) -> bool {
    matches!(error, ClusterError::NotFound { .. })
}

/// Whether nobody listens in the pod that was forwarded to.
fn takes_no_connections(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        matches!(
            cause.downcast_ref(),
            Some(ClusterError::Forward { .. } | ClusterError::NotFound { .. })
        )
    })
}

fn is_about_the_api_server(error: &anyhow::Error) -> bool {
    let cause = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ClusterError>());
    matches!(
        cause,
        None | Some(ClusterError::Unreachable { .. } | ClusterError::Unauthorized { .. })
    )
}

#[cfg(test)]
mod tests;
