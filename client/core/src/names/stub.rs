//! The resolver that programs see: DNS over UDP and TCP at a virtual address, on the TUN side. No decisions about names.
//!
//! UDP is answered packet by packet, without a flow; TCP ends in a stack of its own.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use kvpn_netstack::{Config, Event, FlowId, Netstack, Refusal};
use kvpn_wire::packet::build::{self, Unreachable};
use kvpn_wire::packet::{IcmpMessage, Ip, Protocol};
use kvpn_wire::queue::PacketQueue;

use super::DNS_PORT;
use super::stream::{Frames, framed};

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;

/// Questions that may wait on one connection; reading pauses beyond.
const MAX_WAITING: usize = 32;

/// A connection without questions is closed after this time (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// UDP answers that may wait for the TUN.
const MAX_ANSWERS: usize = 1024;
const ANSWER_BYTES: usize = 512 * 1024;

/// IPv6 and UDP headers in bytes.
const UDP_HEADERS: usize = 48;

/// The longest ICMP error (RFC 4443 section 3.1).
const MAX_ERROR: usize = 1280;

/// Who asked, and how the answer gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Udp {
        program: SocketAddr,
        stub: SocketAddr,
    },
    Tcp(FlowId),
    /// The shell itself, by the id that it was given.
    Shell(u64),
}

/// The stub of one session, at one address a family.
#[derive(Debug)]
pub(super) struct Stub {
    addresses: Vec<IpAddr>,
    stack: Netstack,
    connections: BTreeMap<FlowId, Connection>,
    packets: PacketQueue<()>,
    questions: VecDeque<(Asker, Vec<u8>)>,
    /// Packets to the stub that were no use.
    pub(super) unusable: u64,
}

#[derive(Debug)]
struct Connection {
    frames: Frames,
    sending: VecDeque<u8>,
    waiting: usize,
    peer_finished: bool,
    closing: bool,
    idle_since: Instant,
}

impl Stub {
    pub(super) fn new(addresses: Vec<IpAddr>, mtu: usize, seed: u64, now: Instant) -> Self {
        let config = Config {
            mtu,
            max_flows: 2 * MAX_CONNECTIONS,
            tcp_buffer: 64 * 1024,
            udp_idle: IDLE,
            seed,
            ..Config::default()
        };
        Self {
            addresses,
            stack: Netstack::new(config, now),
            connections: BTreeMap::new(),
            packets: PacketQueue::new(MAX_ANSWERS, ANSWER_BYTES),
            questions: VecDeque::new(),
            unusable: 0,
        }
    }

    pub(super) fn move_to(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
    }

    /// Whether packets to `address` are for the stub.
    pub(super) fn serves(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// A packet from a program to an address for which [`Self::serves`] is true.
    pub(super) fn handle_packet(&mut self, ip: &Ip<'_>, now: Instant) {
        match ip.protocol() {
            Protocol::Tcp => self.handle_tcp(ip.bytes(), now),
            Protocol::Udp => self.handle_udp(ip),
            Protocol::Icmpv4 | Protocol::Icmpv6 => self.handle_ping(ip),
            Protocol::Other(_) => self.unusable += 1,
        }
    }

    fn handle_tcp(&mut self, bytes: &[u8], now: Instant) {
        self.stack.handle_packet(bytes, now);
        self.handle_events(now);
    }

    fn handle_ping(&mut self, ip: &Ip<'_>) {
        if let Some(IcmpMessage::EchoRequest {
            ident,
            sequence,
            payload,
        }) = ip.icmp().map(|icmp| icmp.message())
        {
            self.packets.push_with((), ip.total_len(), |out| {
                build::icmp_echo_reply(ip.dst(), ip.src(), ident, sequence, payload, out)
                    .unwrap_or(0)
            });
        }
    }

    fn handle_udp(&mut self, ip: &Ip<'_>) {
        let Some(udp) = ip.udp() else {
            self.unusable += 1;
            return;
        };
        if udp.dst_port() != DNS_PORT {
            self.packets.push_with((), MAX_ERROR, |out| {
                build::icmp_unreachable(Unreachable::Port, ip.dst(), ip.bytes(), out).unwrap_or(0)
            });
            return;
        }
        if self.questions.len() >= MAX_ANSWERS {
            self.unusable += 1;
            return;
        }
        let program = SocketAddr::new(ip.src(), udp.src_port());
        let stub = SocketAddr::new(ip.dst(), DNS_PORT);
        self.questions
            .push_back((Asker::Udp { program, stub }, udp.payload().to_vec()));
    }

    pub(super) fn poll_question(&mut self) -> Option<(Asker, Vec<u8>)> {
        self.questions.pop_front()
    }

    /// An answer on its way to the program.
    pub(super) fn answer_udp(&mut self, program: SocketAddr, stub: SocketAddr, message: &[u8]) {
        let room = message.len() + UDP_HEADERS;
        self.packets.push_with((), room, |out| {
            build::udp(stub, program, message, out).unwrap_or(0)
        });
    }

    /// The answer to a question that came on `flow`; without a message the question is only forgotten.
    pub(super) fn answer_tcp(&mut self, flow: FlowId, message: Option<&[u8]>, now: Instant) {
        let Some(connection) = self.connections.get_mut(&flow) else {
            return;
        };
        connection.waiting = connection.waiting.saturating_sub(1);
        connection.idle_since = now;
        if let Some(message) = message {
            connection.sending.extend(framed(message));
        }
        self.serve(flow, now);
        self.handle_events(now);
    }

    pub(super) fn poll_packet(&mut self) -> Option<&[u8]> {
        if self.packets.is_empty() {
            return self.stack.poll_segment();
        }
        self.packets.pop().map(|((), packet)| packet)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.stack.handle_timeout(now);
        self.handle_events(now);
        let idle: Vec<FlowId> = self
            .connections
            .iter()
            .filter(|(_, c)| c.deadline().is_some_and(|at| at <= now))
            .map(|(flow, _)| *flow)
            .collect();
        for flow in idle {
            self.close_idle(flow, now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let idle = self
            .connections
            .values()
            .filter_map(Connection::deadline)
            .min();
        let idle = idle.map(|at| (at, "idle name connection"));
        self.stack
            .poll_timeout()
            .into_iter()
            .chain(idle)
            .min_by_key(|(at, _)| *at)
    }

    fn handle_events(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            self.handle_event(event, now);
        }
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::TcpOpening { flow, dst, .. } => {
                if dst.port() == DNS_PORT && self.connections.len() < MAX_CONNECTIONS {
                    self.connections.insert(flow, Connection::new(now));
                    self.stack.tcp_accept(flow, now);
                } else {
                    self.stack.tcp_refuse(flow, Refusal::Reset, now);
                }
            }
            Event::TcpConnected { flow }
            | Event::TcpReadable { flow }
            | Event::TcpWritable { flow } => {
                self.serve(flow, now);
            }
            Event::TcpPeerFinished { flow } => {
                if let Some(connection) = self.connections.get_mut(&flow) {
                    connection.peer_finished = true;
                }
                self.serve(flow, now);
            }
            Event::TcpReset { flow } | Event::TcpClosed { flow } => {
                self.connections.remove(&flow);
            }
            Event::UdpOpening { .. }
            | Event::UdpDatagram { .. }
            | Event::EchoOpening { .. }
            | Event::EchoRequest { .. }
            | Event::UdpRefused { .. }
            | Event::Expired { .. } => {}
        }
    }

    /// Reads questions while few wait, writes answers while there is room, ends the flow when all is said.
    fn serve(&mut self, flow: FlowId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&flow) else {
            return;
        };
        while connection.waiting < MAX_WAITING {
            connection.frames.read(flow, &mut self.stack, now);
            let Some(question) = connection.frames.next() else {
                break;
            };
            connection.waiting += 1;
            self.questions.push_back((Asker::Tcp(flow), question));
        }
        while !connection.sending.is_empty() {
            let sent = self
                .stack
                .tcp_send(flow, connection.sending.make_contiguous(), now);
            connection.sending.drain(..sent);
            if sent == 0 {
                break;
            }
        }
        let done = connection.waiting == 0 && connection.sending.is_empty();
        if connection.peer_finished && done && !connection.closing {
            connection.closing = true;
            connection.idle_since = now;
            self.stack.tcp_finish(flow, now);
        }
    }

    /// First a polite end, then, if the program does not end its side, an abrupt one.
    fn close_idle(&mut self, flow: FlowId, now: Instant) {
        let Some(connection) = self.connections.get_mut(&flow) else {
            return;
        };
        if connection.closing {
            self.connections.remove(&flow);
            self.stack.tcp_abort(flow, now);
        } else {
            connection.closing = true;
            connection.idle_since = now;
            self.stack.tcp_finish(flow, now);
        }
    }
}

impl Connection {
    fn new(now: Instant) -> Self {
        Self {
            frames: Frames::default(),
            sending: VecDeque::new(),
            waiting: 0,
            peer_finished: false,
            closing: false,
            idle_since: now,
        }
    }

    /// When it has been idle for too long.
    fn deadline(&self) -> Option<Instant> {
        (self.waiting == 0).then(|| self.idle_since + IDLE)
    }
}
