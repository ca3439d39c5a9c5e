//! Flows that the gateway opens to a client, for an exposure: from the gateway's tunnel address to the client's. Their events are
//! those of all flows; what the client's end makes of them is its own business.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use kvpn_netstack::{FlowId, Full, Netstack};
use kvpn_wire::wireguard::PublicKey;

use super::GatewayState;
use crate::event::{Flow, SessionIndex};

/// Why a flow to a client was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undialled {
    /// The session has ended.
    #[error("the session has ended")]
    Ended,
    /// Its userspace datapath takes no more flows.
    #[error(transparent)]
    Full(#[from] Full),
}

impl GatewayState {
    /// Opens a connection to a port of the client. [`TcpConnected`](crate::FlowEvent::TcpConnected) follows, or
    /// [`TcpReset`](crate::FlowEvent::TcpReset) when the client refuses it or is silent for too long.
    ///
    /// # Errors
    /// See [`Undialled`].
    pub fn tcp_dial(
        &mut self,
        session: SessionIndex,
        port: u16,
        now: Instant,
    ) -> Result<Flow, Undialled> {
        self.dial(session, now, |netstack, gateway, client| {
            netstack.tcp_connect(gateway, SocketAddr::new(client, port), now)
        })
    }

    /// Opens a UDP flow to a port of the client. Nothing is sent; [`UdpRefused`](crate::FlowEvent::UdpRefused) follows datagrams that
    /// the client has no program for.
    ///
    /// # Errors
    /// See [`Undialled`].
    pub fn udp_dial(
        &mut self,
        session: SessionIndex,
        port: u16,
        now: Instant,
    ) -> Result<Flow, Undialled> {
        self.dial(session, now, |netstack, gateway, client| {
            netstack.udp_open(gateway, SocketAddr::new(client, port), now)
        })
    }

    /// How long ago something authentic came from the client; `None` when nothing did, or the session has ended.
    pub fn heard_ago(&self, session: SessionIndex, now: Instant) -> Option<Duration> {
        let heard = self.sessions.session(session)?.tunnel.last_received()?;
        Some(now.saturating_duration_since(heard))
    }

    /// The session's client; `None` when it has ended.
    pub fn session_key(&self, session: SessionIndex) -> Option<PublicKey> {
        self.sessions.session(session).map(|session| session.key)
    }

    fn dial(
        &mut self,
        index: SessionIndex,
        now: Instant,
        open: impl FnOnce(&mut Netstack, SocketAddr, IpAddr) -> Result<FlowId, Full>,
    ) -> Result<Flow, Undialled> {
        let session = self.sessions.session_mut(index).ok_or(Undialled::Ended)?;
        session.dialled = true;
        let ends = session.block.v4();
        let netstack = self.netstack(index, now).ok_or(Undialled::Ended)?;
        let id = open(netstack, SocketAddr::new(ends.gateway, 0), ends.client)?;
        self.touch(index);
        Ok(Flow { session: index, id })
    }
}
