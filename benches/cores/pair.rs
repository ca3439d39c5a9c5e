//! A client's and a gateway's state joined without a link: what one sends, the other has.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvpn_client_core::{
    CarrierChoice, ClientState, Config, Event as ClientEvent, Names, Netmap, Path,
};
use kvpn_gateway_core::{
    Config as GatewayConfig, Event, Flow, FlowEvent, GatewayState, KernelFamilies, Limits,
    Path as ClientPath, Shard,
};
use kvpn_wire::control::{ClusterFacts, CreateSession, VERSION};
use kvpn_wire::offload::Segmentation;
use kvpn_wire::packet::build;
use kvpn_wire::wireguard::PrivateKey;

/// Bytes of a datagram's payload: what QUIC sends.
pub(crate) const PAYLOAD: usize = 1200;

const GATEWAY: ([u8; 4], u16) = ([203, 0, 113, 9], 31820);
const LAPTOP: ([u8; 4], u16) = ([198, 51, 100, 7], 40000);
const POD: ([u8; 4], u16) = ([10, 244, 1, 7], 8080);

/// Both ends.
pub(crate) struct Pair {
    client: ClientState,
    gateway: GatewayState,
    /// Stands still but when something waits for it.
    now: Instant,
    packet: Vec<u8>,
    /// The gateway's end of the one connection.
    flow: Option<Flow>,
}

impl Pair {
    /// Two ends with a session between them.
    pub(crate) fn new(kernel: bool, now: Instant) -> Self {
        let mut gateway = GatewayState::new(gateway_config(kernel), now);
        let key = PrivateKey::from_seed([3; 32]);
        let request = CreateSession {
            version: VERSION,
            client_version: "bench".to_owned(),
            public_key: key.public(),
            avoid: Vec::new(),
            prefer: Vec::new(),
            session_name: "bench".to_owned(),
            super_packets: false,
        };
        let grant = gateway.create_session(&request, now).expect("a session");
        let own = grant.addresses.iter().map(|addresses| addresses.client);
        let own = own.into_iter().find(|own| own.is_ipv4()).expect("IPv4");
        let mut packet = vec![0; PAYLOAD + 28];
        let source = SocketAddr::new(own, 4000);
        build::udp(source, POD.into(), &[7; PAYLOAD], &mut packet).expect("it fits");
        let client = ClientState::new(client_config(key, grant), now);
        let mut pair = Self {
            client,
            gateway,
            now,
            packet,
            flow: None,
        };
        while !pair.client.status(pair.now).established {
            pair.settle();
            pair.now += Duration::from_millis(10);
            pair.client.handle_timeout(pair.now);
            pair.gateway.handle_timeout(pair.now);
        }
        pair
    }

    /// `count` datagrams from the laptop's TUN to the gateway's; how many arrived.
    pub(crate) fn datagrams(&mut self, count: usize) -> usize {
        for _ in 0..count {
            self.client
                .handle_tun_packet(&mut self.packet, Segmentation::Whole, self.now);
        }
        self.exchange();
        let mut arrived = 0;
        while self.gateway.poll_packet().is_some() {
            arrived += 1;
        }
        arrived
    }

    /// `length` bytes over a connection between both ends' own TCP.
    pub(crate) fn stream(&mut self, length: usize) {
        let flow = self
            .client
            .tcp_connect(POD.into(), self.now)
            .expect("there are few flows");
        let data = [7; 64 << 10];
        let (mut sent, mut received) = (0, 0);
        while received < length {
            let rest = (length - sent).min(data.len());
            sent += self.client.tcp_send(flow, &data[..rest], self.now);
            let before = received;
            self.settle();
            while let Some(end) = self.flow {
                match self
                    .gateway
                    .tcp_recv_with(end, self.now, |bytes| bytes.len())
                {
                    0 => break,
                    taken => received += taken,
                }
            }
            if received == before {
                self.pass_time();
            }
        }
        self.client.tcp_abort(flow, self.now);
        self.settle();
        self.flow = None;
    }

    /// Both wait for a timer, as a delayed acknowledgement is.
    fn pass_time(&mut self) {
        let client = self.client.poll_timeout();
        let dues = client.into_iter().chain(self.gateway.poll_timeout());
        if let Some(due) = dues.map(|(due, _)| due).min() {
            self.now = self.now.max(due);
        }
        self.client.handle_timeout(self.now);
        self.gateway.handle_timeout(self.now);
    }

    fn settle(&mut self) {
        while self.exchange() | self.events() {}
    }

    /// What each end has to send, the other gets; whether there was anything.
    fn exchange(&mut self) -> bool {
        let mut any = false;
        while let Some(transmit) = self.client.poll_transmit() {
            let from = ClientPath::Udp(LAPTOP.into());
            self.gateway
                .handle_datagrams(from, transmit.payload, transmit.segment, self.now);
            any = true;
        }
        while let Some(transmit) = self.gateway.poll_transmit(self.now) {
            let from = Path::Udp(GATEWAY.into());
            self.client
                .handle_datagrams(from, transmit.payload, transmit.segment, self.now);
            any = true;
        }
        any
    }

    fn events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.client.poll_event() {
            any |= matches!(event, ClientEvent::Flow(_));
        }
        while let Some(event) = self.gateway.poll_event() {
            if let Event::Flow {
                flow,
                what: FlowEvent::TcpOpening { .. },
            } = event
            {
                self.gateway.tcp_accept(flow, self.now);
                self.flow = Some(flow);
            }
            any = true;
        }
        any
    }
}

fn gateway_config(kernel: bool) -> GatewayConfig {
    GatewayConfig {
        seed: [4; 32],
        version: "bench".to_owned(),
        cluster: ClusterFacts::default(),
        nameservers: Vec::new(),
        allow: Vec::new(),
        allow_nodes: false,
        kernel: KernelFamilies {
            v4: kernel,
            v6: false,
        },
        datapath_note: None,
        udp_port: kvpn_wire::WIREGUARD_PORT,
        udp_endpoints: Vec::new(),
        limits: Limits::default(),
        shard: Shard::default(),
    }
}

fn client_config(private_key: PrivateKey, grant: kvpn_wire::control::SessionGrant) -> Config {
    Config {
        private_key,
        grant,
        index: 9,
        seed: 1,
        carrier: CarrierChoice::Udp,
        udp_candidates: vec![GATEWAY.into()],
        names: Names {
            namespace: "default".to_owned(),
            domain: "cluster.local".to_owned(),
            namespaces: vec!["default".to_owned()],
            own_domain: None,
            reverse: Vec::new(),
        },
        netmap: Netmap::default(),
        ranges: vec!["10.244.0.0/16".parse().expect("a range")],
        split_dns: true,
        host_routes: false,
    }
}
