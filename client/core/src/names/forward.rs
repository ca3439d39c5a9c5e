//! Asking the cluster: queries to the gateway's DNS relay inside the tunnel, repeated when lost, over TCP when cut.
//!
//! Absolute names only; what a name means and what is done with the answer is decided elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, Query};
use kvpn_netstack::{Event as FlowEvent, FlowId, Netstack};
use kvpn_wire::control::TunnelAddresses;
use kvpn_wire::packet::build;
use kvpn_wire::queue::PacketQueue;

use super::DNS_PORT;
use super::answer;
use super::stream::{Frames, framed};
use crate::random::Random;

/// How many queries may wait for the cluster at once.
const MAX_PENDING: usize = 1024;

/// A query is given up after this time.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Pause before a query is sent again.
const RETRANSMIT: Duration = Duration::from_secs(1);

/// How often a query is sent at most.
const MAX_SENDS: u32 = 3;

/// Source ports: above those that Linux gives to programs, which share the client's address.
const FIRST_PORT: u16 = 61_000;
const PORTS: u16 = 4_096;

/// Room for the queries of one burst, IP headers included.
const QUEUE_BYTES: usize = 256 * 1024;

/// The longest query as an IP packet: headers, the longest name, EDNS.
const MAX_QUERY: usize = 512;

/// Queries under way.
#[derive(Debug)]
pub(super) struct Forwarder {
    /// Where queries come from and go to; none in a session without addresses.
    route: Option<Route>,
    /// By DNS id.
    pending: BTreeMap<u16, Pending>,
    flows: BTreeMap<FlowId, Stream>,
    packets: PacketQueue<()>,
    answers: VecDeque<Answered>,
    random: Random,
    /// Every first sending uses this port, so that the relay needs few sockets.
    port: u16,
}

/// The client's tunnel address and the gateway's relay.
#[derive(Debug, Clone, Copy)]
struct Route {
    client: IpAddr,
    relay: SocketAddr,
}

impl Route {
    fn new(addresses: &TunnelAddresses) -> Self {
        Self {
            client: addresses.client,
            relay: SocketAddr::new(addresses.gateway, DNS_PORT),
        }
    }
}

/// A query that is no longer under way.
#[derive(Debug)]
pub(super) struct Answered {
    /// What [`Forwarder::ask`] was given.
    pub(super) ticket: u64,
    /// The cluster's answer; none when there was none in time.
    pub(super) message: Option<Message>,
}

#[derive(Debug)]
struct Pending {
    ticket: u64,
    query: Query,
    bytes: Vec<u8>,
    sends: u32,
    next: Instant,
    deadline: Instant,
    flow: Option<FlowId>,
}

/// One query over TCP.
#[derive(Debug)]
struct Stream {
    id: u16,
    frames: Frames,
}

impl Forwarder {
    pub(super) fn new(addresses: Option<&TunnelAddresses>, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let port = FIRST_PORT + random.below(PORTS);
        Self {
            route: addresses.map(Route::new),
            pending: BTreeMap::new(),
            flows: BTreeMap::new(),
            packets: PacketQueue::new(MAX_PENDING, QUEUE_BYTES),
            answers: VecDeque::new(),
            random,
            port,
        }
    }

    /// The relay is elsewhere from now on; what is under way is asked again there.
    pub(super) fn move_to(
        &mut self,
        addresses: Option<&TunnelAddresses>,
        stack: &mut Netstack,
        now: Instant,
    ) {
        self.route = addresses.map(Route::new);
        for flow in std::mem::take(&mut self.flows).into_keys() {
            stack.tcp_abort(flow, now);
        }
        for pending in self.pending.values_mut() {
            pending.flow = None;
            pending.sends = 0;
            pending.next = now;
        }
    }

    /// Asks the cluster. False when too many queries are under way or the query cannot be written down.
    pub(super) fn ask(&mut self, ticket: u64, query: Query, now: Instant) -> bool {
        if self.pending.len() >= MAX_PENDING {
            return false;
        }
        let id = self.free_id();
        let Some(bytes) = answer::query(id, query.clone()) else {
            return false;
        };
        let deadline = now + GIVE_UP;
        let pending = Pending {
            ticket,
            query,
            bytes,
            sends: 0,
            next: now,
            deadline,
            flow: None,
        };
        self.pending.insert(id, pending);
        self.send(id, now);
        true
    }

    /// Whether a UDP packet from `src` to `dst` out of the tunnel is an answer to a query from here.
    pub(super) fn expects(&self, src: SocketAddr, dst: SocketAddr) -> bool {
        let ours = (FIRST_PORT..FIRST_PORT + PORTS).contains(&dst.port());
        ours && self
            .route
            .is_some_and(|route| src == route.relay && dst.ip() == route.client)
    }

    /// A message over UDP for which [`Self::expects`] was true. A cut one is asked again over TCP.
    pub(super) fn handle_message(&mut self, message: &[u8], stack: &mut Netstack, now: Instant) {
        let Some((id, message)) = self.matching(message) else {
            return;
        };
        if message.metadata.truncation {
            self.ask_over_tcp(id, stack, now);
        } else {
            self.answered(id, Some(message));
        }
    }

    /// News of a flow of the tunnel's stack; false when the flow is not from here.
    pub(super) fn handle_flow(
        &mut self,
        event: FlowEvent,
        stack: &mut Netstack,
        now: Instant,
    ) -> bool {
        let flow = event.flow();
        let Some(stream) = self.flows.get_mut(&flow) else {
            return false;
        };
        let id = stream.id;
        match event {
            FlowEvent::TcpConnected { .. } => {
                if let Some(pending) = self.pending.get(&id) {
                    stack.tcp_send(flow, &framed(&pending.bytes), now);
                }
            }
            FlowEvent::TcpReadable { .. } => {
                stream.frames.read(flow, stack, now);
                if let Some(message) = stream.frames.next() {
                    let message = self.matching(&message).map(|(_, message)| message);
                    stack.tcp_abort(flow, now);
                    self.stream_ended(flow, id, message);
                }
            }
            FlowEvent::TcpPeerFinished { .. } => {
                stack.tcp_abort(flow, now);
                self.stream_ended(flow, id, None);
            }
            FlowEvent::TcpReset { .. } | FlowEvent::TcpClosed { .. } => {
                self.stream_ended(flow, id, None);
            }
            FlowEvent::TcpOpening { .. }
            | FlowEvent::TcpWritable { .. }
            | FlowEvent::UdpOpening { .. }
            | FlowEvent::UdpDatagram { .. }
            | FlowEvent::EchoOpening { .. }
            | FlowEvent::EchoRequest { .. }
            | FlowEvent::UdpRefused { .. }
            | FlowEvent::Expired { .. } => {}
        }
        true
    }

    fn stream_ended(&mut self, flow: FlowId, id: u16, message: Option<Message>) {
        self.flows.remove(&flow);
        self.answered(id, message);
    }

    pub(super) fn handle_timeout(&mut self, stack: &mut Netstack, now: Instant) {
        let due: Vec<u16> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.due() <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(pending) = self.pending.get(&id) else {
                continue;
            };
            if pending.deadline > now {
                self.send(id, now);
                continue;
            }
            if let Some(flow) = pending.flow {
                self.flows.remove(&flow);
                stack.tcp_abort(flow, now);
            }
            self.answered(id, None);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.pending
            .values()
            .map(|pending| (pending.due(), "cluster name"))
            .min()
    }

    /// The next packet into the tunnel.
    pub(super) fn poll_packet(&mut self) -> Option<&[u8]> {
        self.packets.pop().map(|((), packet)| packet)
    }

    pub(super) fn poll_answer(&mut self) -> Option<Answered> {
        self.answers.pop_front()
    }

    /// Sends a query over UDP; a repetition from another port, so that it does not meet the same dead flow on its way.
    fn send(&mut self, id: u16, now: Instant) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        if pending.sends > 0 {
            self.port = FIRST_PORT + self.random.below(PORTS);
        }
        pending.sends += 1;
        pending.next = now + RETRANSMIT;
        if let Some(Route { client, relay }) = self.route {
            let src = SocketAddr::new(client, self.port);
            self.packets.push_with((), MAX_QUERY, |out| {
                build::udp(src, relay, &pending.bytes, out).unwrap_or(0)
            });
        }
    }

    fn ask_over_tcp(&mut self, id: u16, stack: &mut Netstack, now: Instant) {
        let Some(pending) = self
            .pending
            .get_mut(&id)
            .filter(|pending| pending.flow.is_none())
        else {
            return;
        };
        let flow = self
            .route
            .map(|route| stack.tcp_connect(SocketAddr::new(route.client, 0), route.relay, now));
        match flow {
            Some(Ok(flow)) => {
                pending.flow = Some(flow);
                self.flows.insert(
                    flow,
                    Stream {
                        id,
                        frames: Frames::default(),
                    },
                );
            }
            Some(Err(_)) | None => self.answered(id, None),
        }
    }

    /// The message, if it answers a query under way: id, question and class agree.
    fn matching(&self, message: &[u8]) -> Option<(u16, Message)> {
        let message = Message::from_vec(message).ok()?;
        let id = message.metadata.id;
        let pending = self.pending.get(&id)?;
        let same = message.queries.first().is_some_and(|query| {
            query.name == pending.query.name
                && query.query_type == pending.query.query_type
                && query.query_class == pending.query.query_class
        });
        (same && message.metadata.message_type == MessageType::Response).then_some((id, message))
    }

    fn answered(&mut self, id: u16, message: Option<Message>) {
        if let Some(pending) = self.pending.remove(&id) {
            self.answers.push_back(Answered {
                ticket: pending.ticket,
                message,
            });
        }
    }

    fn free_id(&mut self) -> u16 {
        loop {
            let id = self.random.below(u16::MAX);
            if !self.pending.contains_key(&id) {
                return id;
            }
        }
    }
}

impl Pending {
    /// When something is to be done about it.
    fn due(&self) -> Instant {
        if self.flow.is_none() && self.sends < MAX_SENDS {
            self.next.min(self.deadline)
        } else {
            self.deadline
        }
    }
}
