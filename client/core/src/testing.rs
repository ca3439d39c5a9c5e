//! A gateway and programs around a [`ClientState`], for this crate's tests: no latency, no loss, a clock that jumps.
//!
//! The real gateway meets the real client in `tests/sim.rs`; this one only does what a test asks of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use kvpn_netstack::{self as netstack, Netstack};
use kvpn_wire::control::{ClusterFacts, Datapath, Limits, SessionGrant, TunnelAddresses, VERSION};
use kvpn_wire::offload::Segmentation;
use kvpn_wire::packet::{IcmpMessage, Ip, build};
use kvpn_wire::wireguard::{
    Opened, PresharedKey, PrivateKey, PublicKey, Sealed, Tunnel, TunnelConfig,
};

use crate::{CarrierChoice, ClientState, Config, Event, Names, Netmap, Path};

pub(crate) const CLIENT: &str = "198.19.0.2";
pub(crate) const GATEWAY: &str = "198.19.0.1";
pub(crate) const STUB: &str = "198.19.0.3";

/// The cluster's zone: what every name has.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    pub(crate) records: BTreeMap<(String, RecordType), Vec<RData>>,
    /// Names that are denied altogether when AAAA is asked, as bad servers do.
    pub(crate) deny_aaaa: bool,
    pub(crate) silent: bool,
    /// Answers over UDP are cut.
    pub(crate) cut: bool,
    /// What was asked, in order.
    pub(crate) asked: Vec<(String, RecordType)>,
}

/// The other end of the tunnel.
struct Gateway {
    tunnel: Tunnel,
    stack: Netstack,
    /// Inner packets that are neither probes nor questions.
    received: VecDeque<Vec<u8>>,
}

pub(crate) struct Rig {
    pub(crate) client: ClientState,
    gateway: Gateway,
    pub(crate) zone: Zone,
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    /// The longest datagram that UDP carries, in bytes.
    pub(crate) longest: usize,
    /// Paths that carry datagrams.
    pub(crate) alive: BTreeSet<Path>,
    /// Packets to programs.
    pub(crate) tun: VecDeque<Vec<u8>>,
    pub(crate) events: VecDeque<Event>,
}

/// What a test may change before it starts.
pub(crate) fn config() -> Config {
    Config {
        private_key: client_key(),
        grant: grant(gateway_key(0).public()),
        index: 7,
        seed: 1,
        carrier: CarrierChoice::Api,
        udp_candidates: Vec::new(),
        names: Names {
            namespace: "orders".to_owned(),
            domain: "cluster.local".to_owned(),
            namespaces: vec!["default".to_owned()],
            own_domain: None,
            reverse: vec!["10.96.0.0/12".parse().unwrap()],
        },
        netmap: Netmap::default(),
        ranges: vec!["10.96.0.0/12".parse().unwrap()],
        split_dns: true,
        host_routes: true,
    }
}

pub(crate) fn grant(gateway_public_key: PublicKey) -> SessionGrant {
    SessionGrant {
        version: VERSION,
        gateway_version: String::new(),
        session_id: "test".to_owned(),
        gateway_public_key,
        preshared_key: PresharedKey::from_bytes([9; 32]),
        addresses: vec![TunnelAddresses {
            gateway: ip(GATEWAY),
            client: ip(CLIENT),
            dns_stub: ip(STUB),
        }],
        mtu: 1360,
        datapath: Datapath::Userspace,
        datapath_note: None,
        offload: None,
        udp_port: 51820,
        udp_endpoints: Vec::new(),
        cluster: ClusterFacts::default(),
        limits: Limits::default(),
        super_packets: false,
        stream_control: false,
        path_mtu: false,
    }
}

pub(crate) fn client_key() -> PrivateKey {
    PrivateKey::from_seed([1; 32])
}

pub(crate) fn gateway_key(generation: u8) -> PrivateKey {
    PrivateKey::from_seed([100 + generation; 32])
}

pub(crate) fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

pub(crate) fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
pub(crate) fn start() -> Instant {
    Instant::now()
}

impl Gateway {
    fn new(generation: u8, now: Instant) -> Self {
        let config = TunnelConfig {
            private: gateway_key(generation),
            peer: client_key().public(),
            preshared: Some(PresharedKey::from_bytes([9; 32])),
            index: 3,
            persistent_keepalive: None,
            mtu: 1360,
            jitter_seed: 5,
            limiter: None,
        };
        let tunnel = Tunnel::new(config, now);
        Self {
            tunnel,
            stack: Netstack::new(netstack::Config::default(), now),
            received: VecDeque::new(),
        }
    }

    /// Takes a datagram in; gives those to send back.
    fn handle(&mut self, datagram: &[u8], zone: &mut Zone, now: Instant) -> Vec<Vec<u8>> {
        let mut out = vec![0; 2048];
        let mut replies = Vec::new();
        match self.tunnel.open(datagram, None, &mut out, now) {
            Opened::Packet { len, .. } => {
                let packet = out[..len].to_vec();
                self.handle_packet(&packet, zone, now, &mut replies);
            }
            Opened::Reply(n) => replies.push(out[..n].to_vec()),
            Opened::Keepalive
            | Opened::Established(_)
            | Opened::Challenge(_)
            | Opened::Cookie
            | Opened::Rejected(_) => {}
        }
        replies
    }

    fn handle_packet(
        &mut self,
        packet: &[u8],
        zone: &mut Zone,
        now: Instant,
        replies: &mut Vec<Vec<u8>>,
    ) {
        let ip = Ip::parse(packet).unwrap();
        let mut out = vec![0; 2048];
        if let Some(IcmpMessage::EchoRequest {
            ident,
            sequence,
            payload,
        }) = ip.icmp().map(|icmp| icmp.message())
        {
            let n = build::icmp_echo_reply(ip.dst(), ip.src(), ident, sequence, payload, &mut out)
                .unwrap();
            replies.extend(self.seal(&out[..n], now));
        } else if let Some(udp) = ip.udp().filter(|udp| udp.dst_port() == 53) {
            let (src, dst) = (
                SocketAddr::new(ip.dst(), 53),
                SocketAddr::new(ip.src(), udp.src_port()),
            );
            if let Some(answer) = zone.answer(udp.payload(), false) {
                let n = build::udp(src, dst, &answer, &mut out).unwrap();
                replies.extend(self.seal(&out[..n], now));
            }
        } else if ip.tcp().is_some_and(|tcp| tcp.dst_port() == 53) {
            self.stack.handle_packet(packet, now);
            self.serve_tcp(zone, now);
            while let Some(packet) = self.stack.poll_segment().map(<[u8]>::to_vec) {
                replies.extend(self.seal(&packet, now));
            }
        } else {
            self.received.push_back(packet.to_vec());
        }
    }

    /// Questions over TCP, each in one piece.
    fn serve_tcp(&mut self, zone: &mut Zone, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            match event {
                netstack::Event::TcpOpening { flow, .. } => self.stack.tcp_accept(flow, now),
                netstack::Event::TcpReadable { flow } => {
                    let mut buf = vec![0; 2048];
                    let n = self.stack.tcp_recv(flow, &mut buf, now);
                    if let Some(answer) = zone.answer(&buf[2..n], true) {
                        let mut framed =
                            u16::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
                        framed.extend(answer);
                        assert_eq!(self.stack.tcp_send(flow, &framed, now), framed.len());
                    }
                }
                _ => {}
            }
        }
    }

    fn seal(&mut self, packet: &[u8], now: Instant) -> Option<Vec<u8>> {
        let mut out = vec![0; 2048];
        match self.tunnel.seal(packet, &mut out, now) {
            Sealed::Datagram(n) => Some(out[..n].to_vec()),
            Sealed::Handshake(_) | Sealed::Queued | Sealed::Dropped => None,
        }
    }
}

impl Zone {
    pub(crate) fn add(&mut self, name: &str, data: RData) {
        self.records
            .entry((absolute(name).to_ascii(), data.record_type()))
            .or_default()
            .push(data);
    }

    pub(crate) fn add_a(&mut self, name: &str, address: &str) {
        self.add(
            name,
            RData::A(address.parse::<std::net::Ipv4Addr>().unwrap().into()),
        );
    }

    fn answer(&mut self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let key = (query.name.to_lowercase().to_ascii(), query.query_type);
        self.asked.push(key.clone());
        if self.silent {
            return None;
        }
        let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        let denied = self.deny_aaaa && query.query_type == RecordType::AAAA;
        if denied || !self.records.keys().any(|(name, _)| *name == key.0) {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        let owner = query.name.clone();
        answer.queries.push(query);
        answer.metadata.truncation = self.cut && !tcp;
        if !answer.metadata.truncation {
            let data = self.records.get(&key).into_iter().flatten().cloned();
            answer.answers = data
                .map(|data| Record::from_rdata(owner.clone(), 30, data))
                .collect();
        }
        Some(answer.to_vec().unwrap())
    }
}

impl Rig {
    /// A client with a working session over `api`.
    pub(crate) fn new(config: Config) -> Self {
        let mut rig = Self::unconnected(config);
        rig.alive.insert(Path::Api);
        rig.client.path_opened(Path::Api, rig.now);
        rig.settle();
        assert_eq!(
            rig.events.pop_front(),
            Some(Event::Established { path: Path::Api })
        );
        rig
    }

    pub(crate) fn unconnected(config: Config) -> Self {
        let now = start();
        Self {
            client: ClientState::new(config, now),
            gateway: Gateway::new(0, now),
            zone: Zone::default(),
            now,
            start: now,
            longest: usize::MAX,
            alive: BTreeSet::new(),
            tun: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The gateway starts anew: all sessions are gone.
    pub(crate) fn restart_gateway(&mut self, generation: u8) {
        self.gateway = Gateway::new(generation, self.now);
    }

    /// A packet from a program; then everything that follows from it at once.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        self.client
            .handle_tun_packet(&mut packet.to_vec(), Segmentation::Whole, self.now);
        self.settle();
    }

    /// An inner packet that the gateway received.
    pub(crate) fn gateway_received(&mut self) -> Option<Vec<u8>> {
        self.gateway.received.pop_front()
    }

    /// The gateway sends an inner packet, if it is one at all: the tunnel cuts it to the length in its header.
    pub(crate) fn gateway_sends_if_it_can(&mut self, packet: &[u8]) {
        if let Some(datagram) = self.gateway.seal(packet, self.now) {
            self.client.handle_datagram(Path::Api, &datagram, self.now);
            self.settle();
        }
    }

    /// The gateway sends an inner packet.
    pub(crate) fn gateway_sends(&mut self, packet: &[u8]) {
        let datagram = self.gateway.seal(packet, self.now).expect("a session");
        self.client.handle_datagram(Path::Api, &datagram, self.now);
        self.settle();
    }

    pub(crate) fn settle(&mut self) {
        loop {
            let mut replies = Vec::new();
            while let Some(transmit) = self.client.poll_transmit() {
                if self.alive.contains(&transmit.path) {
                    let path = transmit.path;
                    let longest = self.longest;
                    let fits = |datagram: &&[u8]| path == Path::Api || datagram.len() <= longest;
                    for datagram in transmit.datagrams().filter(fits) {
                        let all = self.gateway.handle(datagram, &mut self.zone, self.now);
                        replies.extend(all.into_iter().map(|reply| (path, reply)));
                    }
                }
            }
            while let Some((packet, _)) = self.client.poll_packet() {
                self.tun.push_back(packet.to_vec());
            }
            while let Some(event) = self.client.poll_event() {
                self.events.push_back(event);
            }
            if replies.is_empty() {
                return;
            }
            for (path, reply) in replies {
                self.client.handle_datagram(path, &reply, self.now);
            }
        }
    }

    pub(crate) fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while let Some((at, _)) = self.client.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.client.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// A program asks the stub over UDP; the answer, if it comes at once.
    pub(crate) fn ask(&mut self, name: &str, record_type: RecordType) -> Option<Message> {
        self.send(&udp(
            at(CLIENT, 40_000),
            at(STUB, 53),
            &question(name, record_type),
        ));
        self.answer()
    }

    /// The next answer of the stub over UDP.
    pub(crate) fn answer(&mut self) -> Option<Message> {
        let packet = self.tun.pop_front()?;
        let ip = Ip::parse(&packet).ok()?;
        let udp = ip.udp()?;
        assert_eq!((ip.src(), udp.src_port()), (self::ip(STUB), 53));
        Message::from_vec(udp.payload()).ok()
    }
}

pub(crate) fn question(name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message
        .queries
        .push(Query::query(absolute(name), record_type));
    message.to_vec().unwrap()
}

pub(crate) fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    packet(|out| build::udp(src, dst, payload, out))
}

pub(crate) fn packet(build: impl FnOnce(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut out = vec![0; 2048];
    let n = build(&mut out).unwrap();
    out.truncate(n);
    out
}
