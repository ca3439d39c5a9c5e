//! What [`ClientState`](crate::ClientState) tells its shell: datagrams to send and things to do.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use kvpn_netstack as netstack;

/// A way on which WireGuard datagrams reach the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// The framed stream through the API server's port-forward.
    Api,
    /// UDP to this address.
    Udp(SocketAddr),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("api"),
            Self::Udp(address) => write!(f, "udp {address}"),
        }
    }
}

/// WireGuard datagrams to send, side by side.
pub type Transmit<'a> = kvpn_wire::queue::Transmit<'a, Path>;

/// Something the shell has to do or may want to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The tunnel works: a handshake or a probe was answered, for the first time or after [`Event::Quiet`].
    Established {
        /// The path that answered.
        path: Path,
    },
    /// Packets take another path from now on; the session is the same.
    PathChanged {
        /// The path so far.
        from: Path,
        /// The path from now on.
        to: Path,
    },
    /// No path answered three probes. The shell opens a new `api` carrier, then a new session
    /// ([`ClientState::replace_session`](crate::ClientState::replace_session)). Probing goes on meanwhile:
    /// [`Event::Established`] follows if the old session answers after all.
    Quiet,
    /// The `api` carrier is missing and needed; asked again with growing pauses until
    /// [`ClientState::path_opened`](crate::ClientState::path_opened).
    ApiCarrierWanted,
    /// Addresses outside all ranges are about to be answered: add a route into the tunnel for each, then call
    /// [`ClientState::host_routes_ready`](crate::ClientState::host_routes_ready). The answer waits at most 1 s.
    HostRoutes {
        /// To be handed back.
        ticket: u64,
        /// Single addresses, each private, CGNAT or ULA.
        addresses: Vec<IpAddr>,
    },
    /// A name that is not the cluster's, on a system that cannot split: ask a former resolver, then call
    /// [`ClientState::upstream_answered`](crate::ClientState::upstream_answered).
    Upstream {
        /// To be handed back.
        id: u64,
        /// The program's DNS message as it came.
        query: Vec<u8>,
        /// Whether the program asked over TCP (ask over TCP then: the answer may be long).
        tcp: bool,
    },
    /// A question put by [`ClientState::resolve`](crate::ClientState::resolve) is answered.
    Resolved {
        /// What `resolve` returned.
        id: u64,
        /// The answer.
        answer: Resolution,
    },
    /// News of a flow opened by [`ClientState::tcp_connect`](crate::ClientState::tcp_connect), or to an exposed port.
    Flow(netstack::Event),
}

/// What came of a question put by the shell itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The name exists and has these addresses (of the type asked).
    Addresses(Vec<IpAddr>),
    /// The name exists, but not with this type.
    NoData,
    /// The name does not exist.
    NoName,
    /// The name is not the cluster's.
    Refused,
    /// The cluster did not answer in time, or answered with a failure.
    Failed,
}

/// What the shell may ask of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryType {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}
