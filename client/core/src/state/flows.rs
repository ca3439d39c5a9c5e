//! Flows that end in the laptop's own process, without an interface: those that the shell opens into the cluster, and those that the
//! gateway opens for an exposure. Must not know what they carry.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use kvpn_netstack::{self as netstack, FlowId, Full, Refusal};
use kvpn_wire::packet::{Ip, Protocol};

use super::ClientState;
use crate::event::Event;

impl ClientState {
    /// Where the gateway, and nobody else, may open flows: a protocol (TCP or UDP) and a port of the client's tunnel address.
    /// [`netstack::Event::TcpOpening`] and [`netstack::Event::UdpOpening`] tell of each in [`Event::Flow`], and the
    /// shell accepts or refuses it. Flows that are open stay so when their port is gone.
    ///
    /// While there are any, the path in use is probed each second: the gateway takes a silent client for gone.
    pub fn set_exposed(&mut self, ports: BTreeSet<(Protocol, u16)>) {
        self.session.show_life(!ports.is_empty());
        self.exposed = ports;
    }

    /// Opens a connection through the tunnel from the client's own tunnel address; [`Event::Flow`] tells what becomes of it.
    ///
    /// # Errors
    /// [`Full::Unaddressable`] when the session has no address of that family; else as
    /// [`netstack::Netstack::tcp_connect`].
    pub fn tcp_connect(&mut self, dst: SocketAddr, now: Instant) -> Result<FlowId, Full> {
        let src = self.source_towards(dst)?;
        let flow = self.stack.tcp_connect(src, dst, now)?;
        self.shell_flows.insert(flow, Protocol::Tcp);
        self.settle(now);
        Ok(flow)
    }

    /// Queues data for sending; returns how many bytes were taken. Less than given: [`netstack::Event::TcpWritable`] follows.
    pub fn tcp_send(&mut self, flow: FlowId, data: &[u8], now: Instant) -> usize {
        let sent = self.stack.tcp_send(flow, data, now);
        self.settle(now);
        sent
    }

    /// Lets `write` put data for sending straight into the flow's buffer: see [`netstack::Netstack::tcp_send_with`].
    pub fn tcp_send_with(
        &mut self,
        flow: FlowId,
        now: Instant,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        let sent = self.stack.tcp_send_with(flow, now, write);
        self.settle(now);
        sent
    }

    /// Takes received data; returns how many bytes. Less than `buf` holds: [`netstack::Event::TcpReadable`] follows.
    pub fn tcp_recv(&mut self, flow: FlowId, buf: &mut [u8], now: Instant) -> usize {
        let received = self.stack.tcp_recv(flow, buf, now);
        self.settle(now);
        received
    }

    /// Lets `read` take received data straight from the flow's buffer: see [`netstack::Netstack::tcp_recv_with`].
    pub fn tcp_recv_with(
        &mut self,
        flow: FlowId,
        now: Instant,
        read: impl FnOnce(&[u8]) -> usize,
    ) -> usize {
        let received = self.stack.tcp_recv_with(flow, now, read);
        self.settle(now);
        received
    }

    /// Bytes that [`Self::tcp_send`] would take.
    pub fn tcp_send_queue_free(&self, flow: FlowId) -> usize {
        self.stack.tcp_send_queue_free(flow)
    }

    /// Bytes that [`Self::tcp_recv`] would give.
    pub fn tcp_recv_ready(&self, flow: FlowId) -> usize {
        self.stack.tcp_recv_ready(flow)
    }

    /// Ends this direction of a connection; the other one stays open.
    pub fn tcp_finish(&mut self, flow: FlowId, now: Instant) {
        self.stack.tcp_finish(flow, now);
        self.settle(now);
    }

    /// Resets a connection.
    pub fn tcp_abort(&mut self, flow: FlowId, now: Instant) {
        self.shell_flows.remove(&flow);
        self.stack.tcp_abort(flow, now);
        self.settle(now);
    }

    /// Answers the SYN of [`netstack::Event::TcpOpening`]; [`netstack::Event::TcpConnected`] follows.
    pub fn tcp_accept(&mut self, flow: FlowId, now: Instant) {
        self.stack.tcp_accept(flow, now);
        self.settle(now);
    }

    /// Refuses the SYN of [`netstack::Event::TcpOpening`].
    pub fn tcp_refuse(&mut self, flow: FlowId, refusal: Refusal, now: Instant) {
        self.shell_flows.remove(&flow);
        self.stack.tcp_refuse(flow, refusal, now);
        self.settle(now);
    }

    /// Opens a flow of datagrams through the tunnel from the client's own tunnel address; nothing is sent.
    ///
    /// # Errors
    /// As [`Self::tcp_connect`].
    pub fn udp_open(&mut self, dst: SocketAddr, now: Instant) -> Result<FlowId, Full> {
        let src = self.source_towards(dst)?;
        let flow = self.stack.udp_open(src, dst, now)?;
        self.shell_flows.insert(flow, Protocol::Udp);
        self.settle(now);
        Ok(flow)
    }

    /// Sends a datagram; whether it was taken.
    pub fn udp_send(&mut self, flow: FlowId, payload: &[u8], now: Instant) -> bool {
        let sent = self.stack.udp_send(flow, payload, now);
        self.settle(now);
        sent
    }

    /// The next datagram of a flow; what does not fit into `buf` is cut off.
    pub fn udp_recv(&mut self, flow: FlowId, buf: &mut [u8]) -> Option<usize> {
        self.stack.udp_recv(flow, buf)
    }

    /// Refuses a UDP flow, and ends it.
    pub fn udp_refuse(&mut self, flow: FlowId, refusal: Refusal, now: Instant) {
        self.shell_flows.remove(&flow);
        self.stack.udp_refuse(flow, refusal, now);
        self.settle(now);
    }

    /// Whether a packet is the gateway's own, to an exposed port.
    pub(super) fn is_exposed(&self, ip: &Ip<'_>) -> bool {
        if self.exposed.is_empty() || !self.session.is_gateway(ip.src()) {
            return false;
        }
        let tcp = ip.tcp().map(|tcp| (Protocol::Tcp, tcp.dst_port()));
        let udp = || ip.udp().map(|udp| (Protocol::Udp, udp.dst_port()));
        tcp.or_else(udp)
            .is_some_and(|port| self.exposed.contains(&port))
    }

    /// The client's tunnel address of the family of `dst`, with any port.
    fn source_towards(&self, dst: SocketAddr) -> Result<SocketAddr, Full> {
        let mut addresses = self.session.addresses().iter();
        let same_family = addresses.find(|addresses| addresses.client.is_ipv4() == dst.is_ipv4());
        let client = same_family.ok_or(Full::Unaddressable)?.client;
        Ok(SocketAddr::new(client, 0))
    }

    /// Another gateway knows none of them, and neither does the same one in another session.
    pub(super) fn end_shell_flows(&mut self, now: Instant) {
        for (flow, protocol) in std::mem::take(&mut self.shell_flows) {
            self.events.push_back(Event::Flow(match protocol {
                Protocol::Tcp => {
                    self.stack.tcp_abort(flow, now);
                    netstack::Event::TcpReset { flow }
                }
                _ => {
                    self.stack.close(flow);
                    netstack::Event::Expired { flow }
                }
            }));
        }
    }

    /// Remembers which flows the shell has.
    pub(super) fn note_shell_flow(&mut self, event: &netstack::Event) {
        match event {
            netstack::Event::TcpOpening { flow, .. } => {
                self.shell_flows.insert(*flow, Protocol::Tcp);
            }
            netstack::Event::UdpOpening { flow, .. } => {
                self.shell_flows.insert(*flow, Protocol::Udp);
            }
            event if event.is_last() => {
                self.shell_flows.remove(&event.flow());
            }
            _ => {}
        }
    }
}
