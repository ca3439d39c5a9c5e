//! Connections that are passed on byte by byte: whole, with half-closed ends and resets as they come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::choice::Route;
use super::dial::{Addresses, Stream};
use super::events::{ConnectionRecord, Counters, Protocol, Record, Share, count};
use super::rewound::Rewound;
use super::shared::Shared;

/// A connection to whoever serves a client's.
pub(super) struct Upstream {
    pub(super) stream: Box<dyn Stream>,
    /// What it has said already.
    pub(super) first: Bytes,
    pub(super) to: Share,
    pub(super) counters: Arc<Counters>,
}

/// Connects to where the choice says for connections; None when nobody is there.
pub(super) async fn dial(shared: &Shared, addresses: Addresses) -> Option<Upstream> {
    let mut to = Share::Origin;
    if let Route::Laptop(claim) = shared.choice().route_connection(|| shared.dice()) {
        match shared.dial_laptop(&claim, addresses).await {
            Ok(stream) => {
                let to = Share::Laptop(claim.owner.clone());
                return Some(Upstream::new(stream, to, Arc::clone(&claim.counters)));
            }
            Err(_) if claim.fallback => {
                count(&claim.counters.fallbacks);
                to = Share::Fallback(claim.owner.clone());
            }
            Err(error) => {
                tracing::debug!(%error, owner = %claim.owner, "a laptop does not take a connection");
                count(&claim.counters.errors);
                return None;
            }
        }
    }
    match shared.dial_origin(addresses).await {
        Ok(stream) => Some(Upstream::new(stream, to, Arc::clone(&shared.origin))),
        Err(error) => {
            tracing::debug!(%error, "the origin does not take a connection");
            count(&shared.origin.errors);
            None
        }
    }
}

/// What a client's connection is recorded as.
#[derive(Clone, Copy)]
pub(super) struct Incoming {
    pub(super) protocol: Protocol,
    pub(super) addresses: Addresses,
    pub(super) accepted: Instant,
}

/// Passes `client` on to `upstream`, or to where the choice says, until both are done.
pub(super) async fn serve(
    shared: &Shared,
    client: Rewound<TcpStream>,
    incoming: Incoming,
    upstream: Option<Upstream>,
) {
    let upstream = match upstream {
        Some(upstream) => Some(upstream),
        None => dial(shared, incoming.addresses).await,
    };
    match upstream {
        Some(upstream) => splice(shared, client, incoming, upstream).await,
        None => refuse(shared, client.into_inner(), incoming),
    }
}

/// Resets a connection that nobody serves.
pub(super) fn refuse(shared: &Shared, client: TcpStream, incoming: Incoming) {
    drop(client.set_zero_linger());
    shared.record(incoming.record(None, 0, 0, false));
}

/// Passes bytes both ways. A side that ends its half is answered by the other at its leisure; a reset goes through.
pub(super) async fn splice(
    shared: &Shared,
    client: Rewound<TcpStream>,
    incoming: Incoming,
    upstream: Upstream,
) {
    let Upstream {
        stream,
        first,
        to,
        counters,
    } = upstream;
    count(&counters.connections);
    let mut stream = Rewound::new(first, stream);
    let mut client = Tally {
        inner: client,
        counters: &counters,
        sent: 0,
        received: 0,
    };
    let copied = copy_bidirectional_with_sizes(&mut client, &mut stream, BUFFER, BUFFER).await;
    let (sent, received) = (client.sent, client.received);
    if copied.is_err() {
        count(&counters.errors);
        drop(client.inner.into_inner().set_zero_linger());
        stream.into_inner().reset();
    }
    shared.record(incoming.record(Some(to), sent, received, copied.is_ok()));
}

impl Incoming {
    fn record(self, to: Option<Share>, sent: u64, received: u64, complete: bool) -> Record {
        Record::Connection(ConnectionRecord {
            protocol: self.protocol,
            client: self.addresses.client,
            duration: self.accepted.elapsed(),
            to,
            sent,
            received,
            complete,
        })
    }
}

impl Upstream {
    fn new(stream: Box<dyn Stream>, to: Share, counters: Arc<Counters>) -> Self {
        Self {
            stream,
            first: Bytes::new(),
            to,
            counters,
        }
    }
}

/// The client's side, counted.
struct Tally<'a> {
    inner: Rewound<TcpStream>,
    counters: &'a Counters,
    sent: u64,
    received: u64,
}

impl AsyncRead for Tally<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let length = (buffer.filled().len() - before) as u64;
        self.sent += length;
        self.counters.sent.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tally<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.received += length as u64;
        self.counters
            .received
            .fetch_add(length as u64, Ordering::Relaxed);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Bytes each way that wait in the gateway for a slow reader, besides the kernel's.
const BUFFER: usize = 16 << 10;
