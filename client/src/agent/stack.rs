//! A session without a TUN (the `stack` link): its flows begin and end in this process, so it needs no helper, no route
//! and no root. Several at a time, and beside `kvpn connect`, do not meet: nothing on the machine is theirs.
//!
//! Must not know what the flows carry.

use std::sync::Arc;

use anyhow::Context as _;
use kvpn_k8s::GatewayPod;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::agent::changes::Listeners;
use crate::agent::driver::{Command, Handle};
use crate::agent::keeper::Keeper;
use crate::agent::opening::{Opened, Opening};
use crate::agent::session::Peer;
use crate::agent::{changes, goodbye, laptop, names};

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

impl Stack {
    /// Ends the session at the gateway; who uses it has ended before.
    pub(crate) async fn goodbye(&self) {
        let peer = self.peer_rx.borrow().clone();
        goodbye::goodbye(&self.driver, &peer).await;
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
        let names = names::known(opening.cluster.namespace(), &keys.grant, None, namespaces);
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
        let listeners = Listeners {
            moved: vec![changed],
            ranges: None,
        };
        tasks.spawn(changes::watch(driver.clone(), listeners));
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
