//! The agent's use of its helper: routes for single addresses as names need them; addresses, ranges and names as
//! gateway and cluster change; and the news that the helper is gone. Who has the machine's names: [`succession`].

mod succession;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use kvpn_client_core::{Mapping, Netmap};
use kvpn_wire::range;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::board::{Board, End};
use crate::agent::check;
use crate::agent::driver::{Command, Handle, HostRoutes};
use crate::agent::places::{Places, SessionName};
use crate::agent::report::VirtualRange;
use crate::helper::{Changed, DnsConfig, HelperConnection, News};

pub(crate) use succession::Place;

/// Host routes that one session may collect: each is a line in the machine's routing table.
const MAX_HOST_ROUTES: usize = 4096;

/// What the machine's network ought to be like for the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The client's tunnel addresses, each with the prefix of its block.
    pub(crate) addresses: Vec<IpNetwork>,
    /// Ranges that go into the tunnel.
    pub(crate) routes: Vec<IpNetwork>,
    /// Which of the cluster's ranges are virtual ones there.
    pub(crate) netmap: Netmap,
    /// What stays outside the tunnel even if a name has such an address.
    pub(crate) outside: Vec<IpNetwork>,
    /// What the system's resolver is told.
    pub(crate) dns: DnsConfig,
}

/// Everything between the session and its helper.
pub(crate) struct Network {
    pub(crate) helper: HelperConnection,
    pub(crate) board: Arc<Board>,
    pub(crate) driver: Handle,
    /// driver --addresses to route--> this task
    pub(crate) route_rx: mpsc::Receiver<HostRoutes>,
    /// keeper --what the network ought to be like--> this task
    pub(crate) wish_rx: watch::Receiver<Wish>,
    /// What of it stands.
    pub(crate) standing: Wish,
    /// How names come to programs.
    pub(crate) place: Place,
    /// What the user was told of that.
    pub(crate) names_note: Option<String>,
    /// The session.
    pub(crate) name: SessionName,
    /// Where the user's other sessions are found.
    pub(crate) places: Places,
    /// The machine's network changed, or it slept.
    pub(crate) changed: Arc<Notify>,
    /// this task --the resolvers that the machine would ask without the session--> those who ask them
    pub(crate) upstream_tx: watch::Sender<Vec<SocketAddr>>,
    /// The cluster's domain.
    pub(crate) domain: String,
    /// The session's own.
    pub(crate) own_domain: Option<String>,
}

/// Names were set again: tries them as programs do.
async fn say_if_names_fail(domain: String, board: Arc<Board>) {
    if let Err(error) = check::system(&domain).await {
        board.note(format!(
            "another program overwrote this machine's names; kvpn set them again, but {error:#}"
        ));
    }
}

impl Network {
    /// Serves until it is told to stop or the helper is gone; gives the helper back.
    pub(crate) async fn serve(mut self, stop: CancellationToken) -> HelperConnection {
        let mut hosts = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.helper,
                news = self.helper.news() => match news {
                    Some(news) => self.heard(news),
                    None => {
                        let why = "the helper, which holds the TUN, routes and names, has died; if names fail now, run `kvpn disconnect`";
                        self.board.end(End::Trouble(why.to_owned()));
                        return self.helper;
                    }
                },
                Some(wanted) = self.route_rx.recv() => self.add_hosts(wanted, &mut hosts).await,
                Ok(()) = self.wish_rx.changed() => self.follow().await,
                () = self.changed.notified() => self.set_names_again().await,
                () = self.place.over() => tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = self.succeed() => {}
                },
            }
        }
    }

    /// Something else than this session changed its network.
    fn heard(&self, news: News) {
        let News {
            upstreams,
            again,
            routes_again,
            lost,
            notes,
        } = news;
        if let Some(why) = lost {
            self.board.end(End::Trouble(why));
        }
        if routes_again > 0 {
            tracing::info!(
                routes_again,
                "something removed routes of the session; they were set again"
            );
        }
        for note in notes {
            self.board.note(note);
        }
        self.upstream_tx.send_replace(upstreams);
        if again {
            tracing::info!("something overwrote the session's names; they were set again");
            tokio::spawn(say_if_names_fail(
                self.domain.clone(),
                Arc::clone(&self.board),
            ));
        }
    }

    async fn add_hosts(&mut self, wanted: HostRoutes, hosts: &mut BTreeSet<IpAddr>) {
        let HostRoutes { ticket, addresses } = wanted;
        let is_new = |address: &IpAddr| !hosts.contains(address) && self.may_enter(*address);
        let new: Vec<IpAddr> = addresses.into_iter().filter(is_new).collect();
        let ok = new.is_empty()
            || (hosts.len() + new.len() <= MAX_HOST_ROUTES && self.add_routes(&new).await);
        if ok && !new.is_empty() {
            hosts.extend(&new);
            self.board.update(|report| {
                if let Some(network) = &mut report.network {
                    network.host_routes = hosts.iter().copied().collect();
                }
            });
        }
        self.driver.tell(Command::HostRoutes { ticket, ok }).await;
    }

    /// A virtual address stands for one that may.
    fn may_enter(&self, address: IpAddr) -> bool {
        let Wish {
            netmap, outside, ..
        } = &self.standing;
        netmap.real(address).is_some() || !range::contains(outside, address)
    }

    async fn add_routes(&mut self, addresses: &[IpAddr]) -> bool {
        let routes = addresses.iter().copied().map(IpNetwork::from).collect();
        match self.helper.add_routes(routes).await {
            Ok(changed) => {
                for refused in &changed.refused {
                    tracing::warn!(refused, "a host route was refused");
                }
                changed.refused.is_empty()
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "host routes could not be set");
                false
            }
        }
    }

    async fn follow(&mut self) {
        let wish = self.wish_rx.borrow_and_update().clone();
        let standing = std::mem::replace(&mut self.standing, wish.clone());
        if wish.addresses != standing.addresses {
            self.set_addresses(&wish).await;
        }
        if wish.routes != standing.routes || wish.netmap != standing.netmap {
            self.set_ranges(&standing.routes, wish.routes, wish.netmap)
                .await;
        }
        if wish.dns != standing.dns {
            self.set_names(wish.dns).await;
        }
    }

    /// Without its addresses the session is of no use.
    async fn set_addresses(&mut self, wish: &Wish) {
        match self.helper.set_addresses(wish.addresses.clone()).await {
            Ok(_) => self.board.update(|report| {
                if let Some(network) = &mut report.network {
                    network.addresses = wish.addresses.iter().map(IpNetwork::ip).collect();
                }
            }),
            Err(error) => {
                let why = format!(
                    "the gateway gave other tunnel addresses than before, and they could not be set: {error:#}; `kvpn connect` begins anew"
                );
                self.board.end(End::Trouble(why));
            }
        }
    }

    async fn set_ranges(&mut self, standing: &[IpNetwork], wished: Vec<IpNetwork>, netmap: Netmap) {
        let missing = |from: &[IpNetwork], of: &[IpNetwork]| -> Vec<IpNetwork> {
            of.iter()
                .filter(|range| !from.contains(range))
                .copied()
                .collect()
        };
        let (new, gone) = (missing(standing, &wished), missing(&wished, standing));
        tracing::info!(
            new = new.len(),
            gone = gone.len(),
            "what is routed into the tunnel changed"
        );
        let added = self.helper.add_routes(new).await;
        let removed = self.helper.remove_routes(gone).await;
        for changed in [added, removed] {
            match changed {
                Ok(changed) => {
                    for text in changed.refused.into_iter().chain(changed.notes) {
                        tracing::info!(text, "about routes");
                    }
                }
                Err(error) => self
                    .board
                    .note(format!("changed ranges could not be routed: {error:#}")),
            }
        }
        self.board.update(|report| {
            if let Some(network) = &mut report.network {
                network.routes.clone_from(&wished);
                network.virtual_ranges = virtual_ranges(&netmap);
            }
        });
        self.driver.tell(Command::Ranges(wished, netmap)).await;
    }

    /// Who wakes or moves may find that others wrote its names meanwhile, and gave up or not.
    async fn set_names_again(&mut self) {
        if let Err(error) = self.tell_names(self.standing.dns.clone()).await {
            tracing::info!(error = format!("{error:#}"), "names are not set again");
        }
    }

    async fn tell_names(&mut self, dns: DnsConfig) -> anyhow::Result<Changed> {
        match &mut self.place {
            Place::Own => self.helper.set_dns(dns).await,
            Place::Guest(host) => host.tell(&dns).await.map(|()| Changed::default()),
            // They are those that stand when there is a place.
            Place::Vacant(_) => Ok(Changed::default()),
        }
    }

    async fn set_names(&mut self, dns: DnsConfig) {
        let servers = dns.servers.clone();
        let (search, routing) = (dns.search.clone(), dns.routing.clone());
        match self.tell_names(dns).await {
            Ok(changed) => {
                for text in changed.refused.into_iter().chain(changed.notes) {
                    tracing::info!(text, "about names");
                }
                self.board.update(|report| {
                    if let Some(network) = &mut report.network {
                        (network.search, network.routing_domains) = (search, routing);
                        network.dns_servers = servers;
                    }
                });
            }
            Err(error) => self
                .board
                .note(format!("changed names could not be set: {error:#}")),
        }
    }
}

/// The same for a report.
pub(crate) fn virtual_ranges(netmap: &Netmap) -> Vec<VirtualRange> {
    let mappings = netmap.mappings().iter();
    let range = |mapping: &Mapping| VirtualRange {
        range: mapping.real(),
        appears_as: mapping.shown(),
    };
    mappings.map(range).collect()
}
