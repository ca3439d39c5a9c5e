//! The agent's part of a session in a box: both real cores in one thread, on the helper's TUN, so that programs' questions are
//! answered as `kvpn connect` answers them. The cluster behind them has a name server and nothing else.
//!
//! It decides nothing about right or wrong: the tests do.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvpn_client_core::{CarrierChoice, ClientState, Config, Event, Names, Netmap, Path};
use kvpn_gateway_core::{
    Config as GatewayConfig, Event as GatewayEvent, FlowEvent, GatewayState, KernelFamilies,
    Limits, Path as ClientPath, Shard,
};
use kvpn_wire::control::{ClusterFacts, CreateSession, SessionGrant, VERSION};
use kvpn_wire::offload::Segmentation;
use kvpn_wire::wireguard::PrivateKey;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::netns::{Agent, Sandbox};

/// The ends of the only way between the cores.
const GATEWAY: &str = "203.0.113.9:31820";
const CLIENT: &str = "198.51.100.7:40000";
/// The pod's name server.
const NAMESERVER: &str = "10.96.0.10:53";
/// How long a server outside the cluster may take.
const UPSTREAM_LIMIT: Duration = Duration::from_secs(2);
/// What the cluster knows.
const SERVICES: [(&str, [u8; 4]); 4] = [
    ("web.default.svc.cluster.local", [10, 96, 0, 7]),
    ("db.orders.svc.cluster.local", [10, 96, 0, 8]),
    ("db-0.db.orders.svc.cluster.local", [10, 96, 0, 9]),
    ("db-0.db.default.svc.cluster.local", [10, 96, 0, 10]),
];

/// A session whose names are served.
pub(crate) struct Served {
    pub(crate) agent: Agent,
    /// The helper's answer to `configure`.
    pub(crate) settled: Value,
    upstreams: Arc<Mutex<Vec<SocketAddr>>>,
    stop: UnixStream,
    thread: JoinHandle<()>,
}

impl Served {
    /// Starts a helper, has it set everything up, and serves.
    pub(crate) fn start(sandbox: &Sandbox) -> Self {
        let now = now();
        let key = PrivateKey::from_seed([7; 32]);
        let mut gateway = gateway(now);
        let grant = grant(&mut gateway, &key, now);
        let mut agent = Agent::start(sandbox);
        let settled = agent.configure(&request(&grant));
        let upstreams = Arc::new(Mutex::new(servers(&settled)));
        let (stop, stopped) = UnixStream::pair().unwrap();
        let split = settled["split"].as_bool().unwrap();
        let cores = Cores {
            client: ClientState::new(config(key, grant, split), now),
            gateway,
            tun: agent.tun.as_ref().unwrap().try_clone().unwrap(),
            upstreams: Arc::clone(&upstreams),
        };
        let network = sandbox.network();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            cores.serve(&stopped);
        });
        Self {
            agent,
            settled,
            upstreams,
            stop,
            thread,
        }
    }

    /// The helper's next news, which the session follows.
    pub(crate) fn news(&mut self) -> Value {
        let news = self.agent.news();
        *self.upstreams.lock().unwrap() = servers(&news);
        news
    }

    /// What a killed agent does: the TUN closes, and the connection to the helper.
    pub(crate) fn end(self) {
        drop(self.stop);
        drop(self.agent);
        self.thread.join().unwrap();
    }

    /// Asks the helper to undo everything.
    pub(crate) fn release(mut self) -> Value {
        let released = self.agent.ask(json!({"request": "release"}));
        self.end();
        released
    }
}

fn servers(answer: &Value) -> Vec<SocketAddr> {
    serde_json::from_value(answer["upstreams"].clone()).unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the driver's clock, handed to the cores as an argument"
)]
fn now() -> Instant {
    Instant::now()
}

/// What the agent asks of its helper.
fn request(grant: &SessionGrant) -> Value {
    let stubs: Vec<_> = grant.addresses.iter().map(|ends| ends.dns_stub).collect();
    let blocks = grant.addresses.iter().map(|ends| {
        let prefix = if ends.client.is_ipv4() { 30 } else { 126 };
        format!("{}/{prefix}", ends.client)
    });
    json!({
        "request": "configure",
        "addresses": blocks.collect::<Vec<_>>(),
        "mtu": 1360,
        "routes": ["10.96.0.0/16"],
        "dns": {
            "servers": stubs,
            "search": ["default.svc.cluster.local"],
            "routing": ["cluster.local", "svc", "pod", "96.10.in-addr.arpa", "default", "orders"],
        },
    })
}

fn config(private_key: PrivateKey, grant: SessionGrant, split_dns: bool) -> Config {
    Config {
        private_key,
        grant,
        index: 99,
        seed: 7,
        carrier: CarrierChoice::Udp,
        udp_candidates: vec![GATEWAY.parse().unwrap()],
        names: Names {
            namespace: "default".to_owned(),
            domain: "cluster.local".to_owned(),
            namespaces: vec!["default".to_owned(), "orders".to_owned()],
            reverse: Vec::new(),
            own_domain: None,
        },
        ranges: vec!["10.96.0.0/16".parse().unwrap()],
        split_dns,
        host_routes: true,
        netmap: Netmap::default(),
    }
}

fn gateway(now: Instant) -> GatewayState {
    let config = GatewayConfig {
        seed: [7; 32],
        version: "box".to_owned(),
        cluster: ClusterFacts::default(),
        nameservers: vec![NAMESERVER.parse().unwrap()],
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

fn grant(gateway: &mut GatewayState, key: &PrivateKey, now: Instant) -> SessionGrant {
    let request = CreateSession {
        version: VERSION,
        client_version: "box".to_owned(),
        public_key: key.public(),
        avoid: Vec::new(),
        prefer: Vec::new(),
        session_name: "box".to_owned(),
        super_packets: false,
    };
    gateway.create_session(&request, now).unwrap()
}

struct Cores {
    client: ClientState,
    gateway: GatewayState,
    tun: OwnedFd,
    upstreams: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Cores {
    fn serve(mut self, stopped: &UnixStream) {
        self.settle(now());
        while self.wait(stopped) {
            let now = now();
            self.client.handle_timeout(now);
            self.gateway.handle_timeout(now);
            let mut packet = [0; 2048];
            while let Ok(len) = rustix::io::read(&self.tun, &mut packet) {
                self.client
                    .handle_tun_packet(&mut packet[..len], Segmentation::Whole, now);
            }
            self.settle(now);
        }
    }

    /// Waits for a packet or a timeout; false when it is time to end.
    fn wait(&self, stopped: &UnixStream) -> bool {
        let timeouts = [self.client.poll_timeout(), self.gateway.poll_timeout()];
        let next = timeouts.into_iter().flatten().map(|(at, _)| at).min();
        let left = next.map(|at| at.saturating_duration_since(now()));
        let left = left.map(|left| Timespec::try_from(left).unwrap());
        let mut ready = [
            PollFd::from_borrowed_fd(self.tun.as_fd(), PollFlags::IN),
            PollFd::new(stopped, PollFlags::IN),
        ];
        poll(&mut ready, left.as_ref()).unwrap();
        ready[1].revents().is_empty()
    }

    /// Moves everything that can move.
    fn settle(&mut self, now: Instant) {
        let mut moved = true;
        while moved {
            moved = self.carry(now);
            while let Some((packet, _)) = self.client.poll_packet() {
                rustix::io::write(&self.tun, packet).unwrap();
            }
            while let Some(event) = self.client.poll_event() {
                self.handle(event, now);
                moved = true;
            }
            while let Some(event) = self.gateway.poll_event() {
                self.answer(event, now);
                moved = true;
            }
        }
    }

    fn carry(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(transmit) = self.client.poll_transmit() {
            let datagrams: Vec<_> = transmit.datagrams().map(<[u8]>::to_vec).collect();
            for datagram in datagrams {
                let from = ClientPath::Udp(CLIENT.parse().unwrap());
                self.gateway.handle_datagram(from, &datagram, now);
            }
            moved = true;
        }
        while let Some(transmit) = self.gateway.poll_transmit(now) {
            let datagrams: Vec<_> = transmit.datagrams().map(<[u8]>::to_vec).collect();
            for datagram in datagrams {
                let from = Path::Udp(GATEWAY.parse().unwrap());
                self.client.handle_datagram(from, &datagram, now);
            }
            moved = true;
        }
        moved
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::HostRoutes { ticket, .. } => self.client.host_routes_ready(ticket, true, now),
            Event::Upstream { id, query, tcp } => {
                let servers = self.upstreams.lock().unwrap().clone();
                let mut answers = servers.iter().map(|server| ask(*server, &query, tcp));
                let answer = answers.find_map(Result::ok);
                self.client.upstream_answered(id, answer, now);
            }
            _ => {}
        }
    }

    /// What the pod's name server does.
    fn answer(&mut self, event: GatewayEvent, now: Instant) {
        if let GatewayEvent::Flow {
            flow,
            what: FlowEvent::UdpDatagram,
        } = event
        {
            let mut query = [0; 2048];
            if let Some(len) = self.gateway.udp_recv(flow, &mut query) {
                self.gateway.udp_send(flow, &respond(&query[..len]), now);
            }
        }
    }
}

/// Asks a server of the box, as the agent does.
fn ask(server: SocketAddr, query: &[u8], tcp: bool) -> std::io::Result<Vec<u8>> {
    if tcp {
        let mut stream = TcpStream::connect_timeout(&server, UPSTREAM_LIMIT)?;
        stream.set_read_timeout(Some(UPSTREAM_LIMIT))?;
        let len = u16::try_from(query.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&len.to_be_bytes(), query].concat())?;
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut answer = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut answer)?;
        return Ok(answer);
    }
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(UPSTREAM_LIMIT))?;
    socket.connect(server)?;
    socket.send(query)?;
    let mut answer = vec![0; 4096];
    let len = socket.recv(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}

/// RFC 1035, 4.1: header, the question as asked, and for type A of a name that is known one answer whose name points at the
/// question's.
fn respond(query: &[u8]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|&byte| byte == 0).unwrap() + 1;
    let known = SERVICES
        .iter()
        .find(|(name, _)| query[12..end].eq_ignore_ascii_case(&encode(name)));
    let asks_a = query[end..end + 2] == [0, 1];
    let address = known.filter(|_| asks_a).map(|(_, address)| address);
    let mut answer = query[..2].to_vec();
    let code = if known.is_some() { 0x80 } else { 0x83 };
    answer.extend([0x85, code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(&query[12..end + 4]);
    if let Some(address) = address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        answer.extend(address);
    }
    answer
}

fn encode(name: &str) -> Vec<u8> {
    let labels = name.split('.').chain([""]);
    labels
        .flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat())
        .collect()
}
