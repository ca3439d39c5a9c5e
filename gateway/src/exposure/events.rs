//! What was served: counters for `kvpn list`, records for the live view. Never waits for whoever reads them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::choice::Owner;

/// Who served a request or connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// This owner's laptop.
    Laptop(Owner),
    /// The origin, as chosen.
    Origin,
    /// The origin, because this owner's laptop did not take it.
    Fallback(Owner),
    /// This owner's laptop got a copy; its answer was dropped.
    Copy(Owner),
}

/// One line of the live view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An HTTP request has been served.
    Request(RequestRecord),
    /// A connection that is not HTTP, or one that a request was upgraded to, or a UDP client, is over.
    Connection(ConnectionRecord),
}

/// An HTTP request, its response sent, or given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// Who asked.
    pub client: SocketAddr,
    /// The method.
    pub method: http::Method,
    /// The path, without a query, which may hold secrets.
    pub path: String,
    /// None: no response came, or the client left before it.
    pub status: Option<http::StatusCode>,
    /// From the request's head to the end of the response's body.
    pub duration: Duration,
    /// Who served it.
    pub to: Share,
    /// Bytes of the request's body.
    pub sent: u64,
    /// Bytes of the response's body.
    pub received: u64,
    /// Whether both bodies came to their end.
    pub complete: bool,
}

/// What a connection that is not HTTP carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TLS: its requests cannot be seen, and so not matched.
    Tls,
    /// A protocol that is not known.
    Unknown,
    /// What an HTTP request was upgraded to, or a CONNECT.
    Upgraded,
    /// UDP.
    Udp,
}

/// A connection that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// What it carried.
    pub protocol: Protocol,
    /// Who connected.
    pub client: SocketAddr,
    /// From its acceptance to its end.
    pub duration: Duration,
    /// Who served it; None when nobody did.
    pub to: Option<Share>,
    /// Bytes from the client.
    pub sent: u64,
    /// Bytes to the client.
    pub received: u64,
    /// Whether it ended by both sides' will, and not by a reset.
    pub complete: bool,
}

/// What went one way since the start. Read with [`Counters::counts`].
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) fallbacks: AtomicU64,
    pub(super) copies_dropped: AtomicU64,
}

/// What [`Counters`] counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// HTTP requests, copies among them.
    pub requests: u64,
    /// Connections that are not HTTP, upgraded ones, and UDP clients.
    pub connections: u64,
    /// Bytes of bodies, connections and datagrams from clients.
    pub sent: u64,
    /// The same to clients.
    pub received: u64,
    /// Requests and connections that failed here, answered with 502 or cut; those of `fallbacks` not among them.
    pub errors: u64,
    /// What the origin served because the laptop did not take it.
    pub fallbacks: u64,
    /// Copies that were given up or never begun: the laptop was too slow, or there were too many.
    pub copies_dropped: u64,
}

/// What is open now, and what was refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Open connections and UDP clients.
    pub connections: usize,
    /// Of them, HTTP connections without a request: kept alive by their clients.
    pub idle: usize,
    /// Connections and clients refused for being too many, since the start.
    pub refused: usize,
    /// Records that nobody took in time, since the start.
    pub records_dropped: usize,
}

impl Counters {
    /// The state of the counters.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            requests: value(&self.requests),
            connections: value(&self.connections),
            sent: value(&self.sent),
            received: value(&self.received),
            errors: value(&self.errors),
            fallbacks: value(&self.fallbacks),
            copies_dropped: value(&self.copies_dropped),
        }
    }
}

/// Counts by one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Room for connections that several ports share.
#[derive(Debug, Clone)]
pub struct Room {
    taken: Arc<AtomicUsize>,
    most: usize,
}

impl Room {
    /// Room for so many.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            taken: Arc::default(),
            most,
        }
    }

    pub(super) fn take(&self) -> Option<Counted> {
        self.taken.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&self.taken));
        (self.taken.load(Ordering::Relaxed) <= self.most).then_some(counted)
    }
}

/// How many of something there are.
#[derive(Debug, Default)]
pub(super) struct Gauge(Arc<AtomicUsize>);

/// One of them, for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Gauge {
    pub(super) fn value(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn increase(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn decrease(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn enter(&self) -> Counted {
        self.increase();
        Counted(Arc::clone(&self.0))
    }

    /// None when there are `limit` of them.
    pub(super) fn enter_below(&self, limit: usize) -> Option<Counted> {
        let counted = self.enter();
        (self.value() <= limit).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
