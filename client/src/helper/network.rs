//! The network that a helper set up for its session, and how its names and routes are kept against others.
//!
//! Must not judge requests ([`super::server`]).

use std::future::pending;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use tokio::time::Instant;

use super::journal::Journal;
use super::patience::{self, Patience};
use super::protocol::News;
use super::upkeep::Upkeep;
use super::validate;
use crate::os::{Dns, Record, Snapshot};

/// What stands, and what undoes it.
pub(super) struct Network {
    pub(super) link: u32,
    pub(super) name: String,
    pub(super) addresses: Vec<IpNetwork>,
    pub(super) routes: Vec<IpNetwork>,
    /// The machine's DNS servers before the change.
    pub(super) resolvers: Vec<IpAddr>,
    pub(super) dns: Option<Box<dyn Dns>>,
    pub(super) patience: Patience,
    pub(super) mtu: u16,
    pub(super) upkeep: Upkeep,
    pub(super) journal: Journal,
}

/// What may not stand as it was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    /// The machine's names.
    Names,
    /// The interface, its addresses or its routes.
    Link,
}

impl Network {
    /// Waits for a change after which something may not stand as it was set. May be cancelled.
    pub(super) async fn disturbed(&mut self) -> Disturbance {
        let names = async {
            match &mut self.dns {
                Some(dns) if self.patience.lasts() => dns.disturbed().await,
                Some(_) | None => pending().await,
            }
        };
        tokio::select! {
            () = names => Disturbance::Names,
            () = self.upkeep.disturbed() => Disturbance::Link,
        }
    }

    /// The ranges whose routes are not in the machine's table, the blocks of the addresses among them. An interface without
    /// its addresses, or one that is down, has lost its routes too.
    pub(super) fn missing(&self, snapshot: &Snapshot) -> Vec<IpNetwork> {
        let stands = |range: &IpNetwork| {
            snapshot.routes.iter().any(|route| {
                route.link == Some(self.link) && route.in_main_table && route.destination == *range
            })
        };
        let blocks = self.addresses.iter().copied().map(validate::network);
        blocks
            .chain(self.routes.iter().copied())
            .filter(|range| !stands(range))
            .collect()
    }

    /// Sets names again if they do not stand. Returns what is new about them.
    pub(super) async fn mend(&mut self) -> Option<News> {
        let dns = self.dns.as_mut()?;
        let journal = &mut self.journal;
        let before = dns.upstreams();
        let mended = dns.mend(Record(&mut |undo| journal.record_dns(undo))).await;
        let again = matches!(mended, Ok(true));
        let mut notes = Vec::new();
        if let Err(error) = mended {
            notes.push(format!(
                "this machine's names are no longer the session's, and could not be set again: {error:#}"
            ));
        }
        if again && self.patience.tried(Instant::now()) {
            notes.push(format!(
                "something overwrote this machine's names more than {} times within {} s: kvpn leaves them until the network \
                 changes; look for another program that writes them",
                patience::TIMES,
                patience::SPAN.as_secs()
            ));
        }
        let upstreams = self.upstreams();
        let is_news = again || !notes.is_empty() || upstreams != before;
        is_news.then_some(News {
            upstreams,
            again,
            notes,
            ..News::default()
        })
    }

    /// Where the machine's resolver would ask now. They must stay in reach.
    pub(super) fn upstreams(&mut self) -> Vec<SocketAddr> {
        let upstreams = self
            .dns
            .as_ref()
            .map_or_else(Vec::new, |dns| dns.upstreams());
        self.resolvers.extend(upstreams.iter().map(SocketAddr::ip));
        self.resolvers.sort_unstable();
        self.resolvers.dedup();
        upstreams
    }

    pub(super) fn has_family(&self, range: IpNetwork) -> bool {
        self.addresses
            .iter()
            .any(|address| address.is_ipv4() == range.is_ipv4())
    }
}
