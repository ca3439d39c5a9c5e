//! What the driver and the agent's other tasks say to each other. Carries, and decides nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use kvpn_client_core::{Names, Netmap, Path, QueryType, Resolution};
use kvpn_io::tun::TunOffload;
use kvpn_k8s::Forward;
use kvpn_wire::control::SessionGrant;
use kvpn_wire::packet::Protocol;
use kvpn_wire::wireguard::PrivateKey;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

use crate::agent::driver::flows::DialledTx;
use crate::agent::driver::handle::Reading;
use crate::os::platform::TunHandle;

/// Commands and occurrences that wait.
pub(super) const QUEUE: usize = 256;

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// The TUN is there, and gives and takes packets like this.
    Tun(TunHandle, TunOffload),
    /// A new `api` carrier; replaces an old one.
    Api(Forward),
    /// The cluster's names changed.
    Names(Names),
    /// A new session, with the same or a new gateway.
    Replace(Box<Replacement>),
    /// Addresses at which the gateway may answer UDP.
    UdpCandidates(Vec<SocketAddr>),
    /// Ranges that are routed into the tunnel.
    Ranges(Vec<IpNetwork>, Netmap),
    /// A link or an address changed, or the machine slept.
    NetworkChanged,
    /// Host routes stand, or could not be set.
    HostRoutes {
        /// As in [`Event::HostRoutes`](kvpn_client_core::Event::HostRoutes).
        ticket: u64,
        /// Whether they stand.
        ok: bool,
    },
    /// What a former resolver answered, if it did.
    Answered {
        /// As in [`Event::Upstream`](kvpn_client_core::Event::Upstream).
        id: u64,
        /// The DNS message.
        answer: Option<Vec<u8>>,
    },
    /// Open a connection into the tunnel, and hand it over once it is open.
    Dial(SocketAddr, DialledTx),
    /// Open a flow of datagrams into the tunnel.
    DialUdp(SocketAddr, oneshot::Sender<io::Result<UdpSocket>>),
    /// What addresses of this kind has this name of the cluster's?
    Resolve(String, QueryType, oneshot::Sender<Resolution>),
    /// Ports of the laptop's programs to which the gateway may open flows.
    Expose(BTreeSet<(Protocol, u16)>),
    /// How is it going?
    Status(oneshot::Sender<Reading>),
    /// That was all.
    Stop,
}

/// A new session.
#[derive(Debug)]
pub(crate) struct Replacement {
    /// The session's own key.
    pub(crate) private_key: PrivateKey,
    /// What was granted for it.
    pub(crate) grant: SessionGrant,
    /// Random 24-bit prefix of session indices.
    pub(crate) index: u32,
}

/// What the driver tells.
#[derive(Debug)]
pub(crate) enum Occurrence {
    /// The tunnel works.
    Established(Path),
    /// Packets take another path.
    PathChanged(Path, Path),
    /// No path answers.
    Quiet,
    /// The `api` carrier is wanted.
    ApiWanted,
    /// The `api` carrier broke, for this reason.
    ApiLost(String),
}

/// Addresses that need a route before a name is answered with them.
#[derive(Debug)]
pub(crate) struct HostRoutes {
    /// To be handed back.
    pub(crate) ticket: u64,
    /// Single addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// A question for a former resolver.
#[derive(Debug)]
pub(crate) struct Question {
    /// To be handed back.
    pub(crate) id: u64,
    /// The DNS message.
    pub(crate) query: Vec<u8>,
    /// Whether it came over TCP.
    pub(crate) tcp: bool,
}

/// Where the driver's news go. All bounded; what does not fit is answered with failure at once.
#[derive(Debug)]
pub(crate) struct Outlets {
    /// driver --news of paths--> keeper
    pub(crate) occurrence_tx: mpsc::Sender<Occurrence>,
    /// driver --addresses to route--> the network task
    pub(crate) route_tx: mpsc::Sender<HostRoutes>,
    /// driver --foreign questions--> the names task
    pub(crate) question_tx: mpsc::Sender<Question>,
}

/// The receiving ends of [`Outlets`].
#[derive(Debug)]
pub(crate) struct News {
    /// driver --news of paths--> keeper
    pub(crate) occurrence_rx: mpsc::Receiver<Occurrence>,
    /// driver --addresses to route--> the network task
    pub(crate) route_rx: mpsc::Receiver<HostRoutes>,
    /// driver --foreign questions--> the names task
    pub(crate) question_rx: mpsc::Receiver<Question>,
}

/// Channels for a driver's news.
pub(crate) fn outlets() -> (Outlets, News) {
    let (occurrence_tx, occurrence_rx) = mpsc::channel(QUEUE);
    let (route_tx, route_rx) = mpsc::channel(QUEUE);
    let (question_tx, question_rx) = mpsc::channel(QUEUE);
    (
        Outlets {
            occurrence_tx,
            route_tx,
            question_tx,
        },
        News {
            occurrence_rx,
            route_rx,
            question_rx,
        },
    )
}
