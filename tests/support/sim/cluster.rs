//! What the gateway's flows reach: an echo server, a server that finishes first, a closed port, a name server. No time
//! passes between the gateway and them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use kvpn_gateway_core::{Event, Flow, FlowEvent, GatewayState, Refusal, SessionIndex, Target};

use super::exposed::Callers;

/// The pod's name server.
pub(crate) const NAMESERVER: &str = "10.96.0.10:53";

/// Sends back what it gets, over TCP and UDP.
pub(crate) const ECHO: &str = "10.96.0.7:7";

/// Takes UDP datagrams and never answers.
pub(crate) const SINK: &str = "10.96.0.7:9";

/// Nothing listens there.
pub(crate) const CLOSED: &str = "10.96.0.7:81";

/// The names that there are: the echo server's, one of another namespace, and pods of equal names in both.
const NAMES: [(&[u8], [u8; 4]); 4] = [
    (
        b"\x04echo\x07default\x03svc\x07cluster\x05local\x00",
        [10, 96, 0, 7],
    ),
    (
        b"\x02db\x06orders\x03svc\x07cluster\x05local\x00",
        [10, 96, 0, 8],
    ),
    (
        b"\x04db-0\x02db\x06orders\x03svc\x07cluster\x05local\x00",
        [10, 96, 0, 9],
    ),
    (
        b"\x04db-0\x02db\x07default\x03svc\x07cluster\x05local\x00",
        [10, 96, 0, 10],
    ),
];

/// The most that waits to be echoed, in bytes: little enough that windows close.
const MAX_PENDING: usize = 64 << 10;

/// The longest datagram.
const CHUNK: usize = 64 * 1024;

/// The servers, by the gateway's flows.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    flows: BTreeMap<Flow, Server>,
    /// Those whose connections the gateway opens to the laptop.
    pub(crate) callers: Callers,
    /// Flows opened since the start.
    pub(crate) opened: usize,
    /// Name queries since the start.
    pub(crate) queries: usize,
    /// Datagrams that [`SINK`] got.
    pub(crate) swallowed: usize,
}

#[derive(Debug, Default)]
struct Server {
    names: bool,
    silent: bool,
    pending: VecDeque<u8>,
    finished: bool,
}

impl Cluster {
    /// The session that opened a flow which is still there.
    pub(crate) fn session(&self) -> Option<SessionIndex> {
        self.flows.keys().next().map(|flow| flow.session())
    }

    /// The gateway is another one.
    pub(crate) fn forget_flows(&mut self) {
        self.flows.clear();
    }

    /// Does all that the gateway's flows ask for; whether there was anything.
    pub(crate) fn serve(&mut self, gateway: &mut GatewayState, now: Instant) -> bool {
        let mut any = false;
        while let Some(event) = gateway.poll_event() {
            any = true;
            match event {
                Event::Flow { flow, what } => {
                    if !self.callers.handle(flow, what, gateway, now) {
                        self.handle(flow, what, gateway, now);
                    }
                }
                Event::SessionEnded { session, .. } => {
                    self.flows.retain(|flow, _| flow.session() != session)
                }
            }
        }
        any
    }

    fn handle(&mut self, flow: Flow, what: FlowEvent, gateway: &mut GatewayState, now: Instant) {
        match what {
            FlowEvent::TcpOpening { target } => self.open_tcp(flow, target, gateway, now),
            FlowEvent::UdpOpening { target } => self.open(flow, target),
            FlowEvent::TcpReadable | FlowEvent::TcpWritable | FlowEvent::TcpConnected => {
                self.echo(flow, gateway, now)
            }
            FlowEvent::TcpPeerFinished => {
                if let Some(server) = self.flows.get_mut(&flow) {
                    server.finished = true;
                }
                self.echo(flow, gateway, now);
            }
            FlowEvent::UdpDatagram => self.datagram(flow, gateway, now),
            FlowEvent::EchoRequest => {
                let mut buf = vec![0; CHUNK];
                if let Some((sequence, n)) = gateway.echo_recv(flow, &mut buf) {
                    gateway.echo_reply(flow, sequence, &buf[..n], now);
                }
            }
            FlowEvent::EchoOpening { .. } => {}
            FlowEvent::TcpReset
            | FlowEvent::TcpClosed
            | FlowEvent::UdpRefused
            | FlowEvent::Expired => {
                self.flows.remove(&flow);
            }
        }
    }

    fn open(&mut self, flow: Flow, target: Target) {
        self.opened += 1;
        let names = matches!(target, Target::Nameserver(_));
        let silent = target == Target::Address(SINK.parse().expect("an address"));
        self.flows.insert(
            flow,
            Server {
                names,
                silent,
                ..Server::default()
            },
        );
    }

    fn open_tcp(&mut self, flow: Flow, target: Target, gateway: &mut GatewayState, now: Instant) {
        let echo: SocketAddr = ECHO.parse().expect("an address");
        if target == Target::Address(echo) {
            self.open(flow, target);
            gateway.tcp_accept(flow, now);
        } else {
            gateway.tcp_refuse(flow, Refusal::Reset, now);
        }
    }

    /// Reads while little waits, writes while there is room, finishes after the client did.
    fn echo(&mut self, flow: Flow, gateway: &mut GatewayState, now: Instant) {
        let Some(server) = self.flows.get_mut(&flow) else {
            return;
        };
        loop {
            let mut moved = 0;
            while server.pending.len() < MAX_PENDING {
                let read = gateway.tcp_recv_with(flow, now, |data| {
                    server.pending.extend(data);
                    data.len()
                });
                moved += read;
                if read == 0 {
                    break;
                }
            }
            while !server.pending.is_empty() {
                let written = gateway.tcp_send_with(flow, now, |room| {
                    let n = room.len().min(server.pending.len());
                    for (to, from) in room.iter_mut().zip(server.pending.drain(..n)) {
                        *to = from;
                    }
                    n
                });
                moved += written;
                if written == 0 {
                    break;
                }
            }
            if moved == 0 {
                break;
            }
        }
        if server.finished && server.pending.is_empty() {
            server.finished = false;
            gateway.tcp_finish(flow, now);
        }
    }

    fn datagram(&mut self, flow: Flow, gateway: &mut GatewayState, now: Instant) {
        let mut buf = vec![0; CHUNK];
        let Some(n) = gateway.udp_recv(flow, &mut buf) else {
            return;
        };
        match self.flows.get(&flow) {
            Some(Server { names: true, .. }) => {
                self.queries += 1;
                gateway.udp_send(flow, &answer(&buf[..n]), now);
            }
            Some(Server { silent: true, .. }) => self.swallowed += 1,
            Some(_) | None => {
                gateway.udp_send(flow, &buf[..n], now);
            }
        }
    }
}

/// The name server's answer: an address, or NXDOMAIN. Written by hand, so that no library of the client's
/// checks itself.
fn answer(query: &[u8]) -> Vec<u8> {
    let name_end = 12
        + query[12..]
            .iter()
            .position(|byte| *byte == 0)
            .expect("a name")
        + 1;
    let question = &query[12..name_end + 4];
    let mut names = NAMES.iter();
    let known = names.find(|(name, _)| query[12..name_end].eq_ignore_ascii_case(name));
    let address = known.filter(|_| question.ends_with(&[0, 1, 0, 1]));
    let mut answer = query[..2].to_vec();
    answer.extend([
        0x85,
        if known.is_some() { 0x80 } else { 0x83 },
        0,
        1,
        0,
        u8::from(address.is_some()),
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    if let Some((_, address)) = address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
        answer.extend(address);
    }
    answer
}
