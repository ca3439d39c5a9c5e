//! A client's connection from its acceptance until its protocol is known. What it says is kept for whoever serves it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::Limits;
use super::detect::{Detected, detect};
use super::dial::Addresses;
use super::events::Protocol;
use super::http::{self, Version};
use super::raw::{self, Incoming, Upstream};
use super::rewound::Rewound;
use super::shared::Shared;

pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        tokio::select! {
            () = shared.close.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => begin(&shared, stream, client),
                Err(error) => {
                    // Out of file descriptors, most likely: they do not come back any sooner by asking.
                    tracing::warn!(%error, "an exposure cannot accept connections");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }
}

fn begin(shared: &Arc<Shared>, stream: TcpStream, client: SocketAddr) {
    let Some(counted) = shared.enter(shared.settings.limits.connections) else {
        drop(stream.set_zero_linger());
        return;
    };
    let own = Arc::clone(shared);
    shared.spawn(async move {
        if let Err(error) = serve(own, stream, client).await {
            tracing::debug!(%error, "an exposure's client connection failed");
        }
        drop(counted);
    });
}

async fn serve(shared: Arc<Shared>, mut stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    let server = stream.local_addr()?;
    let addresses = Addresses { client, server };
    let mut incoming = Incoming {
        protocol: Protocol::Unknown,
        addresses,
        accepted: Instant::now(),
    };
    prepare(&stream)?;
    let limits = shared.settings.limits;
    let mut first = BytesMut::new();
    let mut opening = opening(&mut stream, &mut first, &limits, limits.first_bytes).await?;
    let mut upstream = None;
    if opening == Opening::Silent {
        upstream = raw::dial(&shared, addresses).await;
        let Some(upstream) = &mut upstream else {
            raw::refuse(&shared, stream, incoming);
            return Ok(());
        };
        opening = who_speaks_first(&mut stream, &mut first, upstream, &limits).await?;
    }
    let stream = Rewound::new(first.freeze(), stream);
    match opening {
        Opening::Http(version) => {
            drop(upstream);
            http::serve(shared, stream, addresses, version).await;
        }
        Opening::Other(protocol) => {
            incoming.protocol = protocol;
            raw::serve(&shared, stream, incoming, upstream).await;
        }
        Opening::Silent => raw::serve(&shared, stream, incoming, upstream).await,
        Opening::Gone => {}
    }
    Ok(())
}

/// Small messages leave at once, and a client that has vanished is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_PROBE);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// How a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Http(Version),
    Other(Protocol),
    /// Not a byte came.
    Silent,
    /// The client left without a byte.
    Gone,
}

/// Reads until the protocol is known. `silence` is how long a client may say nothing at all.
async fn opening(
    stream: &mut TcpStream,
    first: &mut BytesMut,
    limits: &Limits,
    silence: Duration,
) -> io::Result<Opening> {
    let mut line_end = None;
    loop {
        let deadline = match detect(first) {
            Detected::Http1 => return Ok(Opening::Http(Version::Http1)),
            Detected::Http2 => return Ok(Opening::Http(Version::Http2)),
            Detected::Tls => return Ok(Opening::Other(Protocol::Tls)),
            Detected::Other => return Ok(UNKNOWN),
            Detected::LikelyHttp => {
                *line_end.get_or_insert_with(|| Instant::now() + limits.first_line)
            }
            Detected::Undecided => Instant::now() + silence,
        };
        match timeout_at(deadline, stream.read_buf(first)).await {
            Ok(read) => match read? {
                0 if first.is_empty() => return Ok(Opening::Gone),
                0 => return Ok(UNKNOWN),
                _ => {}
            },
            Err(_) if first.is_empty() => return Ok(Opening::Silent),
            Err(_) => return Ok(UNKNOWN),
        }
    }
}

/// With a silent client, the other side may be the one to begin (SMTP, MySQL); or the client only connected in advance.
async fn who_speaks_first(
    stream: &mut TcpStream,
    first: &mut BytesMut,
    upstream: &mut Upstream,
    limits: &Limits,
) -> io::Result<Opening> {
    let mut answer = BytesMut::new();
    tokio::select! {
        read = stream.read_buf(first) => if read? == 0 {
            return Ok(Opening::Gone);
        },
        read = upstream.stream.read_buf(&mut answer) => {
            read?;
            upstream.first = answer.freeze();
            return Ok(Opening::Silent);
        }
    }
    opening(stream, first, limits, limits.first_bytes).await
}

const UNKNOWN: Opening = Opening::Other(Protocol::Unknown);

const EXHAUSTED: Duration = Duration::from_millis(50);

/// Idle time before the first probe of a client, and between probes.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_PROBE: Duration = Duration::from_secs(15);
