//! The real client's data path, without Kubernetes around it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use ipnetwork::IpNetwork;
use kvpn_client::tunnel::{self, Carrier, Settings};
use kvpn_wire::wireguard::PublicKey;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::{Control, new_key};
use crate::say;

/// The session's name.
const NAME: &str = "bench";
/// How often the right to the session is renewed; the gateway gives 15 minutes.
const RENEWAL: Duration = Duration::from_secs(300);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    control: Control,
    /// Where the gateway's `udp` carrier answers
    #[arg(long, required_unless_present = "api")]
    gateway: Option<SocketAddr>,
    /// The kubeconfig of `kvpn-bench port-forward`: the `api` carrier
    #[arg(long, conflicts_with = "gateway")]
    api: Option<PathBuf>,
    /// The interface's name
    #[arg(long, default_value = "kvpn0")]
    interface: String,
    /// What goes into the tunnel; may be repeated
    #[arg(long = "route")]
    routes: Vec<IpNetwork>,
    /// A TCP port of 127.0.0.1 to which the gateway may open flows; may be repeated
    #[arg(long = "expose")]
    exposed: Vec<u16>,
}

/// Opens the session and the tunnel, says `ready`, and stays until SIGTERM. With ports to expose a line before it says the key's
/// fingerprint and the gateway's addresses in the tunnel.
///
/// # Errors
/// The gateway refuses or does not answer, or there is no TUN.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let private_key = new_key()?;
    let key = private_key.public();
    let super_packets = options.api.is_some();
    let grant = options.control.create(key, NAME, super_packets)?;
    let carrier = match (options.api, options.gateway) {
        (Some(kubeconfig), _) => Carrier::Api(kubeconfig),
        (None, gateway) => Carrier::Udp(gateway.context("--gateway or --api")?),
    };
    renew(options.control, key, super_packets);
    let settings = Settings {
        private_key,
        grant,
        carrier,
        interface: options.interface,
        routes: options.routes,
        exposed: options.exposed.into_iter().collect(),
    };
    if !settings.exposed.is_empty() {
        // What a Service's annotation has to name, and where the control API is inside the tunnel.
        let gateways = settings.grant.addresses.iter();
        let gateways: Vec<String> = gateways.map(|one| one.gateway.to_string()).collect();
        say(format!("{} {}", key.fingerprint(), gateways.join(" ")));
    }
    // One thread, as the agent has.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tunnel::run(settings, || say("ready"), async {
            terminate.recv().await;
        })
        .await
    })
}

/// Renews the session for as long as the program runs.
#[expect(clippy::disallowed_methods, reason = "nothing but time to wait for")]
fn renew(control: Control, key: PublicKey, super_packets: bool) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(RENEWAL);
            if let Err(error) = control.create(key, NAME, super_packets) {
                tracing::warn!(%error, "the session was not renewed");
            }
        }
    });
}
