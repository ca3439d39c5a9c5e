//! The flows' data, between the userspace datapath and the shell's sockets. What is said about a flow that is
//! gone, or whose session is, has no effect.

use std::net::SocketAddr;
use std::time::Instant;

use kvpn_netstack::{FlowId, Netstack, Refusal};

use super::GatewayState;
use crate::event::Flow;

impl GatewayState {
    /// The socket is connected: let the client's handshake finish.
    pub fn tcp_accept(&mut self, flow: Flow, now: Instant) {
        self.with(flow, |netstack, id| netstack.tcp_accept(id, now));
    }

    /// The socket could not be connected.
    pub fn tcp_refuse(&mut self, flow: Flow, refusal: Refusal, now: Instant) {
        self.with(flow, |netstack, id| netstack.tcp_refuse(id, refusal, now));
    }

    /// Lets `write` put data for the client into the flow's buffer; it returns how much it wrote. Returns the same, 0 when there
    /// is no room: [`FlowEvent::TcpWritable`](crate::FlowEvent::TcpWritable) follows.
    pub fn tcp_send_with(
        &mut self,
        flow: Flow,
        now: Instant,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        self.with(flow, |netstack, id| netstack.tcp_send_with(id, now, write))
            .unwrap_or(0)
    }

    /// Lets `read` take the client's data out of the flow's buffer; it returns how much it took. Returns the same, 0 when there
    /// is none: [`FlowEvent::TcpReadable`](crate::FlowEvent::TcpReadable) follows.
    pub fn tcp_recv_with(
        &mut self,
        flow: Flow,
        now: Instant,
        read: impl FnOnce(&[u8]) -> usize,
    ) -> usize {
        self.with(flow, |netstack, id| netstack.tcp_recv_with(id, now, read))
            .unwrap_or(0)
    }

    /// Bytes that a send has room for.
    pub fn tcp_send_queue_free(&self, flow: Flow) -> usize {
        let session = self.sessions.session(flow.session);
        session
            .and_then(|session| session.netstack.as_ref())
            .map_or(0, |netstack| netstack.tcp_send_queue_free(flow.id))
    }

    /// Bytes that can be read.
    pub fn tcp_recv_ready(&self, flow: Flow) -> usize {
        let session = self.sessions.session(flow.session);
        session
            .and_then(|session| session.netstack.as_ref())
            .map_or(0, |netstack| netstack.tcp_recv_ready(flow.id))
    }

    /// The socket has no more data: finish our direction, keep the other.
    pub fn tcp_finish(&mut self, flow: Flow, now: Instant) {
        self.with(flow, |netstack, id| netstack.tcp_finish(id, now));
    }

    /// The socket was reset: so is the flow, which is gone.
    pub fn tcp_abort(&mut self, flow: Flow, now: Instant) {
        self.with(flow, |netstack, id| netstack.tcp_abort(id, now));
    }

    /// Sends a datagram to the client; false when it was dropped.
    pub fn udp_send(&mut self, flow: Flow, payload: &[u8], now: Instant) -> bool {
        self.with(flow, |netstack, id| netstack.udp_send(id, payload, now))
            .unwrap_or(false)
    }

    /// Takes the client's next datagram.
    pub fn udp_recv(&mut self, flow: Flow, buf: &mut [u8]) -> Option<usize> {
        self.with(flow, |netstack, id| netstack.udp_recv(id, buf))
            .flatten()
    }

    /// The socket reported an error: tells the client, quoting its last datagram. The flow is gone.
    pub fn udp_refuse(&mut self, flow: Flow, refusal: Refusal, now: Instant) {
        self.with(flow, |netstack, id| netstack.udp_refuse(id, refusal, now));
    }

    /// Takes the client's next echo request: its sequence number and the length of its data.
    pub fn echo_recv(&mut self, flow: Flow, buf: &mut [u8]) -> Option<(u16, usize)> {
        self.with(flow, |netstack, id| netstack.echo_recv(id, buf))
            .flatten()
    }

    /// Answers an echo request.
    pub fn echo_reply(&mut self, flow: Flow, sequence: u16, payload: &[u8], now: Instant) {
        self.with(flow, |netstack, id| {
            netstack.echo_reply(id, sequence, payload, now)
        });
    }

    /// The socket reported an error: tells the client, quoting its last request. The flow is gone.
    pub fn echo_refuse(&mut self, flow: Flow, refusal: Refusal, now: Instant) {
        self.with(flow, |netstack, id| netstack.echo_refuse(id, refusal, now));
    }

    /// Forgets a UDP or echo flow.
    pub fn close(&mut self, flow: Flow) {
        self.with(flow, |netstack, id| netstack.close(id));
    }

    /// The nameserver did not answer, or refused: the next flow goes to the next one, if there is one.
    pub fn nameserver_failed(&mut self, nameserver: SocketAddr) {
        let all = &self.config.nameservers;
        if !all.is_empty() && all[self.nameserver] == nameserver {
            self.nameserver = (self.nameserver + 1) % all.len();
        }
    }

    fn with<R>(&mut self, flow: Flow, act: impl FnOnce(&mut Netstack, FlowId) -> R) -> Option<R> {
        let netstack = self.sessions.session_mut(flow.session)?.netstack.as_mut()?;
        let result = act(netstack, flow.id);
        self.touch(flow.session);
        Some(result)
    }
}
