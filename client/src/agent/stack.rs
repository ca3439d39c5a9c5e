//! A session without a TUN (the `stack` link): its flows begin and end in this process, so it needs no helper, no route
//! and no root. Several at a time, and beside `kvpn connect`, do not meet: nothing on the machine is theirs.
//!
//! Must not know what the flows carry.

use std::sync::Arc;
use std::time::Duration;

use ::http::Method;
use anyhow::Context as _;
use kvpn_client_core::Names;
use kvpn_k8s::GatewayPod;
use kvpn_wire::control::SESSION_PATH;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::agent::driver::{Command, Handle};
use crate::agent::keeper::Keeper;
use crate::agent::opening::{Opened, Opening};
use crate::agent::session::Peer;
use crate::agent::{changes, http, laptop, names};

/// A session that stands, and is kept for as long as this value lives.
pub(crate) struct Stack {
    /// The driver, for flows.
    pub(crate) driver: Handle,
    /// Names the session where others can read it: the fingerprint of its key, which stays when the gateway is replaced.
    pub(crate) fingerprint: String,
    /// keeper --the other end as it is now--> whoever uses the session
    pub(crate) peer_rx: watch::Receiver<Peer>,
    /// What keeps the session; ends with it.
    _tasks: JoinSet<()>,
}

/// How long telling the gateway goodbye may take; it forgets the session by itself later.
const GOODBYE_LIMIT: Duration = Duration::from_millis(500);

impl Stack {
    /// Ends the session at the gateway; who uses it has ended before.
    pub(crate) async fn goodbye(&self) {
        let Ok(control) = self.peer_rx.borrow().control() else {
            return;
        };
        let goodbye = async {
            let stream = self.driver.dial(control).await?;
            http::ask(stream, Method::DELETE, SESSION_PATH).await
        };
        match tokio::time::timeout(GOODBYE_LIMIT, goodbye).await {
            Ok(Ok(_)) => tracing::debug!("the gateway forgot the session"),
            Ok(Err(_)) | Err(_) => tracing::debug!("the gateway was not told goodbye"),
        }
    }

    /// Opens a session with a gateway that is ready, and keeps it. `namespaces` are those whose names are known besides the
    /// connected one.
    ///
    /// # Errors
    ///
    /// As [`Opening::session`], or the gateway does not answer through the tunnel.
    pub(crate) async fn open(
        opening: &Opening<'_>,
        gateway: GatewayPod,
        namespaces: &[String],
    ) -> anyhow::Result<Self> {
        opening
            .board
            .step(format!("opening a session with {}", gateway.full_name()));
        let laptop = laptop::look()
            .await
            .context("this machine's network cannot be looked at")?;
        let Opened {
            keys,
            api,
            udp_candidates,
        } = opening.session(&gateway, &laptop).await?;
        let connected = opening.cluster.namespace();
        let names = Names {
            namespace: connected.to_owned(),
            domain: names::domain(&keys.grant.cluster.search),
            namespaces: names::namespaces(connected, None, namespaces),
            reverse: Vec::new(),
        };
        let (driver, news) = opening.drive(opening.config(&keys, &udp_candidates, &names));
        if let Some(api) = api {
            driver.tell(Command::Api(api)).await;
        }
        let mut occurrence_rx = news.occurrence_rx;
        opening.first_answer(&mut occurrence_rx).await?;
        let (peer_tx, peer_rx) = watch::channel(Peer::new(&gateway, &keys.grant));
        let fingerprint = keys.private.public().fingerprint();
        let changed = Arc::new(Notify::new());
        let keeper = Keeper {
            cluster: opening.cluster.clone(),
            access: Arc::new(opening.access.clone()),
            board: Arc::clone(opening.board),
            gateway,
            keys,
            driver: driver.clone(),
            occurrence_rx,
            udp_candidates,
            changed: Arc::clone(&changed),
            peer_tx,
            keeps_key: true,
            routing: None,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(changes::watch(driver.clone(), changed));
        tasks.spawn(keeper.keep());
        Ok(Self {
            driver,
            fingerprint,
            peer_rx,
            _tasks: tasks,
        })
    }

    /// A session that a test plays.
    #[cfg(test)]
    pub(crate) fn played(
        driver: Handle,
        fingerprint: &str,
        peer_rx: watch::Receiver<Peer>,
    ) -> Self {
        Self {
            driver,
            fingerprint: fingerprint.to_owned(),
            peer_rx,
            _tasks: JoinSet::new(),
        }
    }
}
