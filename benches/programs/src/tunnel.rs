//! The real client's data path, without Kubernetes around it.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use kvpn_client::tunnel::{self, Settings};
use tokio::signal::unix::{SignalKind, signal};

use crate::control::{Control, new_key};
use crate::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    control: Control,
    /// Where the gateway's `udp` carrier answers
    #[arg(long)]
    gateway: SocketAddr,
    /// The interface's name
    #[arg(long, default_value = "kvpn0")]
    interface: String,
    /// What goes into the tunnel; may be repeated
    #[arg(long = "route")]
    routes: Vec<IpNetwork>,
}

/// Opens the session and the tunnel, says `ready`, and stays until SIGTERM.
///
/// # Errors
/// The gateway refuses or does not answer, or there is no TUN.
pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let private_key = new_key()?;
    let grant = options.control.create(private_key.public(), "bench")?;
    let settings = Settings {
        private_key,
        grant,
        gateway: options.gateway,
        interface: options.interface,
        routes: options.routes,
    };
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
