//! A client for the tests: the other end of one session's tunnel, on paths that the test chooses.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use kvpn_wire::control::{ClusterFacts, CreateSession, SessionGrant, TunnelAddresses, VERSION};
use kvpn_wire::packet::build;
use kvpn_wire::wireguard::{Opened, PrivateKey, Sealed, Tunnel, TunnelConfig};

use crate::{Config, GatewayState, KernelFamilies, Limits, Path, Shard, StreamId};

pub(super) const API: Path = Path::Api(StreamId(0));

/// A gateway whose pod is 10.244.1.7 on node 172.30.0.11.
pub(super) fn config() -> Config {
    Config {
        seed: [7; 32],
        shard: Shard::default(),
        version: "1.2.3".into(),
        cluster: ClusterFacts {
            pod_addresses: vec![address("10.244.1.7"), address("fd00:244::7")],
            node_addresses: vec![address("172.30.0.11")],
            ..ClusterFacts::default()
        },
        nameservers: vec![
            "10.96.0.10:53".parse().unwrap(),
            "10.96.0.11:53".parse().unwrap(),
        ],
        allow: vec!["127.0.0.0/8".parse().unwrap()],
        allow_nodes: false,
        kernel: KernelFamilies::default(),
        datapath_note: None,
        udp_port: 51820,
        udp_endpoints: Vec::new(),
        limits: Limits::default(),
    }
}

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

pub(super) fn request(seed: u8) -> CreateSession {
    CreateSession {
        version: VERSION,
        client_version: String::new(),
        public_key: PrivateKey::from_seed([seed; 32]).public(),
        avoid: Vec::new(),
        prefer: Vec::new(),
        session_name: String::new(),
        super_packets: false,
    }
}

/// One client.
pub(super) struct Client {
    pub(super) grant: SessionGrant,
    pub(super) tunnel: Tunnel,
    /// The path it sends on.
    pub(super) path: Path,
    pub(super) now: Instant,
}

impl Client {
    /// A client with a session and a finished handshake over the `api` carrier.
    pub(super) fn connected(gateway: &mut GatewayState, seed: u8, now: Instant) -> Self {
        Self::connected_as(gateway, &request(seed), seed, now)
    }

    /// The same with a request of its own for the key of `seed`.
    pub(super) fn connected_as(
        gateway: &mut GatewayState,
        request: &CreateSession,
        seed: u8,
        now: Instant,
    ) -> Self {
        let grant = gateway.create_session(request, now).unwrap();
        let config = TunnelConfig {
            private: PrivateKey::from_seed([seed; 32]),
            peer: gateway.public_key(),
            preshared: Some(grant.preshared_key.clone()),
            index: u32::from(seed),
            persistent_keepalive: None,
            mtu: usize::from(grant.mtu),
            jitter_seed: 1,
            limiter: None,
        };
        let mut client = Self {
            grant,
            tunnel: Tunnel::new(config, now),
            path: API,
            now,
        };
        let mut initiation = [0; 148];
        let length = client.tunnel.initiate(&mut initiation, now).unwrap();
        gateway.handle_datagram(client.path, &initiation[..length], now);
        assert!(client.receive(gateway).is_empty());
        assert!(client.tunnel.has_session(now));
        client
    }

    pub(super) fn v4(&self) -> TunnelAddresses {
        self.grant.addresses[0]
    }

    pub(super) fn v6(&self) -> TunnelAddresses {
        self.grant.addresses[1]
    }

    pub(super) fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0; packet.len() + 200];
        let Sealed::Datagram(length) = self.tunnel.seal(packet, &mut datagram, self.now) else {
            panic!("no session");
        };
        datagram.truncate(length);
        datagram
    }

    pub(super) fn send(&mut self, gateway: &mut GatewayState, packet: &[u8]) {
        let datagram = self.seal(packet);
        gateway.handle_datagram(self.path, &datagram, self.now);
    }

    /// A UDP packet from the client's tunnel address to `dst`.
    pub(super) fn send_udp(&mut self, gateway: &mut GatewayState, dst: &str, payload: &[u8]) {
        let dst: SocketAddr = dst.parse().unwrap();
        let src = if dst.is_ipv4() {
            self.v4().client
        } else {
            self.v6().client
        };
        self.send(gateway, &udp(SocketAddr::new(src, 4000), dst, payload));
    }

    /// Everything the gateway sends, on whatever path, opened.
    pub(super) fn receive(&mut self, gateway: &mut GatewayState) -> Vec<(Path, Vec<u8>)> {
        let mut packets = Vec::new();
        let mut datagrams = Vec::new();
        while let Some(transmit) = gateway.poll_transmit(self.now) {
            let path = transmit.path;
            datagrams.extend(
                transmit
                    .datagrams()
                    .map(|datagram| (path, datagram.to_vec())),
            );
        }
        for (path, datagram) in datagrams {
            let mut out = vec![0; datagram.len() + 200];
            match self.tunnel.open(&datagram, None, &mut out, self.now) {
                Opened::Packet { len, .. } => packets.push((path, out[..len].to_vec())),
                Opened::Reply(length) | Opened::Established(length) => {
                    gateway.handle_datagram(self.path, &out[..length], self.now);
                }
                Opened::Keepalive => {}
                other @ (Opened::Challenge(_) | Opened::Cookie | Opened::Rejected(_)) => {
                    panic!("{other:?}")
                }
            }
        }
        packets
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

pub(super) fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; payload.len() + 48];
    let length = build::udp(src, dst, payload, &mut packet).unwrap();
    packet.truncate(length);
    packet
}

pub(super) fn echo_request(src: IpAddr, dst: IpAddr, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0; 100];
    let length = build::icmp_echo_request(src, dst, 77, sequence, b"probe", &mut packet).unwrap();
    packet.truncate(length);
    packet
}

/// A SYN that announces segments of 9000 bytes.
pub(super) fn syn(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let segment = build::Segment {
        sequence: 1,
        flags: kvpn_wire::packet::TcpFlags::SYN,
        window: 65_000,
        options: &[2, 4, 0x23, 0x28],
        ..build::Segment::default()
    };
    let mut packet = vec![0; 100];
    let length = build::tcp(src, dst, &segment, &mut packet).unwrap();
    packet.truncate(length);
    packet
}
