//! A whole gateway: its settings, its sockets, its threads.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use kvpn_gateway_core::{Config, KernelFamilies, Limits, Shard};
use kvpn_wire::control::{ClusterFacts, Datapath};
use rand::TryRng as _;
use tokio::net::TcpListener;

use crate::cli::{List, Options};
use crate::commands::Commands;
use crate::directory::Directory;
use crate::driver::{Driver, Opening, Parts};
use crate::http::{self, ControlConnections};
use crate::kernel::Datapaths;
use crate::listening;
use crate::neighbours::Neighbours;
use crate::pod;
use crate::services::{Kubernetes, Services};
use crate::threads::Drivers;

/// Drivers unless more are asked for: one moves several Gbit/s.
const MOST_DRIVERS: usize = 8;
/// Port of DNS.
const DNS_PORT: u16 = 53;

/// What a gateway is started with. Port 0 means: any free one.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Flags and environment.
    pub options: Options,
    /// What the pod sees of the cluster.
    pub cluster: ClusterFacts,
    /// Where DNS is relayed to.
    pub nameservers: Vec<SocketAddr>,
    /// Where keys come from.
    pub seed: [u8; 32],
}

impl Settings {
    /// The settings that follow from the options, the pod, and the operating system's random source.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        let mut seed = [0; 32];
        rand::rngs::SysRng
            .try_fill_bytes(&mut seed)
            .context("reading the system's random source")?;
        let cluster = pod::cluster_facts(&options.pod);
        let nameservers = cluster
            .nameservers
            .iter()
            .map(|&address| SocketAddr::new(address, DNS_PORT))
            .collect();
        Ok(Self {
            options: options.clone(),
            cluster,
            nameservers,
            seed,
        })
    }

    /// The parts of the gateway: as many as it may use cores, unless it is told.
    fn shards(&self) -> Vec<Shard> {
        let told = self.options.bounds.shards.map(usize::from);
        let cores = || {
            std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_DRIVERS))
        };
        Shard::all(told.unwrap_or_else(cores)).collect()
    }

    /// The configuration of the first part.
    fn core(self, kernel: KernelFamilies, note: Option<String>, udp_port: u16) -> Config {
        Config {
            seed: self.seed,
            shard: Shard::default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.cluster,
            nameservers: self.nameservers,
            allow: flatten(self.options.policy.allow),
            allow_nodes: self.options.policy.allow_nodes,
            kernel,
            datapath_note: note,
            udp_port,
            udp_endpoints: flatten(self.options.listen.udp_endpoints),
            limits: Limits {
                max_sessions: usize::from(self.options.bounds.max_sessions),
                max_flows: self.options.bounds.max_flows,
                ..Limits::default()
            },
        }
    }
}

/// A gateway whose drivers run and whose HTTP side waits for [`Gateway::serve`].
#[derive(Debug)]
pub struct Gateway {
    /// Where the `udp` carrier listens.
    pub udp: SocketAddr,
    /// Where the `api` carrier listens.
    pub carrier: SocketAddr,
    /// Where the control API listens.
    pub control: SocketAddr,
    /// Where health and metrics are.
    pub health: SocketAddr,
    listeners: Listeners,
    commands: Commands,
    kubernetes: Kubernetes,
    connections: ControlConnections,
    drivers: Drivers,
}

#[derive(Debug)]
struct Listeners {
    control: TcpListener,
    health: TcpListener,
}

impl Gateway {
    /// Opens all sockets, and the kernel's datapath if it is wanted and possible, and starts the drivers.
    ///
    /// # Errors
    /// When a port is taken.
    pub async fn start(mut settings: Settings) -> anyhow::Result<Self> {
        raise_file_limit();
        pod::add_own_addresses(&mut settings.cluster).await;
        let listen = &settings.options.listen;
        let control = listen_on(loopback(listen.control_port), "the control API").await?;
        let health = listen_on_all(listen.health_port, "health and metrics").await?;
        let shards = settings.shards();
        let (datapath, offload) = (settings.options.datapath, settings.options.offload);
        let opening = Opening {
            carrier: loopback(listen.carrier_port),
            udp_port: listen.udp_port,
            offload: offload.is_on(),
            count: shards[0].count(),
        };
        let (kernel, note) = Datapaths::open(datapath, offload, &shards).await;
        let parts = Parts::open(&opening, kernel.parts)?;
        let (udp, carrier) = (parts[0].udp_address()?, parts[0].carrier_address()?);
        let wakers: Vec<_> = parts.iter().map(Parts::waker).collect();
        let directory = Arc::new(Directory::new(opening.count));
        let (commands, receivers) = Commands::new(&wakers, Arc::clone(&directory));
        let (connections_tx, connections) = http::control_connections();
        let kubernetes = Kubernetes::of_pod(&settings.options.pod, &settings.cluster.pod_addresses);
        let config = settings.core(kernel.families, note, udp.port());
        announce(&config, &parts[0].offload());
        let mut drivers = Drivers::default();
        let neighbours = Neighbours::all(&wakers, &directory);
        for ((parts, commands), neighbours) in parts.into_iter().zip(receivers).zip(neighbours) {
            let config = Config {
                shard: neighbours.shard(),
                ..config.clone()
            };
            let control = connections_tx.clone();
            drivers.start(Driver::new(parts, config, commands, neighbours, control))?;
        }
        Ok(Self {
            udp,
            carrier,
            control: control.local_addr()?,
            health: health.local_addr()?,
            listeners: Listeners { control, health },
            commands,
            kubernetes,
            connections,
            drivers,
        })
    }

    /// Serves HTTP until `stop` is done or a driver dies, gives exposed Services back, then stops the drivers.
    ///
    /// # Errors
    /// What a driver died of.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            listeners,
            commands,
            kubernetes,
            connections,
            mut drivers,
            ..
        } = self;
        let (services, handle) = Services::new(commands.clone(), kubernetes.clone());
        let services = tokio::spawn(services.run());
        let parts = http::Parts {
            commands: commands.clone(),
            services: handle.clone(),
            kubernetes,
        };
        tokio::select! {
            () = async { stop.await; handle.leave().await } => {}
            served = http::serve_control(listeners.control, connections, parts) => served?,
            served = http::serve_health(listeners.health, commands.clone()) => served?,
            () = drivers.ended() => {}
        }
        services.abort();
        commands.stop();
        drivers.join()
    }
}

fn announce(config: &Config, offload: &str) {
    let datapath = if config.kernel.any() {
        Datapath::Kernel
    } else {
        Datapath::Userspace
    };
    tracing::info!(
        %datapath,
        offload,
        note = config.datapath_note,
        ping = config.cluster.ping,
        udp = config.udp_port,
        "gateway started"
    );
}

fn flatten<T>(lists: Vec<List<T>>) -> Vec<T> {
    lists.into_iter().flat_map(|list| list.0).collect()
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn listen_on(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address} for {what}"))
}

async fn listen_on_all(port: u16, what: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    listening::tcp(port)
        .await
        .with_context(|| format!("listening on {address} for {what}"))
}

/// Each flow has a socket; the usual soft limit of 1024 is for programs that use select(2).
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    ) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}
