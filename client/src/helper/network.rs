//! The network that a helper set up for its session, and how its names are kept against others.
//!
//! Must not judge requests ([`super::server`]).

use std::future::pending;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use tokio::time::Instant;

use super::journal::Journal;
use super::patience::{self, Patience};
use super::protocol::News;
use crate::os::{Dns, Record};

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
    pub(super) journal: Journal,
}

impl Network {
    /// Whether names may not stand as they were set.
    pub(super) async fn disturbed(&mut self) {
        match &mut self.dns {
            Some(dns) if self.patience.lasts() => dns.disturbed().await,
            Some(_) | None => pending().await,
        }
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
