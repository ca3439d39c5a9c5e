//! `kvpn-bench`: what the benches run in their namespaces. A tunnel to a gateway that stands outside Kubernetes, the
//! servers and clients that measure through it, and a crowd of peers.
//!
//! Measures and prints one JSON document; what is compared with what stands in benches/tunnels.

mod control;
mod crowd;
mod port_forward;
mod probe;
mod server;
mod stream;
mod tunnel;

use std::fmt::Display;
use std::time::Instant;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
struct Arguments {
    /// What to log: a level, or directives of tracing's `EnvFilter`.
    #[arg(long, global = true, default_value = "warn")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hold a tunnel to a gateway, until SIGTERM
    Tunnel(tunnel::Options),
    /// Forward a port as an API server and a kubelet do, until killed
    PortForward(port_forward::Options),
    /// Serve HTTP (8080), lines (9000) and streams (9100), until killed
    Serve(server::Options),
    /// Keep-alive requests, one after the other: p50 and p99
    Requests(probe::Requests),
    /// New connections a second, one after the other
    Connections(probe::Connections),
    /// One stream, hashed at both ends
    Stream(stream::Options),
    /// Hold idle connections, until a line comes
    Hold(probe::Hold),
    /// Many peers of one gateway
    Crowd(crowd::Options),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&arguments.log))
        .with_writer(std::io::stderr)
        .init();
    match arguments.command {
        Command::Tunnel(options) => tunnel::run(options),
        Command::PortForward(options) => port_forward::run(&options),
        Command::Serve(options) => server::run(&options),
        Command::Requests(options) => probe::requests(&options),
        Command::Connections(options) => probe::connections(&options),
        Command::Stream(options) => stream::run(&options),
        Command::Hold(options) => probe::hold(&options),
        Command::Crowd(options) => crowd::run(&options),
    }
}

/// The clock.
#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> Instant {
    Instant::now()
}

/// An answer, for whoever started this.
#[expect(clippy::print_stdout, reason = "the program's one output")]
fn say(text: impl Display) {
    println!("{text}");
}

/// Waits until whoever started this has looked.
fn wait_for_line() -> anyhow::Result<()> {
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
