//! Opens a session with a gateway that is ready: keys, carriers, driver, the gateway's first answer. The same for sessions
//! with a TUN ([`startup`](super::startup)) and without one ([`stack`](super::stack)).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kvpn_client_core::{ClientState, Config, Names, Netmap, Path};
use kvpn_k8s::{Cluster, Forward, GatewayPod};
use kvpn_wire::API_CARRIER_PORT;
use tokio::sync::mpsc;

use crate::agent::board::Board;
use crate::agent::driver::{self, Driver, Figures, Handle, News, Occurrence, UdpCarrier};
use crate::agent::laptop::Laptop;
use crate::agent::message::{Access, Carrier};
use crate::agent::now;
use crate::agent::session::{self, Keys};
use crate::cli::failure::{FAILED, Failure};

/// How long the first answer of the gateway may take, once all is set up.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// What a session is opened with.
pub(crate) struct Opening<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) access: &'a Access,
    pub(crate) board: &'a Arc<Board>,
    pub(crate) figures: &'a Figures,
}

/// A session at the gateway, and the ways to it; nothing moves yet.
pub(crate) struct Opened {
    /// What identifies and protects the session.
    pub(crate) keys: Keys,
    /// A stream to the `api` carrier; `None` with `--carrier udp`.
    pub(crate) api: Option<Forward>,
    /// Addresses at which the gateway may answer UDP.
    pub(crate) udp_candidates: Vec<SocketAddr>,
}

impl Opening<'_> {
    /// Creates the session and finds the ways to it, all at once.
    ///
    /// # Errors
    ///
    /// The gateway refuses, its pod cannot be forwarded to, or no UDP address is known and `--carrier udp` was given.
    pub(crate) async fn session(
        &self,
        gateway: &GatewayPod,
        laptop: &Laptop,
    ) -> anyhow::Result<Opened> {
        let Self {
            cluster, access, ..
        } = self;
        let name = self.board.report(now()).name.to_string();
        let private = session::new_key()?;
        let request = session::request(&private, laptop, &[], name);
        let api = async {
            match access.carrier {
                Carrier::Auto | Carrier::Api => {
                    cluster.forward(gateway, API_CARRIER_PORT).await.map(Some)
                }
                Carrier::Udp => Ok(None),
            }
        };
        let endpoints = async {
            match access.carrier {
                Carrier::Auto | Carrier::Udp => cluster.udp_endpoints(gateway).await,
                Carrier::Api => Ok(Vec::new()),
            }
        };
        let grant = cluster.create_session(gateway, &request);
        let (grant, api, endpoints) = tokio::join!(grant, api, endpoints);
        let grant = grant?;
        let udp_candidates = session::candidates(endpoints.unwrap_or_default(), &grant);
        if access.carrier == Carrier::Udp && udp_candidates.is_empty() {
            return Err(no_udp(gateway).into());
        }
        let end = session::gateway_report(gateway, &grant);
        self.board.update(|report| report.gateway = Some(end));
        Ok(Opened {
            keys: Keys { private, grant },
            api: api?,
            udp_candidates,
        })
    }

    /// What the core has to know of the session; ranges and resolvers are the caller's.
    pub(crate) fn config(&self, keys: &Keys, udp: &[SocketAddr], names: &Names) -> Config {
        Config {
            private_key: keys.private.clone(),
            grant: keys.grant.clone(),
            index: session::new_index(),
            seed: session::new_seed(),
            carrier: self.access.carrier.into(),
            udp_candidates: udp.to_vec(),
            names: names.clone(),
            netmap: Netmap::default(),
            ranges: Vec::new(),
            split_dns: true,
            host_routes: false,
        }
    }

    /// Starts the driver, without TUN and `api` carrier.
    pub(crate) fn drive(&self, config: Config) -> (Handle, News) {
        let udp = match self.access.carrier {
            Carrier::Auto | Carrier::Udp => UdpCarrier::open(self.access.offload.is_on()),
            Carrier::Api => UdpCarrier::none(),
        };
        let (outlets, news) = driver::outlets();
        let (driver, handle) = Driver::new(ClientState::new(config, now()), udp, outlets);
        // The driver bounds its own turns.
        tokio::spawn(tokio::task::unconstrained(driver.run()));
        self.figures.set(handle.clone());
        (handle, news)
    }

    /// Waits until the gateway has answered through the tunnel; the path on which it did.
    ///
    /// # Errors
    ///
    /// It did not within 10 s, or the only carrier broke.
    pub(crate) async fn first_answer(
        &self,
        occurrence_rx: &mut mpsc::Receiver<Occurrence>,
    ) -> anyhow::Result<Path> {
        self.board.step("waiting for the gateway's first answer");
        let answered = tokio::time::timeout(HANDSHAKE_LIMIT, self.established(occurrence_rx));
        let path = answered
            .await
            .unwrap_or_else(|_| Err(self.silent_gateway().into()))?;
        tracing::info!(%path, "the tunnel works");
        Ok(path)
    }

    async fn established(
        &self,
        occurrence_rx: &mut mpsc::Receiver<Occurrence>,
    ) -> anyhow::Result<Path> {
        while let Some(occurrence) = occurrence_rx.recv().await {
            match occurrence {
                Occurrence::Established(path) => return Ok(path),
                Occurrence::ApiLost(why) if self.access.carrier == Carrier::Api => {
                    anyhow::bail!("the stream through the API server broke: {why}")
                }
                Occurrence::ApiLost(_)
                | Occurrence::ApiWanted
                | Occurrence::Quiet
                | Occurrence::PathChanged(..) => {}
            }
        }
        anyhow::bail!("the driver ended")
    }

    fn silent_gateway(&self) -> Failure {
        let seconds = HANDSHAKE_LIMIT.as_secs();
        let failure = Failure::new(
            FAILED,
            format!("the gateway did not answer through the tunnel within {seconds} s"),
        );
        match self.access.carrier {
            Carrier::Udp => failure.hint(
                "check that UDP gets to the node port or load balancer, or leave --carrier udp out",
            ),
            Carrier::Auto | Carrier::Api => {
                failure.hint("check the gateway's log: `kubectl logs kvpn-gateway-0`")
            }
        }
    }
}

fn no_udp(gateway: &GatewayPod) -> Failure {
    let failure = Failure::new(
        FAILED,
        format!(
            "no UDP address of the gateway {} is known, and --carrier udp was given",
            gateway.full_name()
        ),
    );
    failure.hint("install the gateway with `--udp nodeport` or `--udp loadbalancer`, or leave --carrier udp out")
}
