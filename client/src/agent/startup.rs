//! From nothing to a session whose traffic and names were tried: find or install the gateway, open the session,
//! plan, have the helper change the machine, prove that it works.
//!
//! Undoes nothing itself: when this fails, its caller releases the helper, and that undoes all.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use kvpn_client_core::{Config, Names, tunnel_mtu};
use kvpn_k8s::{Cluster, GatewayPod, Purpose};
use kvpn_wire::control::SessionGrant;
use tokio::sync::{mpsc, watch};

use crate::agent::board::Board;
use crate::agent::check::{self, PublicName};
use crate::agent::driver::{Command, Figures, Handle, HostRoutes, Occurrence};
use crate::agent::guests::Host;
use crate::agent::keeper::Survey;
use crate::agent::laptop::{self, Laptop};
use crate::agent::message::Start;
use crate::agent::network::{self, Wish};
use crate::agent::opening::{Opened, Opening};
use crate::agent::others::{self, Others, Turn};
use crate::agent::places::SessionName;
use crate::agent::ranges::{self, Findings, Plan};
use crate::agent::report::NetworkReport;
use crate::agent::session::{self, Keys};
use crate::agent::upstream::Upstream;
use crate::agent::{gateway, names, now};
use crate::cli::failure::{CONFLICT, FAILED, Failure};
use crate::helper::{Configured, DnsBackend, DnsConfig, HelperConnection, NetworkConfig};
use crate::os::{Taken, platform};

/// Everything a session is made with.
pub(crate) struct Startup<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) start: &'a Start,
    pub(crate) board: &'a Arc<Board>,
    pub(crate) figures: &'a Figures,
    pub(crate) helper: &'a mut HelperConnection,
}

/// A session that stands.
pub(crate) struct Standing {
    /// The pod at the other end.
    pub(crate) gateway: GatewayPod,
    /// What identifies and protects the session.
    pub(crate) keys: Keys,
    /// The driver.
    pub(crate) driver: Handle,
    /// driver --news of paths--> keeper
    pub(crate) occurrence_rx: mpsc::Receiver<Occurrence>,
    /// driver --addresses to route--> the network task
    pub(crate) route_rx: mpsc::Receiver<HostRoutes>,
    /// The cluster's names.
    pub(crate) names: Names,
    /// What the machine's network is like.
    pub(crate) wish: Wish,
    /// The resolvers that the machine asked before.
    pub(crate) resolvers: Vec<IpAddr>,
    /// Whoever hears that the machine asks others --> those who ask them
    pub(crate) upstream_tx: watch::Sender<Vec<SocketAddr>>,
    /// Addresses at which the gateway may answer UDP.
    pub(crate) udp_candidates: Vec<SocketAddr>,
    /// What was learnt of the cluster.
    pub(crate) survey: Survey,
    /// What the user was told of its ranges.
    pub(crate) notes: Vec<String>,
    /// The session that has /etc/resolv.conf, if another one has.
    pub(crate) host: Option<Host>,
}

/// What was learnt about cluster and machine.
struct Learnt {
    laptop: Laptop,
    opened: Opened,
    survey: Survey,
    public_name: Option<PublicName>,
}

impl Startup<'_> {
    /// Brings the session up.
    ///
    /// # Errors
    ///
    /// What failed, on which object; the exit code is in the chain.
    pub(crate) async fn establish(mut self) -> anyhow::Result<Standing> {
        let gateway = gateway::ready(
            self.cluster,
            &self.start.access,
            self.board,
            Purpose::Connect,
        )
        .await?;
        let mut learnt = self.learn(&gateway).await?;
        let turn = self.turn().await?;
        // Others may have come or gone meanwhile.
        learnt.laptop = self.look().await?;
        let others = self.others().await?;
        let plan = self.plan(&learnt, &others)?;
        let names = self.names(&learnt, &plan, &others);
        let dns = names::dns_config(session::stubs(&learnt.opened.keys.grant), &names);
        let (configured, host) = self
            .configure(&learnt.opened.keys.grant, &plan, &names, &dns)
            .await?;
        drop(turn);
        let Learnt {
            opened:
                Opened {
                    keys,
                    api,
                    udp_candidates,
                },
            public_name,
            laptop,
            survey,
        } = learnt;
        let opening = self.opening();
        let config = Config {
            ranges: plan.routes.clone(),
            netmap: plan.netmap.clone(),
            split_dns: configured.split,
            host_routes: true,
            ..opening.config(&keys, &udp_candidates, &names)
        };
        let (driver, news) = opening.drive(config);
        let (upstream_tx, upstream_rx) = watch::channel(configured.upstreams);
        let guests = self.board.guests.clone();
        let upstream = Upstream::new(upstream_rx, guests);
        tokio::spawn(upstream.serve(news.question_rx, driver.clone()));
        driver
            .tell(Command::Tun(configured.tun, configured.offload))
            .await;
        if let Some(api) = api {
            driver.tell(Command::Api(api)).await;
        }
        let mut occurrence_rx = news.occurrence_rx;
        opening.first_answer(&mut occurrence_rx).await?;
        if !self.is_programs() {
            self.prove(&keys.grant, &names, public_name).await?;
        }
        let wish = Wish {
            addresses: session::blocks(&keys.grant)?,
            routes: plan.routes,
            netmap: plan.netmap,
            outside: plan.outside,
            dns,
        };
        Ok(Standing {
            gateway,
            keys,
            driver,
            occurrence_rx,
            route_rx: news.route_rx,
            names,
            wish,
            resolvers: laptop.resolvers,
            upstream_tx,
            udp_candidates,
            survey,
            notes: plan.notes,
            host,
        })
    }

    fn opening(&self) -> Opening<'_> {
        Opening {
            cluster: self.cluster,
            access: &self.start.access,
            board: self.board,
            figures: self.figures,
        }
    }

    /// Whether one program has the network for itself. Nothing of the machine's is there to be clashed with, and names are tried
    /// by the program's process: only from inside is there a way to the stub.
    fn is_programs(&self) -> bool {
        self.start.program.is_some()
    }

    /// Asks cluster, gateway and machine, all at once.
    async fn learn(&self, gateway: &GatewayPod) -> anyhow::Result<Learnt> {
        let Self { cluster, .. } = self;
        self.board
            .step(format!("opening a session with {}", gateway.full_name()));
        let laptop = self.look().await?;
        let opening = self.opening();
        let (opened, discovery, server_addresses, public_name) = tokio::join!(
            opening.session(gateway, &laptop),
            cluster.discover(cluster.namespace(), gateway),
            cluster.api_server_addresses(),
            async {
                if self.is_programs() {
                    None
                } else {
                    PublicName::before(cluster.server()).await
                }
            },
        );
        Ok(Learnt {
            laptop,
            opened: opened?,
            survey: Survey {
                discovery: discovery?,
                servers: server_addresses,
            },
            public_name,
        })
    }

    async fn look(&self) -> anyhow::Result<Laptop> {
        if self.is_programs() {
            return Ok(Laptop::default());
        }
        let laptop = laptop::look().await;
        laptop.context("this machine's network cannot be looked at")
    }

    /// Waits for other sessions that are just being set up: each has to know what those before it route.
    async fn turn(&self) -> anyhow::Result<Option<Turn>> {
        if self.is_programs() {
            return Ok(None);
        }
        others::turn(&self.start.places).await.map(Some)
    }

    async fn others(&self) -> anyhow::Result<Others> {
        if self.is_programs() {
            return Ok(Others::default());
        }
        others::look(&self.start.places, &self.board.report(now())).await
    }

    /// Decides what is routed.
    fn plan(&self, learnt: &Learnt, others: &Others) -> anyhow::Result<Plan> {
        let Learnt { laptop, survey, .. } = learnt;
        for note in &survey.discovery.notes {
            tracing::info!(note, "discovery");
        }
        let endpoints = (survey.servers.iter())
            .chain(&learnt.opened.udp_candidates)
            .map(SocketAddr::ip);
        let grant = &learnt.opened.keys.grant;
        let findings = Findings {
            foreign: others.foreign(laptop),
            ..Findings::of(self.start, laptop, &survey.discovery, grant, endpoints)
        };
        let plan = ranges::plan(&findings).map_err(|conflict| {
            Failure::new(CONFLICT, conflict.to_string()).hint(conflict.hint())
        })?;
        for note in &plan.notes {
            self.board.note(note);
        }
        Ok(plan)
    }

    fn names(&self, learnt: &Learnt, plan: &Plan, others: &Others) -> Names {
        let own_domain = (!self.is_programs())
            .then(|| names::own_domain(&self.board.report(now()).name, &others.own_domains));
        let names = Names {
            reverse: plan.reverse.clone(),
            own_domain,
            ..names::known(
                self.cluster.namespace(),
                &learnt.opened.keys.grant,
                learnt.survey.discovery.namespaces.as_deref(),
                &self.start.dns_namespaces,
            )
        };
        for hidden in names::hidden_namespaces(&names) {
            tracing::info!(
                namespace = hidden,
                "SERVICE.NAMESPACE is not routed: the namespace is a public domain too"
            );
        }
        if let (Some(domain), false) = (&names.own_domain, others.names.is_empty()) {
            let others: Vec<&str> = others.names.iter().map(SessionName::as_str).collect();
            self.board.note(format!(
                "{} is connected to another cluster: a name that both have may be answered by either; SERVICE.NAMESPACE.{domain} is always this one's",
                others.join(", ")
            ));
        }
        names
    }

    async fn configure(
        &mut self,
        grant: &SessionGrant,
        plan: &Plan,
        names: &Names,
        dns: &DnsConfig,
    ) -> anyhow::Result<(Configured, Option<Host>)> {
        self.board.step("setting routes and names");
        let config = NetworkConfig {
            name: None,
            addresses: session::blocks(grant)?,
            mtu: u16::try_from(tunnel_mtu(grant)).unwrap_or(grant.mtu),
            routes: plan.routes.clone(),
            dns: Some(dns.clone()),
            dns_backend: DnsBackend::Auto,
            offload: self.start.access.offload.is_on(),
        };
        let (configured, host) = match self.helper.configure(config.clone()).await {
            Ok(configured) => (configured, None),
            Err(error) => self.configure_as_guest(config, names, error).await?,
        };
        for text in configured.refused.iter().chain(&configured.notes) {
            self.board.note(text);
        }
        self.board.update(|report| {
            report.network = Some(NetworkReport {
                interface: configured.name.clone(),
                addresses: grant
                    .addresses
                    .iter()
                    .map(|addresses| addresses.client)
                    .collect(),
                routes: plan.routes.clone(),
                host_routes: Vec::new(),
                dns_backend: configured.dns_backend.clone(),
                dns_servers: dns.servers.clone(),
                domain: names.domain.clone(),
                search: dns.search.clone(),
                routing_domains: dns.routing.clone(),
                own_domain: names.own_domain.clone(),
                virtual_ranges: network::virtual_ranges(&plan.netmap),
                overlaps: plan.overlaps.clone(),
            });
        });
        Ok((configured, host))
    }

    /// Without /etc/resolv.conf, if one of the user's sessions has it: that one passes this one's names on.
    async fn configure_as_guest(
        &mut self,
        config: NetworkConfig,
        names: &Names,
        error: anyhow::Error,
    ) -> anyhow::Result<(Configured, Option<Host>)> {
        let Some(Taken(what)) = error.downcast_ref::<Taken>() else {
            return Err(error.context("this machine's network could not be set up"));
        };
        let name = self.board.report(now()).name;
        let host = match &config.dns {
            Some(dns) => Host::of_machine(&self.start.places, &name, dns).await?,
            None => None,
        };
        let Some(host) = host else {
            let failure = Failure::new(CONFLICT, what);
            return Err(failure
                .hint("it is another user's; with systemd-resolved several can be there at once")
                .into());
        };
        let nameless = NetworkConfig {
            dns: None,
            ..config
        };
        let mut configured = self.helper.configure(nameless).await?;
        configured.dns_backend = host.backend();
        // Should it take the host's place, programs ask it for every name.
        configured.split = false;
        let note = host.note(&names.domain, names.own_domain.as_deref());
        self.board.note(note);
        Ok((configured, Some(host)))
    }

    /// Tries every way on which programs ask for names. The cluster's answer came through the tunnel from the
    /// cluster's own DNS: it proves the traffic too.
    async fn prove(
        &self,
        grant: &SessionGrant,
        names: &Names,
        public: Option<PublicName>,
    ) -> anyhow::Result<()> {
        self.board.step("trying names");
        let stub = session::stubs(grant)
            .into_iter()
            .next()
            .context("the gateway granted no addresses")?;
        check::stub(stub, &names.domain).await?;
        let (system, own, public) = tokio::join!(
            check::system(&names.domain),
            async {
                match &names.own_domain {
                    Some(domain) => check::system(domain).await,
                    None => Ok(()),
                }
            },
            async {
                match &public {
                    Some(name) => name.after().await,
                    None => Ok(()),
                }
            }
        );
        system.and(own).map_err(|error| {
            let failure = Failure::new(FAILED, format!("{error:#}"));
            failure.hint(format!(
                "{}; `kvpn doctor` shows which resolver is used",
                platform::NAMES_HINT
            ))
        })?;
        public.map_err(|error| {
            let failure = Failure::new(FAILED, format!("{error:#}; the change to this machine's names was rolled back"));
            failure.hint("check whether another VPN or a firewall keeps DNS to itself; `kvpn doctor` shows which resolver is used")
        })?;
        Ok(())
    }
}
