//! Keeps a session's interface, addresses and routes against other programs: network daemons and VPNs clear what they do not know.
//!
//! What is set again is judged anew ([`super::validate`]); a fight is given up like one about names ([`super::patience`]).

use std::future::pending;
use std::time::Duration;

use anyhow::Result;
use ipnetwork::IpNetwork;
use tokio::time::{Instant, sleep_until};

use super::network::Network;
use super::patience::{self, Patience};
use super::protocol::News;
use super::server::{Server, standing};
use crate::os::{Routes, platform};

/// Changes come in bursts: so long after the first one it is looked what is left.
const CALM: Duration = Duration::from_millis(300);

/// When to look, and for how long still.
pub(super) struct Upkeep {
    /// None: nobody tells of changes, or nothing is set again any more.
    changes: Option<platform::Changes>,
    due: Option<Instant>,
    patience: Patience,
}

impl Upkeep {
    /// Listens from now on. Needs a tokio runtime.
    pub(super) fn begin() -> Self {
        let changes = platform::Changes::open();
        Self {
            changes: changes
                .inspect_err(|error| tracing::info!(%error, "routes are not looked after"))
                .ok(),
            due: None,
            patience: Patience::default(),
        }
    }

    /// Waits for the time to look. May be cancelled.
    pub(super) async fn disturbed(&mut self) {
        loop {
            let due = self.due;
            let look = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            let Some(changes) = &mut self.changes else {
                return pending().await;
            };
            tokio::select! {
                biased;
                () = look => {
                    self.due = None;
                    return;
                }
                change = changes.next() => match change {
                    Some(()) => self.due = due.or_else(|| Some(Instant::now() + CALM)),
                    None => self.changes = None,
                },
            }
        }
    }

    fn stop(&mut self) {
        self.changes = None;
    }
}

impl Server {
    /// Sets again what is missing. Returns what is new about that.
    pub(super) async fn mend_link(&mut self) -> Result<Option<News>> {
        let snapshot = self.system.snapshot().await?;
        let network = standing(&mut self.network)?;
        let mut news = News {
            upstreams: network.upstreams(),
            ..News::default()
        };
        if !snapshot.links.contains_key(&network.link) {
            network.upkeep.stop();
            news.lost = Some(format!(
                "another program removed the interface {}; `kvpn connect` makes a new one",
                network.name
            ));
            return Ok(Some(news));
        }
        let missing = network.missing(&snapshot);
        if missing.is_empty() {
            return Ok(None);
        }
        news.routes_again = missing.len();
        match self.set_again(&missing).await {
            Ok(notes) => news.notes = notes,
            Err(error) => news.notes.push(format!(
                "something removed routes of the session, and they could not be set again: {error:#}"
            )),
        }
        let Network { name, upkeep, .. } = standing(&mut self.network)?;
        if upkeep.patience.tried(Instant::now()) {
            upkeep.stop();
            news.notes.push(format!(
                "something removed routes of {name} more than {} times within {} s: kvpn leaves them now; look for another program \
                 that manages routes (systemd-networkd: ManageForeignRoutes=no)",
                patience::TIMES,
                patience::SPAN.as_secs()
            ));
        }
        Ok(Some(news))
    }

    /// Returns what the user should know.
    async fn set_again(&mut self, missing: &[IpNetwork]) -> Result<Vec<String>> {
        let network = standing(&mut self.network)?;
        // The session is told of addresses by requests only: those of a family that was switched off meanwhile stay its own.
        let (link, addresses, mtu) = (network.link, &network.addresses, network.mtu);
        self.system.bring_up(link, addresses, mtu).await?;
        let (gone, left) = std::mem::take(&mut network.routes)
            .into_iter()
            .partition(|range| missing.contains(range));
        network.routes = left;
        let outcome = self.add_routes(gone).await?;
        Ok(outcome.refused.into_iter().chain(outcome.notes).collect())
    }
}
