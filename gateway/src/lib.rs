//! The gateway's shell: sockets, threads, clock and environment around `kvpn-gateway-core`, which decides.
//!
//! Two threads: the driver (a `mio` loop that owns the core's state, the carriers, the flows' sockets and the TUN) and
//! HTTP (control API and health, on tokio). They speak through a bounded channel. A library only so that tests can start it.

pub mod cli;
mod commands;
mod driver;
pub mod exposure;
mod gateway;
mod http;
mod kernel;
mod pod;

pub use gateway::{Gateway, Settings};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the gateway until SIGTERM or SIGINT.
///
/// # Errors
/// When a port cannot be listened on, or the driver died.
pub fn run(options: &cli::Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting tokio")?;
    runtime.block_on(async {
        let gateway = Gateway::start(Settings::new(options)?).await?;
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        gateway
            .serve(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::info!("stopping");
            })
            .await
    })
}
