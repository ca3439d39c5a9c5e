//! The laptop's end for the tests: a real tunnel over a real carrier, and a userspace TCP/IP as its programs.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kvpn_netstack::{Config, Event, FlowId, Netstack};
use kvpn_wire::control::{CreateSession, SessionGrant, VERSION};
use kvpn_wire::frame::{Deframer, Frame, encode};
use kvpn_wire::wireguard::{Opened, PrivateKey, Sealed, Tunnel, TunnelConfig};

use crate::http;

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one look at the carrier takes at most.
const LOOK: Duration = Duration::from_millis(5);

pub(crate) enum Carrier {
    Api(TcpStream, Deframer),
    Udp(UdpSocket),
}

/// A laptop with a session.
pub(crate) struct Laptop {
    pub(crate) grant: SessionGrant,
    pub(crate) netstack: Netstack,
    /// Inner packets that came, newest last.
    pub(crate) packets: VecDeque<Vec<u8>>,
    carrier: Carrier,
    tunnel: Tunnel,
    events: Vec<Event>,
}

impl Laptop {
    /// Creates a session and attaches by the `api` carrier.
    pub(crate) fn attach(control: SocketAddr, carrier: SocketAddr, seed: u8) -> Self {
        Self::attach_avoiding(control, carrier, seed, Vec::new())
    }

    /// The same with addresses outside these ranges.
    pub(crate) fn attach_avoiding(
        control: SocketAddr,
        carrier: SocketAddr,
        seed: u8,
        avoid: Vec<IpNetwork>,
    ) -> Self {
        let private = PrivateKey::from_seed([seed; 32]);
        let request = CreateSession {
            version: VERSION,
            client_version: "test".into(),
            public_key: private.public(),
            avoid,
            prefer: Vec::new(),
            session_name: "test".into(),
            super_packets: false,
        };
        let answer = http::post(
            control,
            "/v1/sessions",
            &serde_json::to_string(&request).unwrap(),
        );
        assert_eq!(answer.status, 200, "{}", answer.body);
        let grant: SessionGrant = serde_json::from_str(&answer.body).unwrap();
        let config = TunnelConfig {
            private,
            peer: grant.gateway_public_key,
            preshared: Some(grant.preshared_key.clone()),
            index: u32::from(seed),
            persistent_keepalive: None,
            mtu: usize::from(grant.mtu),
            jitter_seed: 1,
            limiter: None,
        };
        let netstack = Config {
            mtu: usize::from(grant.mtu),
            ..Config::default()
        };
        Self {
            carrier: open_api(carrier),
            tunnel: Tunnel::new(config, now()),
            netstack: Netstack::new(netstack, now()),
            packets: VecDeque::new(),
            events: Vec::new(),
            grant,
        }
    }

    /// Goes on over UDP with the same tunnel.
    pub(crate) fn roam_to_udp(&mut self, port: u16) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        socket.set_read_timeout(Some(LOOK)).unwrap();
        self.carrier = Carrier::Udp(socket);
    }

    pub(crate) fn roam_to_api(&mut self, carrier: SocketAddr) {
        self.carrier = open_api(carrier);
    }

    pub(crate) fn client(&self) -> IpAddr {
        self.grant.addresses[0].client
    }

    pub(crate) fn gateway(&self) -> IpAddr {
        self.grant.addresses[0].gateway
    }

    pub(crate) fn connect(&mut self, target: SocketAddr) -> FlowId {
        let client = self.grant.addresses[usize::from(target.is_ipv6())].client;
        self.netstack
            .tcp_connect(SocketAddr::new(client, 0), target, now())
            .unwrap()
    }

    /// Sends one inner packet past the netstack.
    pub(crate) fn send_packet(&mut self, packet: &[u8]) {
        let mut out = vec![0; packet.len() + 200];
        match self.tunnel.seal(packet, &mut out, now()) {
            Sealed::Datagram(length) | Sealed::Handshake(length) => {
                self.carrier.send(&out[..length])
            }
            Sealed::Queued | Sealed::Dropped => {}
        }
    }

    /// Runs until `done` gives something.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let start = now();
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "waited in vain for {what}; events: {:?}",
                self.events
            );
            self.turn();
        }
    }

    /// Waits for an event, and forgets it.
    pub(crate) fn event(&mut self, wanted: Event) {
        self.until(&format!("{wanted:?}"), |laptop| {
            let at = laptop.events.iter().position(|event| *event == wanted)?;
            laptop.events.remove(at);
            Some(())
        });
    }

    /// Waits until an inner packet passes the test, and gives what that found.
    pub(crate) fn packet<T>(&mut self, what: &str, found: impl Fn(&[u8]) -> Option<T>) -> T {
        self.until(what, |laptop| {
            laptop.packets.iter().find_map(|packet| found(packet))
        })
    }

    /// The first event that says something to `found`, which is then forgotten.
    pub(crate) fn take_event<T>(
        &mut self,
        mut found: impl FnMut(&Event) -> Option<T>,
    ) -> Option<T> {
        let (at, result) = self
            .events
            .iter()
            .enumerate()
            .find_map(|(at, event)| Some((at, found(event)?)))?;
        self.events.remove(at);
        Some(result)
    }

    pub(crate) fn has_event(&self, wanted: Event) -> bool {
        self.events.contains(&wanted)
    }

    /// Sends all of `data`, as the flow takes it.
    pub(crate) fn send_all(&mut self, flow: FlowId, data: &[u8]) {
        let mut sent = 0;
        self.until("room to send", |laptop| {
            sent += laptop.netstack.tcp_send(flow, &data[sent..], now());
            (sent == data.len()).then_some(())
        });
    }

    /// Reads until the peer's end.
    pub(crate) fn read_to_end(&mut self, flow: FlowId) -> Vec<u8> {
        let mut data = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        self.until("the end of the stream", |laptop| {
            loop {
                let length = laptop.netstack.tcp_recv(flow, &mut buffer, now());
                data.extend_from_slice(&buffer[..length]);
                if length == 0 {
                    break;
                }
            }
            let ended = [Event::TcpPeerFinished { flow }, Event::TcpClosed { flow }];
            ended
                .iter()
                .any(|event| laptop.has_event(*event))
                .then_some(())
        });
        data
    }

    /// One look at everything.
    fn turn(&mut self) {
        self.flush();
        let mut datagrams = Vec::new();
        self.carrier.receive(&mut datagrams);
        for datagram in datagrams {
            self.handle_datagram(&datagram);
        }
        self.netstack.handle_timeout(now());
        let mut timer = [0; 148];
        while let Some(length) = self.tunnel.handle_timeout(&mut timer, now()) {
            self.carrier.send(&timer[..length]);
        }
        while let Some(event) = self.netstack.poll_event() {
            self.events.push(event);
        }
        self.flush();
    }

    fn flush(&mut self) {
        let mut out = vec![0; 4096];
        while let Some(packet) = self.netstack.poll_segment() {
            match self.tunnel.seal(packet, &mut out, now()) {
                Sealed::Datagram(length) | Sealed::Handshake(length) => {
                    self.carrier.send(&out[..length])
                }
                Sealed::Queued | Sealed::Dropped => {}
            }
        }
        while let Some(event) = self.netstack.poll_event() {
            self.events.push(event);
        }
    }

    fn handle_datagram(&mut self, datagram: &[u8]) {
        let mut out = vec![0; datagram.len() + 200];
        match self.tunnel.open(datagram, None, &mut out, now()) {
            Opened::Packet { len, .. } => {
                self.netstack.handle_packet(&out[..len], now());
                self.packets.push_back(out[..len].to_vec());
                self.packets.truncate(10_000);
            }
            Opened::Reply(length) | Opened::Established(length) => {
                self.carrier.send(&out[..length])
            }
            Opened::Keepalive | Opened::Challenge(_) | Opened::Cookie | Opened::Rejected(_) => {}
        }
        while let Some(length) = self.tunnel.flush_queued(&mut out, now()) {
            self.carrier.send(&out[..length]);
        }
    }
}

impl Carrier {
    fn send(&mut self, datagram: &[u8]) {
        match self {
            Self::Api(stream, _) => {
                let mut frame = Vec::new();
                encode(datagram, &mut frame);
                // A gateway that is gone shows in what does not come.
                drop(stream.write_all(&frame));
            }
            Self::Udp(socket) => drop(socket.send(datagram)),
        }
    }

    /// What has come, or comes within [`LOOK`].
    fn receive(&mut self, datagrams: &mut Vec<Vec<u8>>) {
        match self {
            Self::Api(stream, deframer) => {
                let mut buffer = [0; 65_536];
                match stream.read(&mut buffer) {
                    Ok(length) => deframer
                        .feed(&buffer[..length], |frame| match frame {
                            Frame::Datagram(datagram) => datagrams.push(datagram.to_vec()),
                            Frame::Control(control) => panic!("nobody asked for {control:?}"),
                        })
                        .unwrap(),
                    Err(error) => assert!(is_patient(error.kind()), "{error}"),
                }
            }
            Self::Udp(socket) => {
                let mut buffer = [0; 2048];
                match socket.recv(&mut buffer) {
                    Ok(length) => datagrams.push(buffer[..length].to_vec()),
                    Err(error) => assert!(is_patient(error.kind()), "{error}"),
                }
            }
        }
    }
}

fn is_patient(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn open_api(address: SocketAddr) -> Carrier {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(LOOK)).unwrap();
    Carrier::Api(stream, Deframer::new())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test is the driver of its laptop"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
