//! What the gateway does with a connection that arrives at an exposure's port: to the laptop, to the origin, or a copy to
//! the laptop.
//!
//! ```text
//! accept -> first bytes -> HTTP/1.1, HTTP/2: each request where the choice says, over connections of this client's own
//!                       -> TLS, anything else: the whole connection, where the choice says for connections
//! ```
//!
//! Who listens where, and what became of the Service, is the caller's business: it hands over sockets that listen, a
//! [`Choice`] that it may change at any time, and a [`Dial`] that reaches laptops and the origin. Knows nothing of
//! Kubernetes or of tunnels, and reads no clock but tokio's.

mod choice;
mod connection;
mod detect;
mod dial;
mod events;
mod http;
mod proxy_protocol;
mod raw;
mod rewound;
mod shared;
mod udp;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};

pub use choice::{Choice, Claim, Owner};
pub use dial::{Datagrams, Dial, Stream, Target};
pub use events::{
    ConnectionRecord, Counters, Counts, Gauges, Protocol, Record, RequestRecord, Room, Share,
};
pub use proxy_protocol::ProxyProtocol;
use shared::Shared;

/// What an exposure's port is started with.
#[derive(Clone)]
pub struct Settings {
    /// The exposure in messages to users: `NAMESPACE/SERVICE:PORT`.
    pub name: Arc<str>,
    /// Bounds.
    pub limits: Limits,
    /// Room for open connections and UDP clients, of all ports that have it from one place.
    pub room: Room,
    /// How laptops and the origin are reached.
    pub dial: Arc<dyn Dial>,
    /// A random number, for shares of the traffic.
    pub dice: Arc<dyn Fn() -> u32 + Send + Sync>,
    /// Takes what was served, for the live view; whether it had room. Must not wait.
    pub records: Arc<dyn Fn(Record) -> bool + Send + Sync>,
}

/// Bounds of an exposure's port.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; what comes beyond is reset. Each holds up to 64 KiB.
    pub connections: usize,
    /// Bytes of a request's or response's header section.
    pub header_bytes: u32,
    /// Header fields of a message over HTTP/1.1.
    pub header_fields: usize,
    /// How long a laptop may take to answer a connection attempt.
    pub laptop_dial: Duration,
    /// The same for the origin.
    pub origin_dial: Duration,
    /// After this time without a byte from the client, the other side may speak first.
    pub first_bytes: Duration,
    /// How long a client may take over its first line once it has begun with what looks like HTTP.
    pub first_line: Duration,
    /// Bytes of a copy that wait for a laptop slower than the origin; beyond, the copy is given up.
    pub mirror_bytes: usize,
    /// Bytes of all copies that wait.
    pub mirror_bytes_all: usize,
    /// Copies at their laptops at once.
    pub mirrors: usize,
    /// Copies that were begun, those that wait for others included; beyond, none is made.
    pub mirrors_begun: usize,
    /// How long a laptop may take over its answer to a copy, which nobody waits for.
    pub mirror_answer: Duration,
    /// UDP clients at once; the datagrams of others are dropped.
    pub udp_clients: usize,
    /// A UDP client is forgotten when nothing came or went for so long.
    pub udp_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            header_bytes: 64 << 10,
            header_fields: 256,
            laptop_dial: Duration::from_millis(1500),
            origin_dial: Duration::from_secs(10),
            first_bytes: Duration::from_millis(200),
            first_line: Duration::from_secs(30),
            mirror_bytes: 1 << 20,
            mirror_bytes_all: 64 << 20,
            mirrors: 64,
            mirrors_begun: 1024,
            mirror_answer: Duration::from_secs(30),
            udp_clients: 1024,
            udp_idle: Duration::from_secs(120),
        }
    }
}

/// One port of an exposure. Dropped, it ends all that is open.
#[derive(Debug)]
pub struct Exposure {
    shared: Arc<Shared>,
}

impl Exposure {
    /// Serves the connections that arrive at `listener`, from within a tokio runtime.
    #[must_use]
    pub fn tcp(listener: TcpListener, settings: Settings, choice: Choice) -> Self {
        let shared = Shared::new(settings, choice);
        shared.spawn(connection::accept(Arc::clone(&shared), listener));
        Self { shared }
    }

    /// Serves the clients whose datagrams arrive at `socket`, from within a tokio runtime. Datagrams cannot be matched:
    /// only claims of everything or of a share count.
    #[must_use]
    pub fn udp(socket: UdpSocket, settings: Settings, choice: Choice) -> Self {
        let shared = Shared::new(settings, choice);
        shared.spawn(udp::serve(Arc::clone(&shared), socket));
        Self { shared }
    }

    /// From now on this is the choice: for the next request of open HTTP connections, and for new connections. An empty
    /// one sends everything to the origin.
    pub fn choose(&self, choice: Choice) {
        self.shared.choose(choice);
    }

    /// What is open now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        self.shared.gauges()
    }

    /// What went to the origin. What went to a laptop is counted in its [`Claim::counters`].
    #[must_use]
    pub fn origin(&self) -> Counts {
        self.shared.origin.counts()
    }

    /// From now on each HTTP/1.1 connection ends with its next response (`Connection: close`) and each HTTP/2 connection
    /// with the streams that it has (GOAWAY), so that clients come back to wherever the Service leads by then. New
    /// connections are still accepted. A keep-alive connection without a request is left alone: closing it could cross
    /// a request on its way.
    pub fn drain(&self) {
        self.shared.drain(true);
    }

    /// Ends [`drain`](Self::drain): connections that are left may stay.
    pub fn resume(&self) {
        self.shared.drain(false);
    }

    /// Stops listening, [drains](Self::drain), waits until all connections have ended or `limit` is over, and ends
    /// the rest. The answer is how many those were.
    pub async fn stop(self, limit: Duration) -> usize {
        self.shared.stop(limit).await
    }
}

impl Drop for Exposure {
    fn drop(&mut self) {
        self.shared.kill.cancel();
    }
}
