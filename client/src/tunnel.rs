//! A session's data path without Kubernetes, helper and names, for benches and tests: the agent's own driver with a TUN
//! that this process opens itself, and one carrier.
//!
//! Whoever calls has opened the session at the gateway already. Must not be used by the program: there the helper
//! holds the TUN, and the agent is not root.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnetwork::IpNetwork;
use kvpn_client_core::{CarrierChoice, ClientState, Config, Names, Netmap, tunnel_mtu};
use kvpn_k8s::{Cluster, DatapathChoice, Forward, GatewayPod, KubeOptions};
use kvpn_wire::API_CARRIER_PORT;
use kvpn_wire::control::SessionGrant;
use kvpn_wire::packet::Protocol;
use kvpn_wire::wireguard::PrivateKey;
use tokio::sync::mpsc;

use crate::agent::driver::{self, Command, Driver, Occurrence, UdpCarrier};
use crate::agent::{now, session};
use crate::os::platform::{SystemRoutes, SystemTun};
use crate::os::{Routes as _, Tun as _};

/// How long the gateway's first answer may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// What a tunnel is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The session's own key.
    pub private_key: PrivateKey,
    /// What the gateway granted for it.
    pub grant: SessionGrant,
    /// What moves its datagrams.
    pub carrier: Carrier,
    /// The interface's name, which must be free; 15 bytes at most.
    pub interface: String,
    /// What goes into the tunnel.
    pub routes: Vec<IpNetwork>,
    /// TCP ports of this machine's programs to which the gateway may open flows.
    pub exposed: BTreeSet<u16>,
}

/// The one carrier of such a session. When it breaks, the session is over.
#[derive(Debug, Clone)]
pub enum Carrier {
    /// Where the gateway's `udp` carrier answers.
    Udp(SocketAddr),
    /// The kubeconfig of an API server that forwards to the pod `kvpn-gateway-0` in the context's namespace.
    Api(PathBuf),
}

/// Opens the TUN, routes to it, and moves packets until `stop` is done. Calls `ready` when the gateway has answered.
///
/// # Errors
///
/// There is no TUN for us (CAP_NET_ADMIN), the routes cannot be set, or the gateway does not answer within 10 s.
pub async fn run(
    settings: Settings,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let tun = open_tun(&settings).await?;
    let forward = match &settings.carrier {
        Carrier::Udp(_) => None,
        Carrier::Api(kubeconfig) => Some(forward(kubeconfig.clone()).await?),
    };
    let (outlets, mut news) = driver::outlets();
    let exposed = settings.exposed.clone();
    let state = ClientState::new(config(settings), now());
    let (driver, handle) = Driver::new(state, UdpCarrier::open(true), outlets);
    let driving = tokio::spawn(tokio::task::unconstrained(driver.run()));
    let offload = tun.offload();
    handle.tell(Command::Tun(tun.into_handle(), offload)).await;
    if let Some(forward) = forward {
        handle.tell(Command::Api(forward)).await;
    }
    tokio::time::timeout(HANDSHAKE_LIMIT, established(&mut news.occurrence_rx))
        .await
        .context("the gateway does not answer")??;
    let tcp = |port| (Protocol::Tcp, port);
    handle.expose(exposed.into_iter().map(tcp).collect()).await;
    ready();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            // Path changes and lookups want nothing done here.
            Some(_) = news.occurrence_rx.recv() => {}
            Some(_) = news.route_rx.recv() => {}
            Some(_) = news.question_rx.recv() => {}
        }
    }
    handle.tell(Command::Stop).await;
    Ok(driving.await?)
}

/// The TUN, up, with the session's addresses and routes.
async fn open_tun(settings: &Settings) -> anyhow::Result<SystemTun> {
    let tun = SystemTun::create(&settings.interface, true)?;
    let link = tun.index()?;
    let routes = SystemRoutes::open()?;
    let blocks = settings.grant.addresses.iter();
    let blocks: Vec<IpNetwork> = blocks
        .map(|addresses| session::block(addresses.client))
        .collect::<Result<_, _>>()?;
    let mtu = u16::try_from(tunnel_mtu(&settings.grant)).unwrap_or(settings.grant.mtu);
    routes.bring_up(link, &blocks, mtu).await?;
    for range in &settings.routes {
        routes.add(link, *range).await?;
    }
    Ok(tun)
}

/// A stream to the gateway's `api` carrier.
async fn forward(kubeconfig: PathBuf) -> anyhow::Result<Forward> {
    let cluster = Cluster::load(&KubeOptions {
        kubeconfig: Some(kubeconfig),
        ..KubeOptions::default()
    })?;
    let gateway = GatewayPod {
        namespace: cluster.namespace().to_owned(),
        name: "kvpn-gateway-0".to_owned(),
        uid: String::new(),
        node: None,
        host_ips: Vec::new(),
        pod_ips: Vec::new(),
        image: String::new(),
        version: None,
        datapath: DatapathChoice::Auto,
        ready: true,
    };
    Ok(cluster.forward(&gateway, API_CARRIER_PORT).await?)
}

fn config(settings: Settings) -> Config {
    let (carrier, udp_candidates) = match settings.carrier {
        Carrier::Udp(gateway) => (CarrierChoice::Udp, vec![gateway]),
        Carrier::Api(_) => (CarrierChoice::Api, Vec::new()),
    };
    Config {
        private_key: settings.private_key,
        grant: settings.grant,
        index: session::new_index(),
        seed: session::new_seed(),
        carrier,
        udp_candidates,
        names: Names {
            namespace: "default".to_owned(),
            domain: "cluster.local".to_owned(),
            namespaces: vec!["default".to_owned()],
            own_domain: None,
            reverse: Vec::new(),
        },
        netmap: Netmap::default(),
        ranges: settings.routes,
        split_dns: true,
        host_routes: false,
    }
}

async fn established(occurrence_rx: &mut mpsc::Receiver<Occurrence>) -> anyhow::Result<()> {
    while let Some(occurrence) = occurrence_rx.recv().await {
        if matches!(occurrence, Occurrence::Established(_)) {
            return Ok(());
        }
    }
    bail!("the driver ended")
}
