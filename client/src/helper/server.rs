//! The helper's side of the connection: one request after the other, and in the end everything undone.
//!
//! Must not judge values ([`super::validate`]) nor know backends ([`crate::os`]).

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ipnetwork::IpNetwork;
use kvpn_io::tun::TunOffload;
use tokio::time::timeout;

use super::channel::Channel;
use super::exceptions::Exceptions;
use super::journal::{self, Journal};
use super::network::{Disturbance, Network};
use super::patience::Patience;
use super::protocol::{
    Answer, DnsBackend, DnsConfig, Hello, MAX_ROUTES, NetworkConfig, News, Numbered, Request,
    Settled, VERSION,
};
use super::upkeep::Upkeep;
use super::validate::{self, Surroundings};
use crate::os::platform::{self, INTERFACE, SystemRoutes, SystemTun, Unshared};
use crate::os::signals::{Signal, SignalKind, signal};
use crate::os::{Dns, Record, Routes, Snapshot, Taken, Tun, TunError};

/// An agent that does not read its answers for so long is taken for dead.
const SEND_LIMIT: Duration = Duration::from_secs(2);
/// Automatic names go from `kvpn0` to one below this.
const MAX_AUTOMATIC_NAMES: u32 = 256;
/// More texts than this are cut, so that an answer fits a line.
const MAX_TEXTS: usize = 200;

/// Whose network a helper changes.
pub(super) enum Place {
    /// The machine's; what undoes a crash is kept in this folder.
    Machine(PathBuf),
    /// One program's.
    #[cfg_attr(windows, expect(dead_code, reason = "for `kvpn run`"))]
    Own(Unshared),
}

impl Place {
    fn state(&self) -> PathBuf {
        match self {
            Self::Machine(state) => state.clone(),
            Self::Own(unshared) => unshared.folder(),
        }
    }

    /// Servers that must stay in reach. A program's own network has none: the agent, which is outside, asks the machine's.
    fn resolvers(&self) -> Vec<IpAddr> {
        match self {
            Self::Machine(_) => platform::resolver_addresses(),
            Self::Own(_) => Vec::new(),
        }
    }
}

/// Serves the agent at the other end of the socket until it is gone, asks to end, or SIGTERM comes.
pub(super) async fn serve(channel: Channel, place: Place, exceptions: Exceptions) -> Result<()> {
    // Taken and dropped: the terminal's Ctrl-C and its end go to the whole group, the lease is the socket.
    let _ignored = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::quit())?,
    ];
    let mut termination = signal(SignalKind::terminate())?;
    let mut server = Server {
        channel,
        system: SystemRoutes::open()?,
        state: place.state(),
        place,
        exceptions,
        network: None,
    };
    if let Place::Own(_) = server.place {
        server.system.loopback_up().await?;
    }
    let outcome = server.converse(&mut termination).await;
    let notes = server.undo().await;
    if let Ok(Some(release)) = &outcome {
        let answer = Answer::Done {
            refused: Vec::new(),
            notes,
            dns_backend: None,
        };
        // The agent may be gone; everything is undone all the same.
        let _ = server.answer(*release, answer, None).await;
    }
    outcome.map(drop)
}

pub(super) struct Server {
    channel: Channel,
    pub(super) system: SystemRoutes,
    place: Place,
    exceptions: Exceptions,
    state: PathBuf,
    pub(super) network: Option<Network>,
}

async fn disturbed(network: &mut Option<Network>) -> Disturbance {
    match network {
        Some(network) => network.disturbed().await,
        None => pending().await,
    }
}

pub(super) fn standing(network: &mut Option<Network>) -> Result<&mut Network> {
    network
        .as_mut()
        .context("there is no interface yet: `configure` comes first")
}

/// What an accepted request led to, beside its refusals.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) refused: Vec<String>,
    pub(super) notes: Vec<String>,
    /// How the session has names from now on, if it had none before.
    dns_backend: Option<String>,
}

impl Server {
    /// Returns the number of the request to end, if there was one.
    async fn converse(&mut self, termination: &mut Signal) -> Result<Option<u64>> {
        let undone = journal::undo_leftovers(&self.state)
            .await
            .unwrap_or_else(|error| vec![format!("{error:#}")]);
        let hello = Hello {
            version: VERSION,
            pid: std::process::id(),
            undone,
        };
        self.answer(0, Answer::Hello(hello), None).await?;
        loop {
            let line = tokio::select! {
                line = self.channel.receive() => line?,
                _ = termination.recv() => None,
                what = disturbed(&mut self.network) => {
                    self.mend(what).await?;
                    continue;
                }
            };
            let Some(line) = line else {
                return Ok(None);
            };
            let Numbered { id, body } = serde_json::from_slice(&line)
                .context("the agent said what is not in the protocol")?;
            if matches!(body, Request::Release) {
                return Ok(Some(id));
            }
            let (answer, tun) = self.handle(body).await;
            self.answer(id, answer, tun).await?;
        }
    }

    async fn mend(&mut self, what: Disturbance) -> Result<()> {
        let news = match what {
            Disturbance::Names => standing(&mut self.network)?.mend().await,
            Disturbance::Link => self.mend_link().await?,
        };
        match news {
            Some(news) => self.answer(0, Answer::News(news), None).await,
            None => Ok(()),
        }
    }

    async fn answer(&mut self, id: u64, answer: Answer, tun: Option<SystemTun>) -> Result<()> {
        let line = serde_json::to_vec(&Numbered { id, body: answer })
            .context("an answer cannot be written as JSON")?;
        // The TUN is not this process's any more: from now on the interface lives as long as the agent.
        let sending = self.channel.send(&line, tun.map(Tun::into_handle));
        timeout(SEND_LIMIT, sending)
            .await
            .map_err(io::Error::from)??;
        Ok(())
    }

    async fn handle(&mut self, request: Request) -> (Answer, Option<SystemTun>) {
        let handled = match request {
            Request::Configure(config) => match self.configure(config).await {
                Ok((settled, tun)) => return (Answer::Configured(settled), Some(tun)),
                Err(error) => Err(error),
            },
            Request::AddRoutes { routes } => self.add_routes(routes).await,
            Request::RemoveRoutes { routes } => self.remove_routes(&routes).await,
            Request::SetAddresses { addresses } => self.set_addresses(&addresses).await,
            Request::SetDns(dns) => self.set_dns(dns).await,
            Request::Release => Ok(Outcome::default()),
        };
        let answer = match handled {
            Ok(outcome) => Answer::Done {
                refused: cut(outcome.refused),
                notes: cut(outcome.notes),
                dns_backend: outcome.dns_backend,
            },
            Err(error) => Answer::Failed {
                error: format!("{error:#}"),
                taken: error.chain().any(|cause| cause.is::<Taken>()),
            },
        };
        (answer, None)
    }

    async fn configure(&mut self, config: NetworkConfig) -> Result<(Settled, SystemTun)> {
        ensure!(
            self.network.is_none(),
            "this helper serves a session already"
        );
        let snapshot = self.system.snapshot().await?;
        let around = Surroundings {
            snapshot: &snapshot,
            own_link: None,
            resolvers: &[],
            exceptions: &self.exceptions,
        };
        validate::mtu(config.mtu)?;
        validate::addresses(&config.addresses, &around)?;
        if let Some(name) = &config.name {
            validate::interface_name(name)?;
        }
        let (tun, network) = open_tun(&config, &snapshot, &self.state)?;
        let offload = tun.offload();
        self.network = Some(network);
        match self.furnish(config).await {
            Ok(settled) => Ok((Settled { offload, ..settled }, tun)),
            Err(error) => {
                let notes = self.undo().await;
                Err(notes
                    .into_iter()
                    .fold(error, |error, note| error.context(note)))
            }
        }
    }

    /// Sets up everything on the open interface.
    async fn furnish(&mut self, config: NetworkConfig) -> Result<Settled> {
        let network = standing(&mut self.network)?;
        network.resolvers = self.place.resolvers();
        network.addresses = self
            .system
            .bring_up(network.link, &config.addresses, config.mtu)
            .await?;
        ensure!(
            !network.addresses.is_empty(),
            "this machine has no address family of the session's"
        );
        let mut outcome = self.add_routes(config.routes).await?;
        let mut settled = Settled {
            name: standing(&mut self.network)?.name.clone(),
            offload: TunOffload::Plain,
            dns_backend: "none".to_owned(),
            upstreams: Vec::new(),
            split: true,
            refused: Vec::new(),
            notes: Vec::new(),
        };
        if let Some(dns) = config.dns {
            let backend = self.open_dns(config.dns_backend).await?;
            settled.dns_backend = backend.backend().to_owned();
            settled.upstreams = backend.upstreams();
            settled.split = backend.splits();
            standing(&mut self.network)?.dns = Some(backend);
            let set = self.replace_dns(dns).await?;
            outcome.refused.extend(set.refused);
            outcome.notes.extend(set.notes);
        }
        settled.refused = cut(outcome.refused);
        settled.notes = cut(outcome.notes);
        Ok(settled)
    }

    async fn open_dns(&mut self, choice: DnsBackend) -> Result<Box<dyn Dns>> {
        let network = standing(&mut self.network)?;
        let session = network.journal.session();
        match &self.place {
            Place::Machine(state) => {
                platform::open_dns(choice, network.link, state, &session).await
            }
            Place::Own(unshared) => Ok(unshared.dns()),
        }
    }

    pub(super) async fn add_routes(&mut self, routes: Vec<IpNetwork>) -> Result<Outcome> {
        let network = standing(&mut self.network)?;
        ensure!(
            network.routes.len() + routes.len() <= MAX_ROUTES,
            "more than {MAX_ROUTES} routes"
        );
        let snapshot = self.system.snapshot().await?;
        // Those from before kvpn's own change of resolv.conf, and those that came since.
        let resolvers = [network.resolvers.clone(), self.place.resolvers()].concat();
        let around = Surroundings {
            snapshot: &snapshot,
            own_link: Some(network.link),
            resolvers: &resolvers,
            exceptions: &self.exceptions,
        };
        let mut outcome = Outcome::default();
        let (routes, unreachable): (Vec<_>, Vec<_>) = routes
            .into_iter()
            .map(validate::network)
            .partition(|range| network.has_family(*range));
        if !unreachable.is_empty() {
            outcome.notes.push(format!(
                "{} of the cluster's ranges cannot be reached: this machine or the session has no address of their family",
                unreachable.len()
            ));
        }
        for range in routes {
            if network.routes.contains(&range) {
                continue;
            }
            match validate::route(range, &around) {
                Ok(notes) => {
                    self.system.add(network.link, range).await?;
                    network.routes.push(range);
                    outcome.notes.extend(notes);
                }
                Err(why) => outcome.refused.push(why),
            }
        }
        Ok(outcome)
    }

    async fn remove_routes(&mut self, routes: &[IpNetwork]) -> Result<Outcome> {
        let network = standing(&mut self.network)?;
        for range in routes.iter().copied().map(validate::network) {
            // Only what was added here: the block of the tunnel's own addresses stays.
            if let Some(place) = network.routes.iter().position(|known| *known == range) {
                self.system.remove(network.link, range).await?;
                network.routes.swap_remove(place);
            }
        }
        Ok(Outcome::default())
    }

    async fn set_addresses(&mut self, addresses: &[IpNetwork]) -> Result<Outcome> {
        let network = standing(&mut self.network)?;
        let snapshot = self.system.snapshot().await?;
        let around = Surroundings {
            snapshot: &snapshot,
            own_link: Some(network.link),
            resolvers: &network.resolvers,
            exceptions: &self.exceptions,
        };
        validate::addresses(addresses, &around)?;
        let former = std::mem::take(&mut network.addresses);
        network.addresses = self
            .system
            .readdress(network.link, &former, addresses)
            .await?;
        ensure!(
            !network.addresses.is_empty(),
            "this machine has no address family of the session's"
        );
        Ok(Outcome::default())
    }

    async fn set_dns(&mut self, dns: DnsConfig) -> Result<Outcome> {
        if standing(&mut self.network)?.dns.is_some() {
            return self.replace_dns(dns).await;
        }
        // Who had the names may have been killed, its helper too.
        let undone = journal::undo_leftovers(&self.state).await?;
        let backend = self.open_dns(DnsBackend::Auto).await?;
        let name = backend.backend().to_owned();
        standing(&mut self.network)?.dns = Some(backend);
        match self.replace_dns(dns).await {
            Ok(mut outcome) => {
                let upstreams = standing(&mut self.network)?.upstreams();
                self.tell_upstreams(upstreams).await?;
                outcome.notes.extend(undone);
                outcome.dns_backend = Some(name);
                Ok(outcome)
            }
            Err(error) => {
                if let Some(mut backend) = standing(&mut self.network)?.dns.take() {
                    backend.revert().await?;
                }
                Err(error)
            }
        }
    }

    async fn tell_upstreams(&mut self, upstreams: Vec<SocketAddr>) -> Result<()> {
        let news = News {
            upstreams,
            ..News::default()
        };
        self.answer(0, Answer::News(news), None).await
    }

    async fn replace_dns(&mut self, mut dns: DnsConfig) -> Result<Outcome> {
        let network = standing(&mut self.network)?;
        dns.servers
            .retain(|server| network.has_family(IpNetwork::from(*server)));
        let (dns, refused) =
            validate::dns(dns, &network.addresses, &network.routes, &self.exceptions)?;
        let Some(backend) = &mut network.dns else {
            bail!("this session was configured without DNS");
        };
        network.patience = Patience::default();
        let journal = &mut network.journal;
        let before = backend.upstreams();
        let notes = backend
            .set(&dns, Record(&mut |undo| journal.record_dns(undo)))
            .await?;
        let upstreams = network.upstreams();
        if upstreams != before {
            self.tell_upstreams(upstreams).await?;
        }
        Ok(Outcome {
            refused,
            notes,
            dns_backend: None,
        })
    }

    /// Undoes everything, the newest first. Returns what the user should know; what failed stays in the journal.
    async fn undo(&mut self) -> Vec<String> {
        let Some(Network {
            link,
            name,
            dns,
            journal,
            ..
        }) = self.network.take()
        else {
            return Vec::new();
        };
        let mut notes = Vec::new();
        let mut complete = true;
        if let Some(mut dns) = dns {
            match dns.revert().await {
                Ok(texts) => notes.extend(texts),
                Err(error) => {
                    complete = false;
                    notes.push(format!("DNS is not as it was: {error:#}"));
                }
            }
        }
        // Its routes and addresses go with it, even while the agent still holds the descriptor.
        if let Err(error) = self.system.delete_link(link).await {
            complete = false;
            notes.push(format!("the interface {name} is still there: {error:#}"));
        }
        if complete && let Err(error) = journal.close() {
            notes.push(format!("{error:#}"));
        }
        notes
    }
}

/// Opens the interface asked for, or the first free one, with a journal that knows it.
fn open_tun(
    config: &NetworkConfig,
    snapshot: &Snapshot,
    state: &Path,
) -> Result<(SystemTun, Network)> {
    let journal = Journal::open(state)?;
    match create(config, snapshot).and_then(|tun| Ok((tun.index()?, tun))) {
        Ok((link, tun)) => {
            let mut network = Network {
                link,
                name: tun.name().to_owned(),
                addresses: Vec::new(),
                routes: Vec::new(),
                resolvers: Vec::new(),
                dns: None,
                patience: Patience::default(),
                mtu: config.mtu,
                upkeep: Upkeep::begin(),
                journal,
            };
            network.journal.record_interface(tun.name(), link)?;
            Ok((tun, network))
        }
        Err(error) => {
            journal.close()?;
            Err(error)
        }
    }
}

fn create(config: &NetworkConfig, snapshot: &Snapshot) -> Result<SystemTun> {
    if let Some(name) = &config.name {
        return SystemTun::create(name, config.offload).map_err(|error| match error {
            TunError::Occupied(_) => anyhow::Error::new(error).context(
                "the session's interface cannot be made: choose another name, or leave the choice to kvpn",
            ),
            TunError::System { .. } => error.into(),
        });
    }
    for number in 0..MAX_AUTOMATIC_NAMES {
        let name = format!("{INTERFACE}{number}");
        if snapshot.links.values().any(|taken| *taken == name) {
            continue;
        }
        match SystemTun::create(&name, config.offload) {
            Err(TunError::Occupied(_)) => {}
            other => return Ok(other?),
        }
    }
    bail!(
        "all interface names from {INTERFACE}0 to {INTERFACE}{} are taken; see `ip link`",
        MAX_AUTOMATIC_NAMES - 1
    )
}

fn cut(mut texts: Vec<String>) -> Vec<String> {
    if texts.len() > MAX_TEXTS {
        let more = texts.len() - MAX_TEXTS;
        texts.truncate(MAX_TEXTS);
        texts.push(format!("and {more} more"));
    }
    texts
}
