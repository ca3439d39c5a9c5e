//! What the core tells the shell: flows that a session opened, and their life. Types only.

use std::net::{IpAddr, SocketAddr};

use kvpn_netstack::FlowId;
use kvpn_wire::wireguard::PublicKey;

/// A session as the packet path names it: the 24-bit prefix of its WireGuard receiver indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIndex(pub(crate) u32);

impl SessionIndex {
    /// The session of a receiver index: its low byte numbers the handshakes of one session.
    pub(crate) fn of_receiver(receiver: u32) -> Self {
        Self(receiver >> 8)
    }
}

/// One flow of one session; never used again after the flow is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub(crate) session: SessionIndex,
    pub(crate) id: FlowId,
}

impl Flow {
    /// The session that the flow belongs to.
    pub fn session(self) -> SessionIndex {
        self.session
    }
}

/// What a flow is to be connected with, after the rewrites of DNS and control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An address of the cluster that policy allows.
    Address(SocketAddr),
    /// One of the pod's own nameservers: the flow was meant for port 53 of the gateway's tunnel address.
    Nameserver(SocketAddr),
    /// The control API, as the flow's own session.
    Control,
    /// A port of the gateway's tunnel address at which there is nothing: to be refused.
    Nothing,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Something happened to a flow. A flow's events come in order, none after the one with which it is gone.
    Flow {
        /// The flow.
        flow: Flow,
        /// What happened to it.
        what: FlowEvent,
    },
    /// A session ended; its flows are gone without events of their own.
    SessionEnded {
        /// The session that was.
        session: SessionIndex,
        /// Its client.
        key: PublicKey,
    },
}

/// What happened to a flow; see [`kvpn_netstack::Event`], from which these come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEvent {
    /// A connection wants to open: connect, then `tcp_accept` or `tcp_refuse`.
    TcpOpening {
        /// What to connect with.
        target: Target,
    },
    /// The client finished the handshake.
    TcpConnected,
    /// Data can be read; comes again only after a read that took less than it could have.
    TcpReadable,
    /// There is room again after a send that took less than it was given.
    TcpWritable,
    /// The client finished its direction and all its data was read.
    TcpPeerFinished,
    /// The client reset the connection or vanished; the flow is gone.
    TcpReset,
    /// Both directions finished; the flow is gone.
    TcpClosed,
    /// A new UDP flow; its first datagram follows as [`Self::UdpDatagram`].
    UdpOpening {
        /// Where its datagrams go.
        target: Target,
    },
    /// One datagram waits for `udp_recv`.
    UdpDatagram,
    /// A new ICMP echo flow; its first request follows as [`Self::EchoRequest`].
    EchoOpening {
        /// Who is asked.
        target: IpAddr,
    },
    /// One echo request waits for `echo_recv`.
    EchoRequest,
    /// The client has no program at the port of a UDP flow; the flow is gone.
    UdpRefused,
    /// An idle UDP or echo flow ended; it is gone.
    Expired,
}
