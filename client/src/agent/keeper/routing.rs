//! What a session with a TUN follows besides its gateway: the cluster's ranges and namespaces, and what other interfaces of the machine
//! have. Tells the network task what ought to be; sets nothing itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use kvpn_client_core::Names;
use kvpn_k8s::{Discovery, Error as ClusterError};
use tokio::sync::{Notify, watch};

use crate::agent::driver::Command;
use crate::agent::keeper::Keeper;
use crate::agent::laptop::Laptop;
use crate::agent::message::Start;
use crate::agent::network::Wish;
use crate::agent::others::{self, Others};
use crate::agent::ranges::{self, Conflict, Findings, Plan};
use crate::agent::{laptop, names, now, session};

/// How long looking for ranges may keep the keeper from its other work.
const LOOK_AGAIN_LIMIT: Duration = Duration::from_secs(10);

/// What is routed into a session, and who is told when that changes.
pub(crate) struct Routing {
    pub(crate) start: Arc<Start>,
    /// keeper --what the network ought to be like--> the network task
    pub(crate) wish_tx: watch::Sender<Wish>,
    pub(crate) names: Names,
    /// What was learnt of the cluster last.
    pub(crate) survey: Survey,
    /// What the user was told of its ranges.
    pub(crate) notes: Vec<String>,
    /// Other interfaces of the machine have other ranges.
    pub(crate) ranges: Arc<Notify>,
    /// The resolvers that the machine asked before.
    pub(crate) resolvers: Vec<IpAddr>,
    /// the network task --those that it would ask now--> keeper
    pub(crate) upstream_rx: watch::Receiver<Vec<SocketAddr>>,
}

/// The cluster as far as routes depend on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Survey {
    pub(crate) discovery: Discovery,
    /// Where the API server is reached.
    pub(crate) servers: Vec<SocketAddr>,
}

/// Resolves when other interfaces have other ranges; never without a TUN.
pub(super) async fn others_changed(routing: Option<&Routing>) {
    match routing {
        Some(routing) => routing.ranges.notified().await,
        None => std::future::pending().await,
    }
}

impl Keeper {
    /// The cluster's namespaces, all of them again after each change; nothing without a TUN.
    pub(super) fn namespaces(&self) -> BoxStream<'static, Result<Vec<String>, ClusterError>> {
        match self.routing {
            Some(_) => self.cluster.watch_namespaces().boxed(),
            None => stream::pending().boxed(),
        }
    }

    /// Looks what the cluster's ranges are now; what cannot be seen stays as it is.
    pub(super) async fn look_again(&mut self) {
        if self.routing.is_none() {
            return;
        }
        let survey = match tokio::time::timeout(LOOK_AGAIN_LIMIT, self.survey()).await {
            Ok(Ok(survey)) => Some(survey),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the cluster's ranges are taken to be as they were");
                None
            }
            Err(_) => None,
        };
        if let (Some(routing), Some(survey)) = (&mut self.routing, survey) {
            routing.survey = survey;
        }
        self.plan_again().await;
    }

    async fn survey(&self) -> Result<Survey, ClusterError> {
        let discovery = self
            .cluster
            .discover(self.cluster.namespace(), &self.gateway);
        let (discovery, servers) = tokio::join!(discovery, self.cluster.api_server_addresses());
        Ok(Survey {
            discovery: discovery?,
            servers,
        })
    }

    /// Decides anew what is routed, from what is known of the cluster.
    pub(super) async fn plan_again(&mut self) {
        let Some(routing) = &self.routing else { return };
        let plan = match tokio::time::timeout(LOOK_AGAIN_LIMIT, self.plan(routing)).await {
            Ok(Ok(plan)) => plan,
            Ok(Err(error)) => return self.no_plan(&error),
            Err(_) => return tracing::debug!("routes stay as they are: no answer"),
        };
        self.rename(|names| names.reverse = plan.reverse).await;
        self.board.update(|report| {
            if let Some(network) = &mut report.network {
                network.overlaps = plan.overlaps;
            }
        });
        self.say(plan.notes);
        self.wish(|wish| {
            (wish.routes, wish.netmap, wish.outside) = (plan.routes, plan.netmap, plan.outside);
        });
    }

    fn no_plan(&mut self, error: &anyhow::Error) {
        tracing::debug!(error = format!("{error:#}"), "routes stay as they are");
        if let Some(conflict) = error.downcast_ref::<Conflict>() {
            let hint = conflict.hint();
            self.say(vec![format!(
                "{conflict}: {hint}; until then routes stay as they are"
            )]);
        }
    }

    /// Tells the user of ranges, and what was told is so no more.
    fn say(&mut self, notes: Vec<String>) {
        let Some(routing) = &mut self.routing else {
            return;
        };
        for note in routing.notes.iter().filter(|note| !notes.contains(note)) {
            self.board.withdraw(note);
        }
        for note in &notes {
            self.board.note(note);
        }
        routing.notes = notes;
    }

    async fn plan(&self, routing: &Routing) -> anyhow::Result<Plan> {
        let (mut machine, others) = match routing.start.program {
            Some(_) => (Laptop::default(), Others::default()),
            None => (
                laptop::look().await?,
                others::look(&routing.start.places, &self.board.report(now())).await?,
            ),
        };
        // Those from before kvpn's own change of resolv.conf, and those that came since.
        machine.resolvers.extend(&routing.resolvers);
        let upstreams = routing.upstream_rx.borrow().clone();
        let beyond = upstreams.iter().map(SocketAddr::ip);
        (machine.resolvers).extend(beyond.filter(|address| !address.is_loopback()));
        let Survey { discovery, servers } = &routing.survey;
        let endpoints = (servers.iter())
            .chain(&self.udp_candidates)
            .map(SocketAddr::ip);
        let grant = &self.keys.grant;
        let standing = routing.wish_tx.borrow().clone();
        let findings = Findings {
            foreign: others.foreign(&machine),
            standing: standing.routes,
            mappings: standing.netmap.mappings().to_vec(),
            ..Findings::of(&routing.start, &machine, discovery, grant, endpoints)
        };
        Ok(ranges::plan(&findings)?)
    }

    pub(super) async fn namespaces_changed(&mut self, list: &[String]) {
        let Some(routing) = &self.routing else { return };
        let wanted = &routing.start.dns_namespaces;
        let namespaces = names::namespaces(self.cluster.namespace(), Some(list), wanted);
        let count = namespaces.len();
        if self.rename(|names| names.namespaces = namespaces).await {
            tracing::info!(count, "the cluster's namespaces changed");
            self.wish(|_| {});
        }
    }

    /// Changes the cluster's names, and tells the driver; whether that was a change.
    async fn rename(&mut self, change: impl FnOnce(&mut Names)) -> bool {
        let Some(routing) = &mut self.routing else {
            return false;
        };
        let before = routing.names.clone();
        change(&mut routing.names);
        let changed = routing.names != before;
        if changed {
            let names = routing.names.clone();
            self.driver.tell(Command::Names(names)).await;
        }
        changed
    }

    /// Tells the network task what ought to be, with the names as they are now.
    pub(super) fn wish(&self, change: impl FnOnce(&mut Wish)) {
        let Some(routing) = &self.routing else { return };
        let servers = session::stubs(&self.keys.grant);
        let dns = names::dns_config(servers, &routing.names);
        routing.wish_tx.send_if_modified(|wish| {
            let before = wish.clone();
            wish.dns = dns;
            change(wish);
            *wish != before
        });
    }
}
