//! From nothing to a session whose traffic and names were tried: find or install the gateway, open the session,
//! plan, have the helper change the machine, prove that it works.
//!
//! Undoes nothing itself: when this fails, its caller releases the helper, and that undoes all.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ipnetwork::IpNetwork;
use kvpn_client_core::{ClientState, Config, Names, Path, tunnel_mtu};
use kvpn_k8s::{Cluster, Discovery, Forward, GatewayPod};
use kvpn_wire::API_CARRIER_PORT;
use kvpn_wire::control::SessionGrant;
use tokio::sync::mpsc;

use crate::agent::board::Board;
use crate::agent::check::{self, PublicName};
use crate::agent::driver::{
    self, Command, Driver, Figures, Handle, HostRoutes, News, Occurrence, UdpCarrier,
};
use crate::agent::laptop::{self, Laptop};
use crate::agent::message::{Carrier, Start};
use crate::agent::network::Wish;
use crate::agent::ranges::{self, Findings, Plan};
use crate::agent::report::NetworkReport;
use crate::agent::session::{self, Keys};
use crate::agent::upstream::Upstream;
use crate::agent::{gateway, names, now, others};
use crate::cli::failure::{CONFLICT, FAILED, Failure};
use crate::helper::{Configured, DnsBackend, DnsConfig, HelperConnection, NetworkConfig};
use crate::os::Taken;

/// How long the first answer of the gateway may take, once all is set up.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

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
    /// Addresses at which the gateway may answer UDP.
    pub(crate) udp_candidates: Vec<SocketAddr>,
    /// What stays outside the tunnel even if a name has such an address.
    pub(crate) outside: Vec<IpNetwork>,
}

/// What was learnt about cluster and machine.
struct Learnt {
    laptop: Laptop,
    keys: Keys,
    api: Option<Forward>,
    discovery: Discovery,
    server_addresses: Vec<SocketAddr>,
    udp_candidates: Vec<SocketAddr>,
    public_name: Option<PublicName>,
}

impl Startup<'_> {
    /// Brings the session up.
    ///
    /// # Errors
    ///
    /// What failed, on which object; the exit code is in the chain.
    pub(crate) async fn establish(mut self) -> anyhow::Result<Standing> {
        let gateway = gateway::ready(self.cluster, self.start, self.board).await?;
        let learnt = self.learn(&gateway).await?;
        let plan = self.plan(&learnt).await?;
        let names = self.names(&learnt, &plan);
        let dns = names::dns_config(session::stubs(&learnt.keys.grant), &names);
        let end = session::gateway_report(&gateway, &learnt.keys.grant);
        self.board.update(|report| report.gateway = Some(end));
        let configured = self.configure(&learnt.keys.grant, &plan, &dns).await?;
        let Learnt {
            keys,
            api,
            udp_candidates,
            public_name,
            laptop,
            ..
        } = learnt;
        let candidates = udp_candidates.clone();
        let config = self.config(&keys, candidates, &names, &plan, configured.split);
        let (driver, news) = self.drive(config);
        let upstream = Upstream::new(&configured.upstreams);
        tokio::spawn(upstream.serve(news.question_rx, driver.clone()));
        driver
            .tell(Command::Tun(configured.tun, configured.offload))
            .await;
        if let Some(api) = api {
            driver.tell(Command::Api(api)).await;
        }
        let mut occurrence_rx = news.occurrence_rx;
        let path = self.first_answer(&mut occurrence_rx).await?;
        tracing::info!(%path, "the tunnel works");
        self.prove(&keys.grant, &names, public_name).await?;
        let (route_rx, outside) = (news.route_rx, plan.outside);
        let wish = Wish {
            addresses: session::blocks(&keys.grant)?,
            routes: plan.routes,
            dns,
        };
        Ok(Standing {
            gateway,
            keys,
            driver,
            occurrence_rx,
            route_rx,
            names,
            wish,
            resolvers: laptop.resolvers,
            udp_candidates,
            outside,
        })
    }

    /// Asks cluster, gateway and machine, all at once.
    async fn learn(&self, gateway: &GatewayPod) -> anyhow::Result<Learnt> {
        let Self { cluster, start, .. } = self;
        self.board.step(format!(
            "opening a session with {}/{}",
            gateway.namespace, gateway.name
        ));
        let laptop = laptop::look()
            .await
            .context("this machine's network cannot be looked at")?;
        let session_name = self.board.report(now()).name.to_string();
        let private = session::new_key()?;
        let request = session::request(&private, &laptop, &[], session_name);
        let api = async {
            match start.carrier {
                Carrier::Auto | Carrier::Api => {
                    cluster.forward(gateway, API_CARRIER_PORT).await.map(Some)
                }
                Carrier::Udp => Ok(None),
            }
        };
        let endpoints = async {
            match start.carrier {
                Carrier::Auto | Carrier::Udp => cluster.udp_endpoints(gateway).await,
                Carrier::Api => Ok(Vec::new()),
            }
        };
        let (grant, api, discovery, endpoints, server_addresses, public_name) = tokio::join!(
            cluster.create_session(gateway, &request),
            api,
            cluster.discover(cluster.namespace(), gateway),
            endpoints,
            cluster.api_server_addresses(),
            PublicName::before(cluster.server()),
        );
        let grant = grant?;
        let udp_candidates = session::candidates(endpoints.unwrap_or_default(), &grant);
        if start.carrier == Carrier::Udp && udp_candidates.is_empty() {
            return Err(no_udp(gateway).into());
        }
        let keys = Keys { private, grant };
        Ok(Learnt {
            laptop,
            keys,
            api: api?,
            discovery: discovery?,
            server_addresses,
            udp_candidates,
            public_name,
        })
    }

    /// Decides what is routed.
    async fn plan(&self, learnt: &Learnt) -> anyhow::Result<Plan> {
        let Learnt {
            laptop, discovery, ..
        } = learnt;
        for note in &discovery.notes {
            tracing::info!(note, "discovery");
        }
        let endpoints = (learnt.server_addresses.iter())
            .chain(&learnt.udp_candidates)
            .map(SocketAddr::ip);
        let grant = &learnt.keys.grant;
        let findings = Findings::of(self.start, laptop, discovery, grant, endpoints);
        let plan = ranges::plan(&findings).map_err(|swallowed| {
            Failure::new(CONFLICT, swallowed.to_string())
                .hint("name a smaller range, or leave that network")
        })?;
        for note in &plan.notes {
            self.board.note(note);
        }
        others::refuse_equal_ranges(&self.start.places, &self.board.report(now()), &plan.routes)
            .await?;
        Ok(plan)
    }

    fn names(&self, learnt: &Learnt, plan: &Plan) -> Names {
        let connected = self.cluster.namespace();
        let visible = learnt.discovery.namespaces.as_deref();
        let names = Names {
            namespace: connected.to_owned(),
            domain: names::domain(&learnt.keys.grant.cluster.search),
            namespaces: names::namespaces(connected, visible, &self.start.dns_namespaces),
            reverse: plan.reverse.clone(),
        };
        for hidden in names::hidden_namespaces(&names) {
            tracing::info!(
                namespace = hidden,
                "SERVICE.NAMESPACE is not routed: the namespace is a public domain too"
            );
        }
        names
    }

    async fn configure(
        &mut self,
        grant: &SessionGrant,
        plan: &Plan,
        dns: &DnsConfig,
    ) -> anyhow::Result<Configured> {
        self.board.step("setting routes and names");
        let config = NetworkConfig {
            name: None,
            addresses: session::blocks(grant)?,
            mtu: u16::try_from(tunnel_mtu(grant)).unwrap_or(grant.mtu),
            routes: plan.routes.clone(),
            dns: Some(dns.clone()),
            dns_backend: DnsBackend::Auto,
            offload: self.start.offload.is_on(),
        };
        let configured = match self.helper.configure(config).await {
            Ok(configured) => configured,
            Err(error) => return Err(self.not_set_up(error).await),
        };
        for text in configured.refused.iter().chain(&configured.notes) {
            self.board.note(text);
        }
        let domain = names::domain(&grant.cluster.search);
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
                domain,
                search: dns.search.clone(),
                routing_domains: dns.routing.clone(),
            });
        });
        Ok(configured)
    }

    async fn not_set_up(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(Taken(what)) = error.downcast_ref::<Taken>() else {
            return error.context("this machine's network could not be set up");
        };
        let name = &self.board.report(now()).name;
        let other = others::holder_of_resolv_conf(&self.start.places, name).await;
        let other = other.map_or_else(|| "SESSION".to_owned(), |name| name.to_string());
        Failure::new(CONFLICT, what)
            .hint(format!(
                "end that session first: `kvpn disconnect {other}`; with systemd-resolved several can be there at once"
            ))
            .into()
    }

    fn config(
        &self,
        keys: &Keys,
        udp: Vec<SocketAddr>,
        names: &Names,
        plan: &Plan,
        split_dns: bool,
    ) -> Config {
        Config {
            private_key: keys.private.clone(),
            grant: keys.grant.clone(),
            index: session::new_index(),
            seed: session::new_seed(),
            carrier: self.start.carrier.into(),
            udp_candidates: udp,
            names: names.clone(),
            ranges: plan.routes.clone(),
            split_dns,
            host_routes: true,
        }
    }

    fn drive(&self, config: Config) -> (Handle, News) {
        let udp = match self.start.carrier {
            Carrier::Auto | Carrier::Udp => UdpCarrier::open(self.start.offload.is_on()),
            Carrier::Api => UdpCarrier::none(),
        };
        let (outlets, news) = driver::outlets();
        let (driver, handle) = Driver::new(ClientState::new(config, now()), udp, outlets);
        // The driver bounds its own turns.
        tokio::spawn(tokio::task::unconstrained(driver.run()));
        self.figures.set(handle.clone());
        (handle, news)
    }

    async fn first_answer(
        &self,
        occurrence_rx: &mut mpsc::Receiver<Occurrence>,
    ) -> anyhow::Result<Path> {
        self.board.step("waiting for the gateway's first answer");
        let answered = tokio::time::timeout(HANDSHAKE_LIMIT, async {
            while let Some(occurrence) = occurrence_rx.recv().await {
                match occurrence {
                    Occurrence::Established(path) => return Ok(path),
                    Occurrence::ApiLost(why) if self.start.carrier == Carrier::Api => {
                        return Err(anyhow::anyhow!(
                            "the stream through the API server broke: {why}"
                        ));
                    }
                    Occurrence::ApiLost(_)
                    | Occurrence::ApiWanted
                    | Occurrence::Quiet
                    | Occurrence::PathChanged(..) => {}
                }
            }
            Err(anyhow::anyhow!("the driver ended"))
        });
        answered
            .await
            .unwrap_or_else(|_| Err(self.silent_gateway().into()))
    }

    fn silent_gateway(&self) -> Failure {
        let seconds = HANDSHAKE_LIMIT.as_secs();
        let failure = Failure::new(
            FAILED,
            format!("the gateway did not answer through the tunnel within {seconds} s"),
        );
        match self.start.carrier {
            Carrier::Udp => failure.hint(
                "check that UDP gets to the node port or load balancer, or leave --carrier udp out",
            ),
            Carrier::Auto | Carrier::Api => {
                failure.hint("check the gateway's log: `kubectl logs kvpn-gateway-0`")
            }
        }
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
        let (system, public) = tokio::join!(check::system(&names.domain), async {
            match &public {
                Some(name) => name.after().await,
                None => Ok(()),
            }
        });
        system.map_err(|error| {
            let failure = Failure::new(FAILED, format!("{error:#}"));
            failure.hint("look at the `hosts:` line of /etc/nsswitch.conf and at /etc/resolv.conf; `kvpn doctor` shows which resolver is used")
        })?;
        public.map_err(|error| {
            let failure = Failure::new(FAILED, format!("{error:#}; the change to this machine's names was rolled back"));
            failure.hint("check whether another VPN or a firewall keeps DNS to itself; `kvpn doctor` shows which resolver is used")
        })?;
        Ok(())
    }
}

fn no_udp(gateway: &GatewayPod) -> Failure {
    let GatewayPod {
        namespace, name, ..
    } = gateway;
    let failure = Failure::new(
        FAILED,
        format!(
            "no UDP address of the gateway {namespace}/{name} is known, and --carrier udp was given"
        ),
    );
    failure.hint("install the gateway with `--udp nodeport` or `--udp loadbalancer`, or leave --carrier udp out")
}
