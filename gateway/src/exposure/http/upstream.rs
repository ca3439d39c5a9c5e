//! One client connection's own connections to laptops and the origin: over HTTP/1.1 one a request under way, kept for the
//! next; over HTTP/2 one each, shared by its streams. Sends what it is given and decides nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::choice::Claim;
use super::super::dial::{Addresses, Stream, Target};
use super::super::events::Counters;
use super::super::shared::Shared;
use super::body::UpstreamBody;
use super::{Tasks, Version};

/// The connections to one side.
pub(super) struct Upstreams {
    shared: Arc<Shared>,
    addresses: Addresses,
    version: Version,
    idle: Mutex<Vec<(Target, Connection1)>>,
    streams: tokio::sync::Mutex<BTreeMap<Target, Slot>>,
    /// The HTTP/2 connections end with it.
    alive: CancellationToken,
    _alive: DropGuard,
}

/// An HTTP/1.1 connection. Dropped, it ends, even if the other side neither reads nor writes.
struct Connection1 {
    sender: http1::SendRequest<UpstreamBody>,
    _alive: DropGuard,
}

type Sender2 = http2::SendRequest<UpstreamBody>;

/// Where a request is sent.
#[derive(Clone)]
pub(super) enum To {
    Laptop(Arc<Claim>),
    Origin,
}

/// The HTTP/2 connection to one target, or why there is none.
enum Slot {
    Open(Sender2),
    Failed { at: Instant, kind: io::ErrorKind },
}

pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// Given back when both bodies are through. HTTP/2 needs none.
    pub(super) lease: Option<Lease>,
}

/// An HTTP/1.1 connection while a request has it; ends when it is not given back.
pub(super) struct Lease {
    upstreams: Arc<Upstreams>,
    target: Target,
    connection: Connection1,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] io::Error),
    /// The connection failed.
    #[error("{error}")]
    Exchange {
        #[source]
        error: hyper::Error,
        /// Not a byte of the request was sent.
        unsent: bool,
        /// The connection had served requests before: it may just have been closed for that.
        reused: bool,
    },
}

impl Failure {
    fn exchange<B>(mut error: TrySendError<Request<B>>, reused: bool) -> Self {
        Self::Exchange {
            unsent: error.take_message().is_some(),
            error: error.into_error(),
            reused,
        }
    }
}

impl To {
    pub(super) fn target(&self) -> Target {
        match self {
            Self::Laptop(claim) => Target::Laptop(claim.owner.clone()),
            Self::Origin => Target::Origin,
        }
    }

    pub(super) fn counters<'a>(&'a self, shared: &'a Shared) -> &'a Arc<Counters> {
        match self {
            Self::Laptop(claim) => &claim.counters,
            Self::Origin => &shared.origin,
        }
    }
}

impl Upstreams {
    pub(super) fn new(shared: Arc<Shared>, addresses: Addresses, version: Version) -> Self {
        let alive = CancellationToken::new();
        Self {
            shared,
            addresses,
            version,
            idle: Mutex::default(),
            streams: tokio::sync::Mutex::default(),
            _alive: alive.clone().drop_guard(),
            alive,
        }
    }

    /// Sends `request` to `to` and waits for the head of the response; over a new connection if it has to be `fresh`.
    pub(super) async fn send(
        self: &Arc<Self>,
        to: &To,
        request: Request<UpstreamBody>,
        fresh: bool,
    ) -> Result<Answer, Failure> {
        match self.version {
            Version::Http1 => self.send_http1(to, request, fresh).await,
            Version::Http2 => self.send_http2(to, request, fresh).await,
        }
    }

    async fn send_http1(
        self: &Arc<Self>,
        to: &To,
        request: Request<UpstreamBody>,
        fresh: bool,
    ) -> Result<Answer, Failure> {
        let target = to.target();
        let idle = if fresh {
            None
        } else {
            self.take_idle(&target).await
        };
        let reused = idle.is_some();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect_http1(to).await?,
        };
        match connection.sender.try_send_request(request).await {
            Ok(response) => {
                let upstreams = Arc::clone(self);
                let lease = Some(Lease {
                    upstreams,
                    target,
                    connection,
                });
                Ok(Answer { response, lease })
            }
            Err(error) => Err(Failure::exchange(error, reused)),
        }
    }

    async fn send_http2(
        &self,
        to: &To,
        request: Request<UpstreamBody>,
        fresh: bool,
    ) -> Result<Answer, Failure> {
        let (mut sender, reused) = self.http2(to, fresh).await?;
        match sender.try_send_request(request).await {
            Ok(response) => Ok(Answer {
                response,
                lease: None,
            }),
            Err(error) => Err(Failure::exchange(error, reused)),
        }
    }

    /// An idle connection that is still open. One that a response has just left becomes ready, or closed, at once.
    async fn take_idle(&self, target: &Target) -> Option<Connection1> {
        loop {
            let mut connection = {
                let mut idle = self.idle.lock().expect("nothing panics while it is held");
                let place = idle.iter().position(|(own, _)| own == target)?;
                idle.swap_remove(place).1
            };
            if connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    async fn connect_http1(&self, to: &To) -> Result<Connection1, Failure> {
        let limits = self.shared.settings.limits;
        let stream = TokioIo::new(self.dial(to).await?);
        let handshake = http1::Builder::new()
            .preserve_header_case(true)
            .title_case_headers(true)
            .max_headers(limits.header_fields)
            .max_header_size(limits.header_bytes as usize)
            .handshake(stream);
        let (sender, connection) = handshake.await.map_err(Failure::unsent)?;
        let alive = CancellationToken::new();
        self.drive(alive.clone(), connection.with_upgrades());
        Ok(Connection1 {
            sender,
            _alive: alive.drop_guard(),
        })
    }

    /// The shared connection, and whether it was there before. Streams that wait while one of them dials share its
    /// failure.
    async fn http2(&self, to: &To, fresh: bool) -> Result<(Sender2, bool), Failure> {
        let asked = Instant::now();
        let target = to.target();
        let mut streams = self.streams.lock().await;
        match streams.get(&target) {
            Some(Slot::Open(sender)) if !fresh && !sender.is_closed() => {
                return Ok((sender.clone(), true));
            }
            Some(Slot::Failed { at, kind }) if *at >= asked => {
                return Err(io::Error::from(*kind).into());
            }
            Some(_) | None => {}
        }
        let connected = self.connect_http2(to).await;
        let slot = match &connected {
            Ok(sender) => Slot::Open(sender.clone()),
            Err(error) => Slot::Failed {
                at: Instant::now(),
                kind: error.kind(),
            },
        };
        streams.insert(target, slot);
        Ok((connected?, false))
    }

    async fn connect_http2(&self, to: &To) -> Result<Sender2, Failure> {
        let limits = self.shared.settings.limits;
        let stream = TokioIo::new(self.dial(to).await?);
        let handshake = http2::Builder::new(Tasks(Arc::clone(&self.shared)))
            .timer(TokioTimer::new())
            .max_header_list_size(limits.header_bytes)
            .handshake(stream);
        let (sender, connection) = handshake.await.map_err(Failure::unsent)?;
        self.drive(self.alive.clone(), connection);
        Ok(sender)
    }

    fn drive(
        &self,
        alive: CancellationToken,
        connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
    ) {
        self.shared.spawn(async move {
            if let Some(Err(error)) = alive.run_until_cancelled(connection).await {
                tracing::debug!(%error, "a connection to a laptop or the origin ended");
            }
        });
    }

    async fn dial(&self, to: &To) -> io::Result<Box<dyn Stream>> {
        match to {
            To::Laptop(claim) => self.shared.dial_laptop(claim, self.addresses).await,
            To::Origin => self.shared.dial_origin(self.addresses).await,
        }
    }
}

impl Lease {
    /// Keeps the connection for the next request. Both bodies have come to their end.
    pub(super) fn give_back(self) {
        let mut idle = self
            .upstreams
            .idle
            .lock()
            .expect("nothing panics while it is held");
        idle.push((self.target, self.connection));
    }
}

impl Failure {
    fn unsent(error: hyper::Error) -> Self {
        Self::Exchange {
            error,
            unsent: true,
            reused: false,
        }
    }

    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Dial(error) => error.kind(),
            Self::Exchange { .. } => io::ErrorKind::Other,
        }
    }
}
