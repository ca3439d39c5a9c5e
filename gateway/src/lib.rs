//! The gateway's shell: sockets, threads, clock and environment around `kvpn-gateway-core`, which decides.
//!
//! Threads: the drivers, one for each part of the sessions (a `mio` loop that owns that part of the core's state, its carriers, its flows'
//! sockets and its TUN), and HTTP (control API and health, on tokio). They speak through bounded channels. A library only so that tests can
//! start it.

pub mod cli;
mod commands;
mod dialled;
mod directory;
mod driver;
pub mod exposure;
mod gateway;
mod http;
mod kernel;
mod listening;
mod neighbours;
mod pod;
mod services;
mod threads;

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
