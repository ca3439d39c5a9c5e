//! Time: leases, WireGuard's timers and those of the flows; and the events that come of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use kvpn_netstack::Event as StackEvent;
use kvpn_wire::CONTROL_PORT;

use super::GatewayState;
use crate::address::is_tunnel_address;
use crate::event::{Event, Flow, FlowEvent, SessionIndex, Target};
use crate::way::DNS_PORT;

impl GatewayState {
    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(index) = self.schedule.due(now) {
            let Some(session) = self.sessions.session_mut(index) else {
                continue;
            };
            if session.lease_end <= now {
                self.remove_session(index);
                continue;
            }
            session.handle_timeout(&mut self.output, now);
            self.touch(index);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called next, and why. Up to date once all other polls returned `None`.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.schedule.next()
    }

    /// The next thing that the shell is to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.output.events.is_empty() {
            self.settle();
        }
        self.output.events.pop_front()
    }

    /// Looks at all sessions that something was done with.
    pub(super) fn settle(&mut self) {
        while let Some(index) = self.touched.pop_front() {
            let Some(session) = self.sessions.session_mut(index) else {
                continue;
            };
            session.touched = false;
            self.collect(index);
            self.make_ready(index);
        }
    }

    /// Takes over the session's events and its deadline.
    pub(super) fn collect(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.session_mut(index) else {
            return;
        };
        while let Some(event) = session
            .netstack
            .as_mut()
            .and_then(|netstack| netstack.poll_event())
        {
            let flow = Flow {
                session: index,
                id: event.flow(),
            };
            let what = flow_event(event, nameserver(&self.config.nameservers, self.nameserver));
            self.output.events.push_back(Event::Flow { flow, what });
        }
        self.schedule.wake_by(index, session.deadline());
    }
}

/// The nameserver in use; without any it is this machine, as resolv.conf(5) says.
fn nameserver(all: &[SocketAddr], preferred: usize) -> SocketAddr {
    all.get(preferred)
        .copied()
        .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT)))
}

/// What the shell is told, with the gateway's own services rewritten.
fn flow_event(event: StackEvent, nameserver: SocketAddr) -> FlowEvent {
    match event {
        StackEvent::TcpOpening { dst, .. } => FlowEvent::TcpOpening {
            target: target(dst, nameserver),
        },
        StackEvent::TcpConnected { .. } => FlowEvent::TcpConnected,
        StackEvent::TcpReadable { .. } => FlowEvent::TcpReadable,
        StackEvent::TcpWritable { .. } => FlowEvent::TcpWritable,
        StackEvent::TcpPeerFinished { .. } => FlowEvent::TcpPeerFinished,
        StackEvent::TcpReset { .. } => FlowEvent::TcpReset,
        StackEvent::TcpClosed { .. } => FlowEvent::TcpClosed,
        StackEvent::UdpOpening { dst, .. } => FlowEvent::UdpOpening {
            target: target(dst, nameserver),
        },
        StackEvent::UdpDatagram { .. } => FlowEvent::UdpDatagram,
        StackEvent::EchoOpening { dst, .. } => FlowEvent::EchoOpening { target: dst },
        StackEvent::EchoRequest { .. } => FlowEvent::EchoRequest,
        StackEvent::UdpRefused { .. } => FlowEvent::UdpRefused,
        StackEvent::Expired { .. } => FlowEvent::Expired,
    }
}

/// Of the gateway's own tunnel address, ports without a service get here only as fragments of a datagram, or after a flow that the
/// gateway opened has ended (see [`crate::way`]).
fn target(dst: SocketAddr, nameserver: SocketAddr) -> Target {
    if !is_tunnel_address(dst.ip()) {
        return Target::Address(dst);
    }
    match dst.port() {
        CONTROL_PORT => Target::Control,
        DNS_PORT => Target::Nameserver(nameserver),
        _ => Target::Nothing,
    }
}
