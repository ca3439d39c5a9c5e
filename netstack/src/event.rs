//! The words a [`Netstack`](crate::Netstack) and its caller speak: flows, events, refusals. Types only.

use std::net::{IpAddr, SocketAddr};

/// One flow of one [`Netstack`](crate::Netstack); never used again after the flow is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub(crate) u64);

/// What happened, as [`Netstack::poll_event`](crate::Netstack::poll_event) tells it. A flow's events come in order, and
/// none comes after the one that says that the flow is gone, nor after the caller ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A SYN came. It is held unanswered, and its repetitions absorbed, until `tcp_accept` or `tcp_refuse`.
    TcpOpening {
        /// The new flow.
        flow: FlowId,
        /// Who opens it.
        src: SocketAddr,
        /// Whom they mean.
        dst: SocketAddr,
    },
    /// The handshake finished, whoever began it: data may be sent.
    TcpConnected {
        /// The flow.
        flow: FlowId,
    },
    /// Data can be read. Comes again only after a `tcp_recv` returned less than it was asked for.
    TcpReadable {
        /// The flow.
        flow: FlowId,
    },
    /// There is room again for a `tcp_send` that took less than it was given.
    TcpWritable {
        /// The flow.
        flow: FlowId,
    },
    /// The peer sent FIN and all its data was read; the other direction stays open.
    TcpPeerFinished {
        /// The flow.
        flow: FlowId,
    },
    /// The peer reset the flow or is silent for too long; the flow and its unread data are gone.
    TcpReset {
        /// The flow that was.
        flow: FlowId,
    },
    /// Both sides finished and all data was read and acknowledged; the flow is gone.
    TcpClosed {
        /// The flow that was.
        flow: FlowId,
    },
    /// The first datagram of a new flow came; `UdpDatagram` follows.
    UdpOpening {
        /// The new flow.
        flow: FlowId,
        /// Who sent it.
        src: SocketAddr,
        /// Whom they mean.
        dst: SocketAddr,
    },
    /// A datagram waits for `udp_recv`: one event a datagram.
    UdpDatagram {
        /// The flow.
        flow: FlowId,
    },
    /// The first echo request of a new flow (source, destination, identifier) came; `EchoRequest` follows.
    EchoOpening {
        /// The new flow.
        flow: FlowId,
        /// Who asks.
        src: IpAddr,
        /// Whom they ask.
        dst: IpAddr,
    },
    /// An echo request waits for `echo_recv`: one event a request.
    EchoRequest {
        /// The flow.
        flow: FlowId,
    },
    /// The peer has no program at the port that a UDP flow's datagram was for (ICMP); the flow is gone.
    UdpRefused {
        /// The flow.
        flow: FlowId,
    },
    /// An idle UDP or echo flow ended.
    Expired {
        /// The flow that was.
        flow: FlowId,
    },
}

impl Event {
    /// The flow that the event is about.
    pub fn flow(&self) -> FlowId {
        match *self {
            Self::TcpOpening { flow, .. }
            | Self::TcpConnected { flow }
            | Self::TcpReadable { flow }
            | Self::TcpWritable { flow }
            | Self::TcpPeerFinished { flow }
            | Self::TcpReset { flow }
            | Self::TcpClosed { flow }
            | Self::UdpOpening { flow, .. }
            | Self::UdpDatagram { flow }
            | Self::EchoOpening { flow, .. }
            | Self::EchoRequest { flow }
            | Self::UdpRefused { flow }
            | Self::Expired { flow } => flow,
        }
    }

    /// Whether the flow is gone with this event.
    pub fn is_last(&self) -> bool {
        match self {
            Self::TcpReset { .. }
            | Self::TcpClosed { .. }
            | Self::UdpRefused { .. }
            | Self::Expired { .. } => true,
            Self::TcpOpening { .. }
            | Self::TcpConnected { .. }
            | Self::TcpReadable { .. }
            | Self::TcpWritable { .. }
            | Self::TcpPeerFinished { .. }
            | Self::UdpOpening { .. }
            | Self::UdpDatagram { .. }
            | Self::EchoOpening { .. }
            | Self::EchoRequest { .. } => false,
        }
    }
}

/// How a flow is refused: what the one who opened it gets to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// TCP: RST ("connection refused"). UDP: ICMP port unreachable. Echo: nothing.
    Reset,
    /// ICMP host unreachable (RFC 792 type 3 code 1), address unreachable (RFC 4443 type 1 code 3).
    HostUnreachable,
    /// ICMP network unreachable (3/0), no route to destination (1/0).
    NetUnreachable,
    /// ICMP communication administratively prohibited (3/13, 1/1).
    Prohibited,
    /// ICMP port unreachable (3/3, 1/4).
    PortUnreachable,
    /// Nothing: a silent host stays silent.
    Silent,
}

/// Why a flow could not be opened from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// As many flows as [`Config::max_flows`](crate::Config::max_flows) allows are open.
    #[error("no room for another flow")]
    Flows,
    /// The source port, or every one of the ephemeral range, is in use towards that destination.
    #[error("no free source port")]
    Ports,
    /// Source and destination are not of one family, or one of them cannot be an end of a flow.
    #[error("not an address a flow can have")]
    Unaddressable,
}

/// How many flows of each kind are open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// TCP flows, opening ones among them.
    pub tcp: usize,
    /// UDP flows.
    pub udp: usize,
    /// ICMP echo flows.
    pub echo: usize,
}
