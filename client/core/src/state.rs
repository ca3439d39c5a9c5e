//! [`ClientState`]: leads every packet and every timeout to the part that decides about it. No decisions of its own
//! beyond who is meant.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kvpn_netstack::{self as netstack, FlowId, Netstack};
use kvpn_wire::control::{SessionGrant, TunnelAddresses};
use kvpn_wire::offload::{Abilities, Coalescer, Segmentation, Split};
use kvpn_wire::packet::{Ip, Protocol, TcpFlags, build};
use kvpn_wire::pmtud;
use kvpn_wire::wireguard::{MAX_HANDSHAKE, PrivateKey};

use crate::config::{Config, Names};
use crate::event::{Event, Path, QueryType, Transmit};
use crate::names::Resolver;
use crate::netmap::Netmap;
use crate::session::{Room, Session, tunnel_mtu};
use crate::status::Status;
use crate::track::{Owner, Refused, Tracker};

/// Packets that wait for the TUN.
const MAX_PACKETS: usize = 1024;
const PACKET_BYTES: usize = 2 * 1024 * 1024;

/// Flows that end in the laptop's own process at once, and their buffers in bytes each way.
const STACK_FLOWS: usize = 5120;
const STACK_BUFFER: usize = 4 << 20;
const STACK_UDP_IDLE: Duration = Duration::from_secs(120);

/// The client of one session: see the [crate] for the loop around it.
#[derive(Debug)]
pub struct ClientState {
    session: Session,
    names: Resolver,
    /// Between the TUN and all else, which knows real addresses only.
    netmap: Netmap,
    tracker: Tracker,
    /// Flows that end here: questions for names, and the shell's.
    stack: Netstack,
    /// Those that the shell knows: it opened them, or they came for an exposure.
    shell_flows: BTreeMap<FlowId, Protocol>,
    /// Where the gateway may open some.
    exposed: BTreeSet<(Protocol, u16)>,
    packets: Coalescer,
    /// A new gateway does not know the programs' connections yet.
    unannounced: bool,
    /// Where super-packets to the stub are cut.
    segment: Vec<u8>,
    events: VecDeque<Event>,
    drops: BTreeMap<&'static str, u64>,
    /// The latest instant that was handed in.
    now: Instant,
}

impl ClientState {
    /// Starts at once on the UDP candidates; `api` follows with [`Self::path_opened`].
    pub fn new(config: Config, now: Instant) -> Self {
        let stack = netstack::Config {
            mtu: pmtud::BASE.min(tunnel_mtu(&config.grant)),
            max_flows: STACK_FLOWS,
            tcp_buffer: STACK_BUFFER,
            udp_idle: STACK_UDP_IDLE,
            seed: config.seed,
            ..netstack::Config::default()
        };
        Self {
            session: Session::new(&config, now),
            names: Resolver::new(&config, config.seed, now),
            netmap: config.netmap.clone(),
            tracker: Tracker::new(now),
            stack: Netstack::new(stack, now),
            shell_flows: BTreeMap::new(),
            exposed: BTreeSet::new(),
            packets: Coalescer::new(PACKET_BYTES, MAX_PACKETS, Abilities::default()),
            unannounced: false,
            segment: vec![0; pmtud::MAX.max(config.grant.mtu.into())],
            events: VecDeque::new(),
            drops: BTreeMap::new(),
            now,
        }
    }

    /// What the TUN takes in one piece; nothing but single packets until it is said.
    pub fn set_abilities(&mut self, abilities: Abilities) {
        self.packets.set_abilities(abilities);
    }

    /// A packet that a program sent into the TUN, or a super-packet that stands for several. What may not leave is dropped
    /// and counted. A virtual address in it is replaced by the real one.
    pub fn handle_tun_packet(
        &mut self,
        packet: &mut [u8],
        segmentation: Segmentation,
        now: Instant,
    ) {
        if !self.netmap.is_empty() && !self.netmap.outgoing(packet) {
            return self.dropped("tun_has_virtual");
        }
        let Ok(ip) = Ip::parse(packet) else {
            return self.dropped("tun_malformed");
        };
        if self.names.serves(ip.dst()) {
            self.ask_stub(packet, segmentation, now);
        } else if !self.session.is_client(ip.src()) {
            self.dropped("tun_foreign_source");
        } else if is_for_many(ip.dst()) {
            self.dropped("tun_multicast");
        } else {
            self.send(&ip, segmentation, now);
        }
        self.settle(now);
    }

    /// A WireGuard datagram that came on `path`.
    pub fn handle_datagram(&mut self, path: Path, datagram: &[u8], now: Instant) {
        self.handle_datagrams(path, datagram, datagram.len(), now);
    }

    /// WireGuard datagrams that came on `path` side by side: each of `stride` bytes, the last may be shorter.
    pub fn handle_datagrams(&mut self, path: Path, bytes: &[u8], stride: usize, now: Instant) {
        let mut packets = std::mem::take(&mut self.packets);
        for datagram in bytes.chunks(stride.max(1)) {
            self.receive(path, datagram, &mut packets, now);
        }
        self.packets = packets;
        if self.unannounced && self.session.is_ready(now) {
            self.unannounced = false;
            self.ask_programs(now);
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.session.handle_timeout(now);
        self.stack.handle_timeout(now);
        self.names.handle_timeout(&mut self.stack, now);
        self.settle(now);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        if !self.session.has_transmits() {
            self.session.serve(self.now);
            self.pump(self.now);
        }
        self.session.poll_transmit()
    }

    /// The next packet for the TUN, or a super-packet as far as [`Self::set_abilities`] allows.
    pub fn poll_packet(&mut self) -> Option<(&mut [u8], Segmentation)> {
        if self.packets.is_empty() {
            match self.session.poll_refusal() {
                Some(refusal) => push_shown(&mut self.packets, &self.netmap, refusal),
                None => self.packets.push(self.names.poll_packet()?),
            };
        }
        self.packets.pop()
    }

    /// The next thing to do or to say.
    pub fn poll_event(&mut self) -> Option<Event> {
        let own = self.events.pop_front();
        own.or_else(|| self.session.poll_event())
            .or_else(|| self.names.poll_event())
    }

    /// When [`Self::handle_timeout`] is to be called, and why. True once the `poll_` methods are drained.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let timeouts = [
            self.session.poll_timeout(),
            self.stack.poll_timeout(),
            self.names.poll_timeout(),
        ];
        timeouts.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The carrier of `path` is there. (UDP candidates count as there without it.)
    pub fn path_opened(&mut self, path: Path, now: Instant) {
        self.session.path_opened(path, now);
        self.settle(now);
    }

    /// The carrier of `path` is gone.
    pub fn path_closed(&mut self, path: Path, now: Instant) {
        self.session.path_closed(path, now);
        self.settle(now);
    }

    /// The carrier of `path` takes `bytes` of datagrams at present, with super-packets of at most `piece` bytes; what goes beyond, a
    /// piece at most, it has to take as well, and so it has to take handshakes and probes. Holds until it is said again. What finds no room
    /// waits in a queue for each flow. Of interest for `api` only, where nothing is lost; without a word it takes everything.
    pub fn path_room(&mut self, path: Path, bytes: usize, piece: usize, now: Instant) {
        self.session.path_room(path, Room { bytes, piece }, now);
        self.settle(now);
    }

    /// Whether the gateway knows control frames on a stream that is opened now.
    pub fn stream_control(&self) -> bool {
        self.session.stream_control()
    }

    /// A link or an address changed, or the laptop slept: every path is tried at once, with a new handshake.
    pub fn network_changed(&mut self, now: Instant) {
        self.session.network_changed(now);
        self.settle(now);
    }

    /// Replaces the UDP candidates, e.g. after the gateway moved.
    pub fn set_udp_candidates(&mut self, candidates: &[SocketAddr], now: Instant) {
        self.session.set_candidates(candidates, now);
        self.settle(now);
    }

    /// The cluster's names changed. Questions under way keep their meaning.
    pub fn set_names(&mut self, names: Names, now: Instant) {
        self.names.set_names(&names);
        self.settle(now);
    }

    /// The ranges routed into the tunnel changed, or which of the cluster's have virtual ones. Flows go on, as long as their
    /// addresses are what they were.
    pub fn set_ranges(&mut self, ranges: Vec<IpNetwork>, netmap: Netmap) {
        self.names.set_ranges(ranges, netmap.clone());
        self.netmap = netmap;
    }

    /// The routes of [`Event::HostRoutes`] exist (`ok`), or could not be made; the answer goes out in either case.
    pub fn host_routes_ready(&mut self, ticket: u64, ok: bool, now: Instant) {
        self.names.host_routes_ready(ticket, ok, now);
        self.settle(now);
    }

    /// A former resolver's answer to [`Event::Upstream`], as it came; `None` when there was none (the program gets SERVFAIL).
    pub fn upstream_answered(&mut self, id: u64, answer: Option<Vec<u8>>, now: Instant) {
        self.names.upstream_answered(id, answer.as_deref(), now);
        self.settle(now);
    }

    /// A new session on the carriers that are there, e.g. after the gateway's restart. With the same tunnel addresses the
    /// flows of programs go on; with others they end, as those of the shell do in any case, and the shell gives the TUN its new addresses.
    pub fn replace_session(
        &mut self,
        private_key: PrivateKey,
        grant: SessionGrant,
        index: u32,
        now: Instant,
    ) {
        self.end_shell_flows(now);
        if !same_addresses(self.session.addresses(), &grant.addresses) {
            self.tracker.clear();
            self.names.move_to(&grant.addresses, &mut self.stack, now);
        }
        self.session.replace(private_key, &grant, index, now);
        self.unannounced = true;
        self.settle(now);
    }

    /// Asks for a name as a program would ask the stub; [`Event::Resolved`] with the id returned follows. The cluster's
    /// names only: others are [`Resolution::Refused`](crate::Resolution::Refused).
    pub fn resolve(&mut self, name: &str, query_type: QueryType, now: Instant) -> u64 {
        let id = self.names.resolve(name, query_type, now);
        self.settle(now);
        id
    }

    /// Figures as of `now`.
    pub fn status(&self, now: Instant) -> Status {
        let mut status = self.session.status(now);
        status.flows = self.tracker.len();
        status
            .drops
            .extend(self.drops.iter().map(|(reason, count)| (*reason, *count)));
        status
            .drops
            .insert("tun_queue_full", self.packets.dropped());
        status.drops.insert("stub_unusable", self.names.unusable());
        status.drops.retain(|_, count| *count > 0);
        status
    }

    /// Opens a datagram where its packet will wait for the TUN, if it is for a program.
    fn receive(&mut self, path: Path, datagram: &[u8], packets: &mut Coalescer, now: Instant) {
        let Some(space) = packets.space(datagram.len().max(MAX_HANDSHAKE)) else {
            return self.dropped("tun_queue_full");
        };
        let Some((n, segmentation)) = self.session.receive(path, datagram, space, now) else {
            return;
        };
        if self.handle_inner(&space[..n], segmentation, now) {
            if !self.netmap.is_empty() {
                self.netmap.incoming(&mut space[..n]);
            }
            packets.commit_super(n, segmentation);
        }
    }

    /// A packet out of the tunnel: for the names, for kvpn's own connections, for nobody, or (then it returns true) for a program.
    fn handle_inner(&mut self, packet: &[u8], segmentation: Segmentation, now: Instant) -> bool {
        let Ok(ip) = Ip::parse(packet) else {
            self.dropped("inner_malformed");
            return false;
        };
        if !self.session.is_client(ip.dst()) {
            self.dropped("inner_foreign_destination");
            return false;
        }
        if let Some(answer) = self.dns_answer(&ip) {
            self.names.handle_message(answer, &mut self.stack, now);
            return false;
        }
        match self.tracker.incoming(&ip, now) {
            Some(Owner::Tun) => return true,
            Some(Owner::Stack) => self.give_stack(ip.bytes(), segmentation, now),
            None if self.is_exposed(&ip) => self.give_stack(ip.bytes(), segmentation, now),
            None => self.dropped("inner_unasked"),
        }
        false
    }

    /// A packet to a flow that ends here; the stack knows super-packets of TCP.
    fn give_stack(&mut self, packet: &[u8], segmentation: Segmentation, now: Instant) {
        let Ok(mut packets) = Split::new(packet, segmentation) else {
            return self.dropped("inner_malformed");
        };
        match segmentation {
            Segmentation::Whole => return self.stack.handle_packet(packet, now),
            Segmentation::Tcp { .. } => return self.stack.handle_super_packet(packet, now),
            Segmentation::Udp { .. } => {}
        }
        let mut segment = std::mem::take(&mut self.segment);
        while let Some(n) = packets.next(&mut segment) {
            self.stack.handle_packet(&segment[..n], now);
        }
        self.segment = segment;
    }

    /// The message in a packet that answers one of the names' own questions.
    fn dns_answer<'a>(&self, ip: &Ip<'a>) -> Option<&'a [u8]> {
        let udp = ip.udp()?;
        let src = SocketAddr::new(ip.src(), udp.src_port());
        let dst = SocketAddr::new(ip.dst(), udp.dst_port());
        self.names.expects(src, dst).then(|| udp.payload())
    }

    /// A packet to the stub; it knows no super-packets.
    fn ask_stub(&mut self, packet: &[u8], segmentation: Segmentation, now: Instant) {
        let Ok(mut packets) = Split::new(packet, segmentation) else {
            return self.dropped("tun_malformed");
        };
        let mut segment = std::mem::take(&mut self.segment);
        while let Some(n) = packets.next(&mut segment) {
            if let Ok(ip) = Ip::parse(&segment[..n]) {
                self.names.handle_packet(&ip, now);
            }
        }
        self.segment = segment;
    }

    /// A program's packet into the tunnel. All packets of a super-packet are of one flow.
    fn send(&mut self, ip: &Ip<'_>, segmentation: Segmentation, now: Instant) {
        match self.tracker.outgoing(ip, Owner::Tun, now) {
            Ok(()) => {
                let sent = self.session.send_or_wait(ip.bytes(), segmentation, now);
                if sent.is_err() {
                    self.dropped("tun_malformed");
                }
            }
            Err(Refused::Taken) => self.dropped("flow_taken"),
            Err(Refused::Full) => self.dropped("flows_full"),
            Err(Refused::Untrackable) => self.dropped("untrackable"),
        }
    }

    /// Lets every part take note of what the others did.
    fn settle(&mut self, now: Instant) {
        self.now = now;
        self.stack.set_mtu(self.session.limit());
        while let Some(event) = self.stack.poll_event() {
            if self.names.handle_flow(event, &mut self.stack, now) {
                continue;
            }
            self.note_shell_flow(&event);
            self.events.push_back(Event::Flow(event));
        }
        self.pump(now);
    }

    /// Makes every program's connection say where it stands, by a segment that it cannot accept (RFC 9293, section
    /// 3.10.7.4: the answer is an acknowledgement). A gateway that does not know the connection resets it then; without
    /// this a program that only reads would wait for ever.
    fn ask_programs(&mut self, now: Instant) {
        let mut packet = [0; 60];
        let question = build::Segment {
            flags: TcpFlags::ACK,
            ..build::Segment::default()
        };
        for flow in self.tracker.open_connections(now) {
            if let Some(n) = build::tcp(flow.dst, flow.src, &question, &mut packet) {
                push_shown(&mut self.packets, &self.netmap, &packet[..n]);
            }
        }
    }

    /// Packets of kvpn's own into the tunnel, as many as there is room for.
    fn pump(&mut self, now: Instant) {
        while self.session.has_room()
            && let Some(query) = self.names.poll_query()
        {
            self.session.send(query, now);
        }
        while self.session.has_room()
            && let Some(packet) = self.stack.poll_segment()
        {
            let Ok(ip) = Ip::parse(packet) else { continue };
            match self.tracker.outgoing(&ip, Owner::Stack, now) {
                Ok(()) => self.session.send(packet, now),
                Err(_) => *self.drops.entry("own_refused").or_default() += 1,
            }
        }
    }

    fn dropped(&mut self, reason: &'static str) {
        tracing::trace!(reason, "packet dropped");
        *self.drops.entry(reason).or_default() += 1;
    }
}

/// Queues a packet that speaks of real addresses for the TUN; false when there is no room (counted).
fn push_shown(packets: &mut Coalescer, netmap: &Netmap, packet: &[u8]) -> bool {
    let Some(space) = packets.space(packet.len()) else {
        return false;
    };
    space.copy_from_slice(packet);
    netmap.incoming(space);
    packets.commit(packet.len());
    true
}

fn is_for_many(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

fn same_addresses(a: &[TunnelAddresses], b: &[TunnelAddresses]) -> bool {
    a.len() == b.len() && a.iter().all(|one| b.contains(one))
}

mod flows;

#[cfg(test)]
mod tests;
