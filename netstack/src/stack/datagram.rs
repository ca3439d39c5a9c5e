//! What the stack does with UDP and ICMP echo flows: both are queues of messages that end when nobody uses them.

use std::net::SocketAddr;
use std::time::Instant;

use kvpn_wire::packet::build;

use super::{ECHO_IDLE, Netstack};
use crate::datagram::DatagramFlow;
use crate::event::{Event, FlowId, Full, Refusal};
use crate::flows::{Kind, Protocol, Tuple};
use crate::fragments;

/// IP and UDP headers, or IP and ICMP headers, at their longest.
const HEADERS: usize = 48;

/// UDP.
impl Netstack {
    /// Opens a flow; source port 0 means any. Nothing is sent.
    pub fn udp_open(
        &mut self,
        src: SocketAddr,
        dst: SocketAddr,
        now: Instant,
    ) -> Result<FlowId, Full> {
        self.set_now(now);
        let tuple = self.free_tuple(Kind::Udp, src, dst)?;
        let flow = Protocol::Udp(Box::new(DatagramFlow::new(self.now)));
        let id = self.flows.insert(tuple, flow, true)?;
        self.watch_idle(id);
        Ok(id)
    }

    /// Sends a datagram to the flow's peer, in fragments if it must be. False when it was dropped (and counted): it is longer
    /// than an IP packet can be, or there is no room.
    pub fn udp_send(&mut self, flow: FlowId, payload: &[u8], now: Instant) -> bool {
        self.set_now(now);
        let Some(tuple) = self.touch(flow, Kind::Udp) else {
            return false;
        };
        self.send_built(payload.len(), |buf| {
            build::udp(tuple.own, tuple.peer, payload, buf)
        })
    }

    /// Takes the oldest datagram; what `buf` has no room for is lost.
    pub fn udp_recv(&mut self, flow: FlowId, buf: &mut [u8]) -> Option<usize> {
        let flow = self.flows.datagram_mut(flow, Kind::Udp)?;
        flow.waiting.pop(buf).map(|(_, len)| len)
    }

    /// Answers the last datagram with an ICMP error and ends the flow, without an event.
    pub fn udp_refuse(&mut self, flow: FlowId, refusal: Refusal, now: Instant) {
        self.refuse_datagram(flow, Kind::Udp, refusal, now);
    }
}

/// ICMP echo.
impl Netstack {
    /// Answers a request of this flow, with the request's sequence number and payload.
    pub fn echo_reply(&mut self, flow: FlowId, seq: u16, payload: &[u8], now: Instant) {
        self.set_now(now);
        let Some(Tuple { own, peer, .. }) = self.touch(flow, Kind::Echo) else {
            return;
        };
        self.send_built(payload.len(), |buf| {
            build::icmp_echo_reply(own.ip(), peer.ip(), peer.port(), seq, payload, buf)
        });
    }

    /// Takes the oldest request: its sequence number, and how many bytes of its payload are in `buf`.
    pub fn echo_recv(&mut self, flow: FlowId, buf: &mut [u8]) -> Option<(u16, usize)> {
        self.flows.datagram_mut(flow, Kind::Echo)?.waiting.pop(buf)
    }

    /// Answers the last request with an ICMP error and ends the flow, without an event.
    pub fn echo_refuse(&mut self, flow: FlowId, refusal: Refusal, now: Instant) {
        self.refuse_datagram(flow, Kind::Echo, refusal, now);
    }

    /// Ends a UDP or echo flow, without an event. TCP flows end by `tcp_finish` or `tcp_abort`.
    pub fn close(&mut self, flow: FlowId) {
        let Some(entry) = self.flows.get(flow) else {
            return;
        };
        match entry.protocol {
            Protocol::Tcp(_) => {}
            Protocol::Udp(_) | Protocol::Echo(_) => self.end(flow, None),
        }
    }
}

/// Inside.
impl Netstack {
    /// A datagram or an echo request.
    pub(super) fn datagram_of(&mut self, tuple: Tuple, packet: &[u8], number: u16, payload: &[u8]) {
        let Some(id) = self
            .flows
            .find(&tuple)
            .or_else(|| self.open_datagram(tuple))
        else {
            self.drops.flows_full += 1;
            return;
        };
        let Some(flow) = self.flows.datagram_mut(id, tuple.kind) else {
            return;
        };
        if !flow.take_in(packet, number, payload, self.now) {
            self.drops.flow_queue_full += 1;
            return;
        }
        self.events.push_back(match tuple.kind {
            Kind::Echo => Event::EchoRequest { flow: id },
            Kind::Udp | Kind::Tcp => Event::UdpDatagram { flow: id },
        });
    }

    fn open_datagram(&mut self, tuple: Tuple) -> Option<FlowId> {
        let flow = Box::new(DatagramFlow::new(self.now));
        let (protocol, is_echo) = match tuple.kind {
            Kind::Echo => (Protocol::Echo(flow), true),
            Kind::Udp | Kind::Tcp => (Protocol::Udp(flow), false),
        };
        let id = self.flows.insert(tuple, protocol, false).ok()?;
        let (src, dst) = (tuple.peer, tuple.own);
        self.events.push_back(match is_echo {
            true => Event::EchoOpening {
                flow: id,
                src: src.ip(),
                dst: dst.ip(),
            },
            false => Event::UdpOpening { flow: id, src, dst },
        });
        self.watch_idle(id);
        Some(id)
    }

    /// Its deadline came: the flow ends, or was used since and is watched further.
    pub(super) fn wake_datagram(&mut self, id: FlowId) {
        if self.idle_at(id).is_some_and(|at| at <= self.now) {
            self.end(id, Some(Event::Expired { flow: id }));
        } else {
            self.watch_idle(id);
        }
    }

    fn watch_idle(&mut self, id: FlowId) {
        if let Some(at) = self.idle_at(id)
            && let Some(flow) = self.flows.get_mut(id)
        {
            self.deadlines.wake_by(id, &mut flow.wake, at);
        }
    }

    fn idle_at(&self, id: FlowId) -> Option<Instant> {
        match &self.flows.get(id)?.protocol {
            Protocol::Udp(flow) => Some(flow.active + self.config.udp_idle),
            Protocol::Echo(flow) => Some(flow.active + self.config.udp_idle.min(ECHO_IDLE)),
            Protocol::Tcp(_) => None,
        }
    }

    /// The flow is used now; gives its tuple.
    fn touch(&mut self, id: FlowId, kind: Kind) -> Option<Tuple> {
        let now = self.now;
        self.flows.datagram_mut(id, kind)?.active = now;
        self.flows.get(id).map(|flow| flow.tuple)
    }

    fn refuse_datagram(&mut self, id: FlowId, kind: Kind, refusal: Refusal, now: Instant) {
        self.set_now(now);
        let Some(flow) = self.flows.datagram_mut(id, kind) else {
            return;
        };
        if let Some(original) = flow.quoted() {
            self.outbox.refuse(original, refusal);
        }
        self.end(id, None);
    }

    /// Queues the packet that `build` makes around `len` bytes of payload; `build` returns how long it is.
    fn send_built(&mut self, len: usize, build: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let most = len + HEADERS;
        if most <= self.outbox.mtu() {
            let sent = self.outbox.push_with(most, |buf| build(buf).unwrap_or(0));
            self.drops.output_full = self.outbox.refused();
            return sent;
        }
        self.long.resize(most, 0);
        let Some(len) = build(&mut self.long) else {
            self.drops.oversized += 1;
            return false;
        };
        let sent = fragments::send(
            &self.long[..len],
            self.seeds.draw() as u32,
            &mut self.outbox,
        );
        self.drops.output_full = self.outbox.refused();
        sent
    }
}
