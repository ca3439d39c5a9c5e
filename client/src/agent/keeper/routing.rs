//! What a session with a TUN follows besides its gateway: the cluster's ranges and namespaces. Tells the network task what
//! ought to be; sets nothing itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use kvpn_client_core::Names;
use kvpn_k8s::Error as ClusterError;
use tokio::sync::watch;

use crate::agent::driver::Command;
use crate::agent::keeper::Keeper;
use crate::agent::laptop::Laptop;
use crate::agent::message::Start;
use crate::agent::network::Wish;
use crate::agent::others::{self, Others};
use crate::agent::ranges::{self, Findings, Plan};
use crate::agent::{laptop, names, now, session};

/// How long looking for the cluster's ranges may keep the keeper from its other work.
const LOOK_AGAIN_LIMIT: Duration = Duration::from_secs(10);

/// What is routed into a session, and who is told when that changes.
pub(crate) struct Routing {
    pub(crate) start: Arc<Start>,
    /// keeper --what the network ought to be like--> the network task
    pub(crate) wish_tx: watch::Sender<Wish>,
    pub(crate) names: Names,
    /// The resolvers that the machine asked before.
    pub(crate) resolvers: Vec<IpAddr>,
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
        let Some(routing) = &self.routing else { return };
        let plan = match tokio::time::timeout(LOOK_AGAIN_LIMIT, self.plan(routing)).await {
            Ok(Ok(plan)) => plan,
            Ok(Err(error)) => {
                let error = format!("{error:#}");
                return tracing::debug!(error, "ranges stay as they are");
            }
            Err(_) => return tracing::debug!("ranges stay as they are: no answer"),
        };
        self.rename(|names| names.reverse = plan.reverse).await;
        self.board.update(|report| {
            if let Some(network) = &mut report.network {
                network.overlaps = plan.overlaps;
            }
        });
        for note in plan.notes {
            self.board.note(note);
        }
        self.wish(|wish| (wish.routes, wish.netmap) = (plan.routes, plan.netmap));
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
        let discovery = self
            .cluster
            .discover(self.cluster.namespace(), &self.gateway);
        let (discovery, servers) = tokio::join!(discovery, self.cluster.api_server_addresses());
        let endpoints = (servers.iter())
            .chain(&self.udp_candidates)
            .map(SocketAddr::ip);
        let grant = &self.keys.grant;
        let standing = routing.wish_tx.borrow().clone();
        let findings = Findings {
            foreign: others.foreign,
            standing: standing.routes,
            mappings: standing.netmap.mappings().to_vec(),
            ..Findings::of(&routing.start, &machine, &discovery?, grant, endpoints)
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
