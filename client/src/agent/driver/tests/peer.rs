//! A gateway's end of a session without a gateway: a WireGuard tunnel over UDP on loopback, and a stack at whose flows a test pulls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kvpn_netstack::{self as netstack, Event, FlowId, Netstack};
use kvpn_wire::control::{ClusterFacts, Datapath, Limits, SessionGrant, TunnelAddresses, VERSION};
use kvpn_wire::packet::{IcmpMessage, Ip};
use kvpn_wire::wireguard::{Opened, PresharedKey, PrivateKey, Sealed, Tunnel, TunnelConfig};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::*;

pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 19, 0, 2));
pub(crate) const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 19, 0, 1));

/// The other end of a driver's session.
pub(crate) struct Peer {
    pub(crate) stack: Netstack,
    tunnel: Tunnel,
    socket: UdpSocket,
    client: Option<SocketAddr>,
    events: BTreeMap<FlowId, VecDeque<Event>>,
    /// Flows that the client opened and nobody took yet.
    opened: VecDeque<FlowId>,
    /// Flows of questions for names.
    questions: BTreeSet<FlowId>,
    /// The cluster's names: absolute, without the dot at the end.
    pub(crate) names: BTreeMap<String, Ipv4Addr>,
    /// How often the client said that nobody listens for a datagram.
    pub(crate) unreachable: u32,
    driving: JoinHandle<()>,
    _news: News,
}

impl Peer {
    /// A driver whose session works, and its peer.
    pub(crate) async fn start() -> (Handle, Self) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (keys, peers) = (
            PrivateKey::from_seed([1; 32]),
            PrivateKey::from_seed([2; 32]),
        );
        let tunnel = TunnelConfig {
            private: peers.clone(),
            peer: keys.public(),
            preshared: Some(PresharedKey::from_bytes([9; 32])),
            index: 3,
            persistent_keepalive: None,
            mtu: 1360,
            jitter_seed: 5,
            limiter: None,
        };
        let config = config(keys, grant(&peers), socket.local_addr().unwrap());
        let (outlets, news) = outlets();
        let state = ClientState::new(config, now());
        let (driver, handle) = Driver::new(state, UdpCarrier::open(true), outlets);
        let mut peer = Self {
            stack: Netstack::new(netstack::Config::default(), now()),
            tunnel: Tunnel::new(tunnel, now()),
            socket,
            client: None,
            events: BTreeMap::new(),
            opened: VecDeque::new(),
            questions: BTreeSet::new(),
            names: BTreeMap::new(),
            unreachable: 0,
            driving: tokio::spawn(tokio::task::unconstrained(driver.run())),
            _news: news,
        };
        while !handle.status().await.unwrap().status.established {
            peer.step().await;
        }
        (handle, peer)
    }

    /// Opens a connection to a port of the client's.
    pub(crate) fn connect(&mut self, port: u16) -> FlowId {
        let (src, dst) = (SocketAddr::new(GATEWAY, 0), SocketAddr::new(CLIENT, port));
        self.stack.tcp_connect(src, dst, now()).unwrap()
    }

    /// Opens a connection, and waits for it.
    pub(crate) async fn connected(&mut self, port: u16) -> FlowId {
        let flow = self.connect(port);
        assert_eq!(self.event(flow).await, Event::TcpConnected { flow });
        flow
    }

    /// The next event of a flow.
    pub(crate) async fn event(&mut self, flow: FlowId) -> Event {
        loop {
            let waiting = self.events.get_mut(&flow);
            if let Some(event) = waiting.and_then(VecDeque::pop_front) {
                return event;
            }
            self.step().await;
        }
    }

    /// A flow that the client opened.
    pub(crate) async fn opening(&mut self) -> FlowId {
        loop {
            if let Some(flow) = self.opened.pop_front() {
                return flow;
            }
            self.step().await;
        }
    }

    /// Waits until a flow ends; how.
    pub(crate) async fn last_event(&mut self, flow: FlowId) -> Event {
        loop {
            let event = self.event(flow).await;
            if event.is_last() {
                return event;
            }
        }
    }

    /// Sends all of `data`, then this end if `finish`; what came until the client's end.
    pub(crate) async fn exchange(&mut self, flow: FlowId, data: &[u8]) -> Vec<u8> {
        let (mut sent, mut received) = (0, Vec::new());
        let mut chunk = vec![0; 64 << 10];
        loop {
            if sent < data.len() {
                sent += self.stack.tcp_send(flow, &data[sent..], now());
                if sent == data.len() {
                    self.stack.tcp_finish(flow, now());
                }
            }
            let n = self.stack.tcp_recv(flow, &mut chunk, now());
            received.extend_from_slice(&chunk[..n]);
            if n == 0 {
                match self.event(flow).await {
                    Event::TcpReadable { .. } | Event::TcpWritable { .. } => {}
                    Event::TcpPeerFinished { .. } => return received,
                    other => panic!("{other:?} after {} bytes", received.len()),
                }
            }
        }
    }

    /// Moves packets until `done`, which may wait for the client's side meanwhile.
    pub(crate) async fn during<T>(&mut self, done: impl Future<Output = T>) -> T {
        tokio::pin!(done);
        loop {
            tokio::select! {
                result = &mut done => return result,
                () = self.step() => {}
            }
        }
    }

    /// One datagram or one timeout, and what follows.
    pub(crate) async fn step(&mut self) {
        self.send();
        let mut datagram = [0; 2048];
        let timeout = self.stack.poll_timeout().into_iter();
        let due = timeout.chain(self.tunnel.poll_timeout()).min();
        let due = due.map_or_else(|| now() + std::time::Duration::from_secs(60), |(at, _)| at);
        tokio::select! {
            received = self.socket.recv_from(&mut datagram) => {
                let (n, from) = received.unwrap();
                self.client = Some(from);
                self.open(&datagram[..n]);
            }
            () = sleep_until(Timer::from_std(due)) => {}
        }
        self.stack.handle_timeout(now());
        let mut out = [0; 2048];
        while let Some(n) = self.tunnel.handle_timeout(&mut out, now()) {
            self.transmit(&out[..n]);
        }
        while let Some(event) = self.stack.poll_event() {
            self.note(event);
        }
        self.send();
    }

    fn open(&mut self, datagram: &[u8]) {
        let mut out = [0; 2048];
        match self.tunnel.open(datagram, None, &mut out, now()) {
            Opened::Packet { len, .. } => {
                let icmp = Ip::parse(&out[..len]).unwrap().icmp();
                let is_unreachable = icmp
                    .is_some_and(|icmp| matches!(icmp.message(), IcmpMessage::Unreachable { .. }));
                self.unreachable += u32::from(is_unreachable);
                self.stack.handle_packet(&out[..len], now());
            }
            Opened::Reply(n) | Opened::Established(n) => self.transmit(&out[..n]),
            Opened::Keepalive | Opened::Challenge(_) | Opened::Cookie | Opened::Rejected(_) => {}
        }
    }

    /// Pings are the client's probes.
    fn note(&mut self, event: Event) {
        let flow = event.flow();
        match event {
            Event::EchoOpening { .. } => {}
            Event::EchoRequest { .. } => {
                let mut payload = [0; 2048];
                if let Some((sequence, n)) = self.stack.echo_recv(flow, &mut payload) {
                    self.stack.echo_reply(flow, sequence, &payload[..n], now());
                }
            }
            Event::UdpOpening { dst, .. } if dst.port() == 53 => {
                self.questions.insert(flow);
            }
            Event::UdpDatagram { .. } if self.questions.contains(&flow) => self.answer(flow),
            Event::TcpOpening { .. } | Event::UdpOpening { .. } => self.opened.push_back(flow),
            other => self.events.entry(flow).or_default().push_back(other),
        }
    }

    /// An A record, no such record, or no such name (RFC 1035 section 4).
    fn answer(&mut self, flow: FlowId) {
        let mut message = [0; 512];
        let Some(n) = self.stack.udp_recv(flow, &mut message) else {
            return;
        };
        let (name, end) = asked(&message[..n]);
        let address = self.names.get(&name);
        let is_a = message[end..].starts_with(&[0, 1]);
        let mut answer = message[..end + 4].to_vec();
        answer[2] = 0x84;
        answer[3] = if address.is_some() { 0 } else { 3 };
        answer[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        if let Some(address) = address.filter(|_| is_a) {
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
            answer.extend(address.octets());
        }
        self.stack.udp_send(flow, &answer, now());
    }

    fn send(&mut self) {
        let mut out = [0; 2048];
        while let Some(packet) = self.stack.poll_segment() {
            if let Sealed::Datagram(n) | Sealed::Handshake(n) =
                self.tunnel.seal(packet, &mut out, now())
                && let Some(client) = self.client
            {
                // A full socket buffer is a loss like any other.
                let _ = self.socket.try_send_to(&out[..n], client);
            }
        }
    }

    fn transmit(&self, datagram: &[u8]) {
        if let Some(client) = self.client {
            let _ = self.socket.try_send_to(datagram, client);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

/// The name that a question is for, and where what follows it begins.
fn asked(message: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while let length @ 1.. = usize::from(message[at]) {
        labels.push(String::from_utf8_lossy(&message[at + 1..=at + length]).to_lowercase());
        at += 1 + length;
    }
    (labels.join("."), at + 1)
}

fn grant(gateway: &PrivateKey) -> SessionGrant {
    SessionGrant {
        version: VERSION,
        gateway_version: String::new(),
        session_id: "test".to_owned(),
        gateway_public_key: gateway.public(),
        preshared_key: PresharedKey::from_bytes([9; 32]),
        addresses: vec![TunnelAddresses {
            gateway: GATEWAY,
            client: CLIENT,
            dns_stub: Ipv4Addr::new(198, 19, 0, 3).into(),
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
