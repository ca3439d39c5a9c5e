//! A whole kvpn in one thread: the real [`ClientState`] and the real [`GatewayState`], links between them that delay,
//! lose, reorder, repeat and cut, programs on one side and a cluster on the other. The clock jumps to the next thing that
//! happens; every choice comes from one seed, so that a run can be repeated.
//!
//! It decides nothing about right or wrong: the tests in `tests/sim.rs` do.

#[path = "sim/cluster.rs"]
pub(crate) mod cluster;
#[path = "sim/exposed.rs"]
pub(crate) mod exposed;
#[path = "sim/link.rs"]
pub(crate) mod link;
#[path = "sim/program.rs"]
pub(crate) mod program;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvpn_client_core::{CarrierChoice, ClientState, Config, Event, Mapping, Names, Netmap, Path};
use kvpn_gateway_core::{
    Config as GatewayConfig, Flow, GatewayState, KernelFamilies, Limits, Path as ClientPath, Shard,
    StreamId,
};
use kvpn_wire::control::{ClusterFacts, CreateSession, SessionGrant, VERSION};
use kvpn_wire::offload::Segmentation;
use kvpn_wire::range::IpNetwork;
use kvpn_wire::stream::Stream;
use kvpn_wire::wireguard::PrivateKey;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use self::cluster::Cluster;
use self::exposed::LaptopProgram;
use self::link::{Link, Udp};
use self::program::Programs;

/// Where the gateway answers UDP.
pub(crate) const NODE: &str = "203.0.113.9:31820";

/// The client as the gateway sees it over UDP, before any NAT changes its mind.
pub(crate) const NAT: &str = "198.51.100.7:40000";

/// What of a session is to be simulated.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) carrier: CarrierChoice,
    pub(crate) api: Link,
    pub(crate) udp: Udp,
    pub(crate) candidates: Vec<Candidate>,
    /// Whether the shell opens the `api` carrier at the start and when it is asked for.
    pub(crate) api_at_hand: bool,
    /// Whether the gateway is new enough to answer probes of the MTU.
    pub(crate) path_mtu: bool,
    /// Where programs see the cluster's 10.96.0.0/12, if not there.
    pub(crate) shown: Option<&'static str>,
    /// The session's own domain.
    pub(crate) own_domain: Option<&'static str>,
    /// Whether the operating system asks the session for the cluster's names only.
    pub(crate) split_dns: bool,
    /// Ranges from which the gateway gives no tunnel addresses.
    pub(crate) avoid: Vec<IpNetwork>,
}

impl Setup {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            carrier: CarrierChoice::Auto,
            api: Link::stream(Duration::from_millis(10)),
            udp: Udp::default(),
            candidates: vec![
                Candidate::new("203.0.113.1:31820", Leads::Nowhere),
                Candidate::new(NODE, Leads::ThereAndBack),
            ],
            api_at_hand: true,
            path_mtu: true,
            shown: None,
            own_domain: None,
            split_dns: true,
            avoid: Vec::new(),
        }
    }

    pub(crate) fn udp_only(seed: u64) -> Self {
        Self {
            carrier: CarrierChoice::Udp,
            api_at_hand: false,
            ..Self::new(seed)
        }
    }

    pub(crate) fn api_only(seed: u64) -> Self {
        Self {
            carrier: CarrierChoice::Api,
            ..Self::new(seed)
        }
    }

    fn leads(&self, address: SocketAddr, to_gateway: bool) -> bool {
        let mut candidates = self.candidates.iter();
        match candidates.find(|candidate| candidate.address == address) {
            Some(candidate) if to_gateway => candidate.leads != Leads::Nowhere,
            Some(candidate) => candidate.leads == Leads::ThereAndBack,
            None => false,
        }
    }

    /// The client behind `nat` as the gateway sees it by way of a candidate: each has a port of its own.
    fn translated(&self, candidate: SocketAddr, nat: SocketAddr) -> SocketAddr {
        let place = |other: &Candidate| other.address == candidate;
        let place = self.candidates.iter().position(place).unwrap_or_default();
        let offset = u16::try_from(place * 100).expect("few candidates");
        SocketAddr::new(nat.ip(), nat.port() + offset)
    }

    fn candidate_behind(&self, translated: SocketAddr, nat: SocketAddr) -> Option<SocketAddr> {
        let mut candidates = self.candidates.iter().map(|candidate| candidate.address);
        candidates.find(|candidate| self.translated(*candidate, nat) == translated)
    }
}

/// A UDP address at which the client may try the gateway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) address: SocketAddr,
    pub(crate) leads: Leads,
}

/// Where datagrams to a candidate get, on the way described by [`Setup::udp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leads {
    Nowhere,
    /// To the gateway, whose answers are lost.
    There,
    ThereAndBack,
}

impl Candidate {
    pub(crate) fn new(address: &str, leads: Leads) -> Self {
        let address = address.parse().expect("an address");
        Self { address, leads }
    }
}

/// Bytes of the stream that arrive together at most.
const CHUNK: usize = 4096;

/// Something on its way between the two ends: a datagram, or bytes of the stream.
#[derive(Debug, Clone)]
struct Delivery {
    path: Path,
    to_gateway: bool,
    /// The client's address as the gateway sees it (UDP), or the stream's number.
    seen_as: ClientPath,
    datagram: Vec<u8>,
}

/// A datagram that an end wants to send; `seen_as` is missing when there is no way for it.
struct Outgoing {
    path: Path,
    to_gateway: bool,
    seen_as: Option<ClientPath>,
    datagram: Vec<u8>,
}

/// One line of the trace: everything that could differ between two runs, but no contents, which are encrypted with keys
/// from the operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) at: Duration,
    pub(crate) path: Path,
    pub(crate) to_gateway: bool,
    pub(crate) len: usize,
}

/// The simulated world.
pub(crate) struct Sim {
    pub(crate) setup: Setup,
    pub(crate) client: ClientState,
    pub(crate) gateway: GatewayState,
    pub(crate) cluster: Cluster,
    pub(crate) programs: Programs,
    laptop_program: LaptopProgram,
    pub(crate) now: Instant,
    start: Instant,
    random: StdRng,
    /// By time and then in the order of sending.
    in_flight: BTreeMap<(Instant, u64), Delivery>,
    sent: u64,
    /// When the link is done with the last byte of each direction.
    stream_ends: [Option<Instant>; 2],
    /// The client's and the gateway's end of the stream.
    ends: [Stream; 2],
    stream: Option<StreamId>,
    streams: u64,
    /// The client's address as the NAT translates it at present.
    pub(crate) nat: SocketAddr,
    generation: u8,
    key: PrivateKey,
    /// What the client's shell was told, with the time since the start.
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) trace: Vec<Sent>,
    /// Every datagram of the client, for those who replay.
    pub(crate) overheard: VecDeque<(Path, Vec<u8>)>,
}

impl Sim {
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulated clock has to start somewhere"
    )]
    pub(crate) fn new(setup: Setup) -> Self {
        let now = Instant::now();
        let mut gateway = gateway(&setup, 0, now);
        let key = PrivateKey::from_seed([setup.seed as u8; 32]);
        let mut grant = create_session(&mut gateway, &key, &setup.avoid, Vec::new(), now);
        grant.path_mtu = setup.path_mtu;
        let programs = Programs::new(grant.addresses.clone(), setup.seed, now);
        let client = ClientState::new(client_config(&setup, key.clone(), grant), now);
        let mut sim = Self {
            client,
            gateway,
            cluster: Cluster::default(),
            programs,
            laptop_program: LaptopProgram::default(),
            now,
            start: now,
            random: StdRng::seed_from_u64(setup.seed),
            in_flight: BTreeMap::new(),
            sent: 0,
            stream_ends: [None; 2],
            ends: [Stream::new(), Stream::new()],
            stream: None,
            streams: 0,
            nat: NAT.parse().expect("an address"),
            generation: 0,
            key,
            events: Vec::new(),
            trace: Vec::new(),
            overheard: VecDeque::new(),
            setup,
        };
        if sim.setup.api_at_hand {
            sim.open_api();
        }
        sim.settle();
        sim
    }

    /// A caller in the cluster connects to a port of the laptop, and sends so many bytes. A program's flow must be open.
    pub(crate) fn call(&mut self, port: u16, len: usize) -> Flow {
        let session = self.cluster.session().expect("a program has a flow");
        let flow = self
            .gateway
            .tcp_dial(session, port, self.now)
            .expect("there is room");
        self.cluster.callers.add(flow, len);
        self.settle();
        flow
    }

    /// Somebody else's program sends a packet into the TUN.
    #[allow(
        dead_code,
        reason = "the tests of namespaces have programs of their own; the simulator's send by themselves"
    )]
    pub(crate) fn send(&mut self, packet: &mut [u8]) {
        self.client
            .handle_tun_packet(packet, Segmentation::Whole, self.now);
        self.settle();
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Lets `duration` pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done`, at most for `limit`; how long it took.
    #[track_caller]
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        done: impl Fn(&Self) -> bool,
    ) -> Duration {
        let begun = self.now;
        while !done(self) {
            let moved = self.step(begun + limit);
            assert!(
                moved,
                "{what}: not within {limit:?}; told {:?}; {:?}",
                self.events,
                self.client.status(self.now)
            );
        }
        self.now - begun
    }

    /// The shell opens an `api` carrier.
    pub(crate) fn open_api(&mut self) {
        self.close_stream();
        self.streams += 1;
        self.stream = Some(StreamId(self.streams));
        self.stream_ends = [None; 2];
        self.ends = [Stream::with_control(self.now), Stream::new()];
        self.client.path_opened(Path::Api, self.now);
        self.settle();
    }

    /// The `api` carrier breaks, and both ends notice.
    pub(crate) fn close_api(&mut self) {
        self.close_stream();
        self.client.path_closed(Path::Api, self.now);
        self.settle();
    }

    /// The gateway's pod is replaced: all its sessions are gone, and so are the streams to it.
    pub(crate) fn restart_gateway(&mut self) {
        self.generation += 1;
        self.gateway = gateway(&self.setup, self.generation, self.now);
        self.cluster.forget_flows();
        self.in_flight.clear();
        if self.stream.is_some() {
            self.close_api();
        }
    }

    /// The shell makes a new session with whatever gateway there is, asking for the same addresses.
    pub(crate) fn new_session(&mut self) {
        let former = self
            .programs
            .addresses()
            .iter()
            .map(|addresses| addresses.client);
        let former = former.collect();
        self.key = PrivateKey::from_seed([self.generation + 50; 32]);
        let avoid = &self.setup.avoid;
        let mut grant = create_session(&mut self.gateway, &self.key, avoid, former, self.now);
        grant.path_mtu = self.setup.path_mtu;
        assert_eq!(
            grant.addresses,
            self.programs.addresses(),
            "the same addresses again"
        );
        let index = 100 + u32::from(self.generation);
        self.client
            .replace_session(self.key.clone(), grant, index, self.now);
        if self.setup.api_at_hand {
            self.open_api();
        }
        self.settle();
    }

    /// Somebody else sends a datagram to the gateway.
    pub(crate) fn attack_gateway(&mut self, from: &str, datagram: &[u8]) {
        let from = ClientPath::Udp(from.parse().expect("an address"));
        self.gateway.handle_datagram(from, datagram, self.now);
        self.settle();
    }

    /// Somebody else sends a datagram to the client, with the gateway's address as its source.
    pub(crate) fn attack_client(&mut self, datagram: &[u8]) {
        self.client.handle_datagram(node(), datagram, self.now);
        self.settle();
    }

    /// When the shell was first told `event`, since the start.
    pub(crate) fn told(&self, event: &Event) -> Option<Duration> {
        self.events
            .iter()
            .find(|(_, told)| told == event)
            .map(|(at, _)| *at)
    }

    pub(crate) fn path(&self) -> Option<Path> {
        self.client.status(self.now).path
    }

    fn close_stream(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.in_flight
                .retain(|_, delivery| delivery.path != Path::Api);
            self.gateway.path_closed(ClientPath::Api(stream));
        }
    }

    /// The next thing that happens, if it does before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let timeouts = [
            self.client.poll_timeout(),
            self.gateway.poll_timeout(),
            self.programs.poll_timeout(),
        ];
        let timeout = timeouts.into_iter().flatten().map(|(at, _)| at).min();
        let arrival = self.in_flight.keys().next().map(|(at, _)| *at);
        let next = timeout.into_iter().chain(arrival).min();
        let Some(at) = next.filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(at);
        if arrival.is_some_and(|arrival| arrival <= self.now) {
            self.deliver();
        } else {
            self.client.handle_timeout(self.now);
            self.gateway.handle_timeout(self.now);
            self.programs.handle_timeout(self.now);
        }
        self.settle();
        true
    }

    fn deliver(&mut self) {
        let Some((_, delivery)) = self.in_flight.pop_first() else {
            return;
        };
        if delivery.path == Path::Api {
            self.arrive(delivery);
        } else if delivery.to_gateway {
            self.gateway
                .handle_datagram(delivery.seen_as, &delivery.datagram, self.now);
        } else {
            self.client
                .handle_datagram(delivery.path, &delivery.datagram, self.now);
        }
    }

    /// Moves everything that can move without time passing.
    pub(crate) fn settle(&mut self) {
        while self.settle_once() {}
    }

    fn settle_once(&mut self) -> bool {
        let mut moved = false;
        while let Some(mut packet) = self.programs.poll_packet() {
            self.client
                .handle_tun_packet(&mut packet, Segmentation::Whole, self.now);
            moved = true;
        }
        while let Some((packet, _)) = self.client.poll_packet() {
            self.programs.handle_packet(packet, self.now);
            moved = true;
        }
        while let Some(event) = self.client.poll_event() {
            self.handle_event(event);
            moved = true;
        }
        moved |= self.cluster.serve(&mut self.gateway, self.now);
        moved | self.transmit()
    }

    /// What the shell does; the tests see to the rest.
    fn handle_event(&mut self, event: Event) {
        if let Event::HostRoutes { ticket, .. } = event {
            self.client.host_routes_ready(ticket, true, self.now);
        }
        if let Event::Flow(flow) = &event {
            self.laptop_program.handle(flow, &mut self.client, self.now);
        }
        if event == Event::ApiCarrierWanted && self.setup.api_at_hand {
            self.open_api();
        }
        self.events.push((self.elapsed(), event));
    }

    fn transmit(&mut self) -> bool {
        let mut outgoing = self.sent_by_client();
        outgoing.extend(self.sent_by_gateway());
        let moved = !outgoing.is_empty();
        for Outgoing {
            path,
            to_gateway,
            seen_as,
            datagram,
        } in outgoing
        {
            let (at, len) = (self.elapsed(), datagram.len());
            self.trace.push(Sent {
                at,
                path,
                to_gateway,
                len,
            });
            if let Some(seen_as) = seen_as {
                self.put(Delivery {
                    path,
                    to_gateway,
                    seen_as,
                    datagram,
                });
            }
        }
        if moved {
            self.tell_room();
        }
        moved
    }

    fn sent_by_client(&mut self) -> Vec<Outgoing> {
        let mut outgoing = Vec::new();
        while let Some(transmit) = self.client.poll_transmit() {
            let seen_as = match transmit.path {
                Path::Api => self.stream.map(ClientPath::Api),
                Path::Udp(candidate) => {
                    Some(ClientPath::Udp(self.setup.translated(candidate, self.nat)))
                }
            };
            for datagram in transmit.datagrams().map(<[u8]>::to_vec) {
                self.overheard.push_back((transmit.path, datagram.clone()));
                outgoing.push(Outgoing {
                    path: transmit.path,
                    to_gateway: true,
                    seen_as,
                    datagram,
                });
            }
        }
        self.overheard
            .drain(..self.overheard.len().saturating_sub(1000));
        outgoing
    }

    fn sent_by_gateway(&mut self) -> Vec<Outgoing> {
        let mut outgoing = Vec::new();
        while let Some(transmit) = self.gateway.poll_transmit(self.now) {
            let (path, arrives) = match transmit.path {
                ClientPath::Api(stream) => (Path::Api, self.stream == Some(stream)),
                ClientPath::Udp(address) => {
                    let candidate = self.setup.candidate_behind(address, self.nat);
                    let path = candidate.map_or_else(node, Path::Udp);
                    (path, candidate.is_some())
                }
            };
            let seen_as = arrives.then_some(transmit.path);
            for datagram in transmit.datagrams().map(<[u8]>::to_vec) {
                outgoing.push(Outgoing {
                    path,
                    to_gateway: false,
                    seen_as,
                    datagram,
                });
            }
        }
        outgoing
    }

    /// Bytes of the stream arrive at one end, which cuts them into datagrams and reports them.
    fn arrive(&mut self, bytes: Delivery) {
        let end = &mut self.ends[usize::from(bytes.to_gateway)];
        let mut datagrams = Vec::new();
        end.receive(&bytes.datagram, self.now, |datagram| {
            datagrams.push(datagram.to_vec());
        })
        .expect("the other end frames");
        end.report(self.now);
        for datagram in datagrams {
            if bytes.to_gateway {
                self.gateway
                    .handle_datagram(bytes.seen_as, &datagram, self.now);
            } else {
                self.client.handle_datagram(Path::Api, &datagram, self.now);
            }
        }
        self.carry(!bytes.to_gateway);
        self.carry(bytes.to_gateway);
        self.tell_room();
    }

    /// Puts what one end of the stream has to send on its link. That takes everything at once: its buffers have no end. While it is cut,
    /// the bytes wait.
    fn carry(&mut self, to_gateway: bool) {
        let Some(stream) = self.stream.filter(|_| !self.setup.api.cut) else {
            return;
        };
        let end = &mut self.ends[usize::from(!to_gateway)];
        while !end.unsent().is_empty() {
            let len = end.unsent().len().min(CHUNK);
            let bytes = end.unsent()[..len].to_vec();
            end.taken(len);
            let busy = &mut self.stream_ends[usize::from(to_gateway)];
            let begin = busy.map_or(self.now, |busy| busy.max(self.now));
            let done = begin + self.setup.api.takes(len);
            *busy = Some(done);
            self.sent += 1;
            self.in_flight.insert(
                (done + self.setup.api.latency, self.sent),
                Delivery {
                    path: Path::Api,
                    to_gateway,
                    seen_as: ClientPath::Api(stream),
                    datagram: bytes,
                },
            );
        }
    }

    /// What the shells do after the stream took or brought something.
    fn tell_room(&mut self) {
        let Some(stream) = self.stream else { return };
        let [client, gateway] = &self.ends;
        self.client
            .path_room(Path::Api, client.room(), client.piece(), self.now);
        self.gateway
            .path_room(ClientPath::Api(stream), gateway.room(), gateway.piece());
    }

    /// Puts a datagram on its link, which decides when it arrives, how often, and whether at all.
    fn put(&mut self, delivery: Delivery) {
        let link = match delivery.path {
            Path::Api => {
                self.ends[usize::from(!delivery.to_gateway)].push(&delivery.datagram, self.now);
                return self.carry(delivery.to_gateway);
            }
            Path::Udp(address) if self.setup.leads(address, delivery.to_gateway) => {
                self.setup.udp.direction(delivery.to_gateway)
            }
            Path::Udp(_) => return,
        };
        for delay in link.delays(delivery.datagram.len(), &mut self.random) {
            self.sent += 1;
            self.in_flight
                .insert((self.now + delay, self.sent), delivery.clone());
        }
    }
}

/// The UDP candidate that leads to the gateway, unless a setup says otherwise.
pub(crate) fn node() -> Path {
    Path::Udp(NODE.parse().expect("an address"))
}

fn gateway(setup: &Setup, generation: u8, now: Instant) -> GatewayState {
    let mut seed = [generation; 32];
    seed[..8].copy_from_slice(&setup.seed.to_be_bytes());
    let config = GatewayConfig {
        seed,
        version: "sim".to_owned(),
        cluster: ClusterFacts {
            pod_addresses: vec!["10.244.0.9".parse().expect("an address")],
            ping: true,
            ..ClusterFacts::default()
        },
        nameservers: vec![cluster::NAMESERVER.parse().expect("an address")],
        allow: Vec::new(),
        allow_nodes: false,
        kernel: KernelFamilies::default(),
        datapath_note: None,
        udp_port: kvpn_wire::WIREGUARD_PORT,
        udp_endpoints: Vec::new(),
        shard: Shard::default(),
        limits: Limits::default(),
    };
    GatewayState::new(config, now)
}

fn create_session(
    gateway: &mut GatewayState,
    key: &PrivateKey,
    avoid: &[IpNetwork],
    prefer: Vec<std::net::IpAddr>,
    now: Instant,
) -> SessionGrant {
    let request = CreateSession {
        version: VERSION,
        client_version: "sim".to_owned(),
        public_key: key.public(),
        avoid: avoid.to_vec(),
        prefer,
        session_name: "sim".to_owned(),
        super_packets: true,
    };
    gateway.create_session(&request, now).expect("a session")
}

fn client_config(setup: &Setup, private_key: PrivateKey, grant: SessionGrant) -> Config {
    let real: IpNetwork = "10.96.0.0/12".parse().expect("a range");
    let shown = setup.shown.map(|shown| shown.parse().expect("a range"));
    let mapping = shown.and_then(|shown| Mapping::new(real, shown));
    Config {
        private_key,
        grant,
        index: 99,
        seed: setup.seed,
        carrier: setup.carrier,
        udp_candidates: setup
            .candidates
            .iter()
            .map(|candidate| candidate.address)
            .collect(),
        names: Names {
            namespace: "default".to_owned(),
            domain: "cluster.local".to_owned(),
            namespaces: vec!["default".to_owned(), "orders".to_owned()],
            own_domain: setup.own_domain.map(str::to_owned),
            reverse: Vec::new(),
        },
        netmap: Netmap::new(mapping.into_iter().collect(), Vec::new()),
        ranges: vec![shown.unwrap_or(real)],
        split_dns: setup.split_dns,
        host_routes: true,
    }
}
