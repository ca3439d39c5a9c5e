//! A client's HTTP connection, 1.1 or 2: hyper reads and writes it, [`forward`] sends each request where it belongs.

mod answer;
mod body;
mod exchange;
mod forward;
mod gate;
mod headers;
mod mirror;
mod upgrade;
mod upstream;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::dial::Addresses;
use super::rewound::Rewound;
use super::shared::Shared;
use upstream::Upstreams;

/// Which HTTP a client speaks; laptop and origin are spoken to in the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// What the requests of one connection share.
struct Client {
    shared: Arc<Shared>,
    addresses: Addresses,
    version: Version,
    upstreams: Arc<Upstreams>,
    /// Connections for copies, apart, so that what waits for a slow laptop is only ever a copy.
    mirrors: Arc<Upstreams>,
    /// Requests under way.
    requests: AtomicUsize,
}

/// Serves a connection whose protocol is known until it ends.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: Rewound<TcpStream>,
    addresses: Addresses,
    version: Version,
) {
    let counted = shared.http.enter();
    let upstreams = || Arc::new(Upstreams::new(Arc::clone(&shared), addresses, version));
    let client = Arc::new(Client {
        upstreams: upstreams(),
        mirrors: upstreams(),
        shared,
        addresses,
        version,
        requests: AtomicUsize::new(0),
    });
    let served = match version {
        Version::Http1 => client.serve_http1(stream).await,
        Version::Http2 => client.serve_http2(stream).await,
    };
    if let Err(error) = served {
        tracing::debug!(%error, "an exposure's HTTP connection ended");
    }
    drop(counted);
}

impl Client {
    /// Draining is done by the responses: each says that it is the last.
    async fn serve_http1(self: Arc<Self>, stream: Rewound<TcpStream>) -> hyper::Result<()> {
        let limits = self.shared.settings.limits;
        http1::Builder::new()
            .preserve_header_case(true)
            .title_case_headers(true)
            .auto_date_header(false)
            // It would run while a connection is idle, too, and close it while a request is on its way.
            .header_read_timeout(None)
            .max_headers(limits.header_fields)
            .max_header_size(limits.header_bytes as usize)
            .timer(TokioTimer::new())
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| Arc::clone(&self).forward(request)),
            )
            .with_upgrades()
            .await
    }

    async fn serve_http2(self: Arc<Self>, stream: Rewound<TcpStream>) -> hyper::Result<()> {
        let shared = Arc::clone(&self.shared);
        let connection = http2::Builder::new(Tasks(Arc::clone(&shared)))
            .auto_date_header(false)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(shared.settings.limits.header_bytes)
            .timer(TokioTimer::new())
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| Arc::clone(&self).forward(request)),
            );
        let mut connection = pin!(connection);
        tokio::select! {
            served = connection.as_mut() => return served,
            () = shared.drained() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

/// Runs hyper's tasks as the exposure's.
#[derive(Clone)]
struct Tasks(Arc<Shared>);

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(async move {
            task.await;
        });
    }
}

/// Streams that a client may have open on a connection: what Go's server allows.
const STREAMS: u32 = 250;
