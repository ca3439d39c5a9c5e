//! Latency of requests and rate of new connections, as a program sees them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::server::{HELD_PORT, HTTP_PORT, LINE_PORT};
use crate::{now, say, wait_for_line};

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Requests {
    /// The server's address
    server: IpAddr,
    /// How many at most
    #[arg(long, default_value_t = 2000)]
    count: usize,
    /// For how many seconds at most
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Connections {
    /// The server's address
    server: IpAddr,
    /// For how many seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Hold {
    /// The server's address
    server: IpAddr,
    /// How many
    count: usize,
}

/// `{"requests": N, "p50_ms": .., "p99_ms": .., "max_ms": ..}`
///
/// # Errors
/// The server is not reached, or an answer takes more than 5 s.
pub(crate) fn requests(options: &Requests) -> anyhow::Result<()> {
    let mut stream = connect(options.server, HTTP_PORT)?;
    let mut answer = [0; 1024];
    let mut times = Vec::with_capacity(options.count);
    let end = now() + Duration::from_secs_f64(options.seconds);
    while times.len() < options.count && (now() < end || times.is_empty()) {
        let start = now();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: pod\r\n\r\n")?;
        let mut filled = 0;
        while !answer[..filled].ends_with(b"\r\n\r\nok") {
            let count = stream.read(&mut answer[filled..])?;
            ensure!(count > 0, "the server closed");
            filled += count;
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |share: f64| millis(times[((times.len() - 1) as f64 * share) as usize]);
    say(json!({
        "requests": times.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0),
    }));
    Ok(())
}

/// `{"connections": N, "per_second": ..}`
///
/// # Errors
/// A connection is refused or takes more than 5 s.
pub(crate) fn connections(options: &Connections) -> anyhow::Result<()> {
    let start = now();
    let length = Duration::from_secs_f64(options.seconds);
    let mut count = 0_u32;
    while start.elapsed() < length {
        let mut stream = connect(options.server, LINE_PORT)?;
        stream.write_all(b"x\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        ensure!(answer == b"x\n", "the server closed");
        count += 1;
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    say(json!({ "connections": count, "per_second": rate }));
    Ok(())
}

/// `{"held": N, "seconds": ..}`, then waits for a line.
///
/// # Errors
/// A connection is refused or takes more than 5 s.
pub(crate) fn hold(options: &Hold) -> anyhow::Result<()> {
    raise_file_limit()?;
    let start = now();
    let held = (0..options.count).map(|_| connect(options.server, HELD_PORT));
    let held: Vec<TcpStream> = held.collect::<Result<_, _>>()?;
    let seconds = start.elapsed().as_secs_f64();
    say(json!({ "held": held.len(), "seconds": seconds }));
    wait_for_line()
}

/// Each connection is a descriptor.
pub(crate) fn raise_file_limit() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

pub(crate) fn connect(server: IpAddr, port: u16) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(server, port), PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
