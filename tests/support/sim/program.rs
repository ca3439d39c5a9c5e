//! Programs on the laptop and the kernel under them: TCP connections, UDP echoes, pings, name queries.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use kvpn_netstack::{Config, Event, FlowId, Netstack};
use kvpn_wire::control::TunnelAddresses;
use kvpn_wire::packet::{IcmpMessage, Ip, build};

/// Source ports of what is not TCP.
const ECHO_PORT: u16 = 20_000;
const NAME_PORT: u16 = 20_001;

/// One TCP connection that sends a pattern, and checks that the same comes back.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    to_send: usize,
    sent: usize,
    pub(crate) received: usize,
    pub(crate) connected: bool,
    /// The other side finished, after everything that was expected.
    pub(crate) finished: bool,
    pub(crate) reset: bool,
}

/// Everything on the laptop that uses the tunnel.
#[derive(Debug)]
pub(crate) struct Programs {
    addresses: Vec<TunnelAddresses>,
    stack: Netstack,
    packets: VecDeque<Vec<u8>>,
    transfers: BTreeMap<FlowId, Transfer>,
    /// UDP payloads and ping sequence numbers that came back, and when.
    pub(crate) datagrams: Vec<Vec<u8>>,
    pub(crate) pings: Vec<u16>,
    /// The MTUs in what was said of packets that were too long; the kernel keeps to the last.
    pub(crate) too_big: Vec<u32>,
    /// Answers of the stub.
    pub(crate) answers: Vec<Vec<u8>>,
    /// Packets that no program asked for.
    pub(crate) unasked: usize,
    /// Where packets go instead, if the programs are somebody else's.
    pub(crate) tapped: Option<Vec<Vec<u8>>>,
}

impl Programs {
    pub(crate) fn new(addresses: Vec<TunnelAddresses>, seed: u64, now: Instant) -> Self {
        let config = Config {
            mtu: kvpn_wire::pmtud::MAX,
            tcp_buffer: 256 * 1024,
            udp_idle: Duration::from_secs(60),
            seed,
            ..Config::default()
        };
        Self {
            addresses,
            stack: Netstack::new(config, now),
            packets: VecDeque::new(),
            transfers: BTreeMap::new(),
            datagrams: Vec::new(),
            pings: Vec::new(),
            too_big: Vec::new(),
            answers: Vec::new(),
            unasked: 0,
            tapped: None,
        }
    }

    pub(crate) fn addresses(&self) -> &[TunnelAddresses] {
        &self.addresses
    }

    /// Opens a connection that sends `len` bytes, finishes, and expects them back.
    pub(crate) fn transfer(&mut self, dst: &str, len: usize, now: Instant) -> FlowId {
        let dst: SocketAddr = dst.parse().expect("an address");
        let src = SocketAddr::new(self.client(), 0);
        let flow = self
            .stack
            .tcp_connect(src, dst, now)
            .expect("room for a flow");
        let transfer = Transfer {
            to_send: len,
            ..Transfer::default()
        };
        self.transfers.insert(flow, transfer);
        flow
    }

    pub(crate) fn transferred(&self, flow: FlowId) -> &Transfer {
        &self.transfers[&flow]
    }

    /// Sends a datagram to an echo server.
    pub(crate) fn send_udp(&mut self, dst: &str, payload: &[u8]) {
        let src = SocketAddr::new(self.client(), ECHO_PORT);
        let dst = dst.parse().expect("an address");
        self.push(2048, |out| build::udp(src, dst, payload, out));
    }

    pub(crate) fn ping(&mut self, dst: &str, sequence: u16) {
        let (src, dst) = (self.client(), dst.parse().expect("an address"));
        self.push(128, |out| {
            build::icmp_echo_request(src, dst, 1, sequence, b"ping", out)
        });
    }

    /// Asks the stub for a name's IPv4 addresses.
    pub(crate) fn ask(&mut self, name: &str, id: u16) {
        let mut query = id.to_be_bytes().to_vec();
        query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).expect("a label"));
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let src = SocketAddr::new(self.client(), NAME_PORT);
        let dst = SocketAddr::new(self.addresses[0].dns_stub, 53);
        self.push(512, |out| build::udp(src, dst, &query, out));
    }

    pub(crate) fn poll_packet(&mut self) -> Option<Vec<u8>> {
        let own = self.packets.pop_front();
        own.or_else(|| self.stack.poll_segment().map(<[u8]>::to_vec))
    }

    pub(crate) fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        let ip = Ip::parse(packet).expect("the client gives whole packets");
        let mut ours = self.addresses.iter().map(|ends| ends.client);
        assert!(
            ours.any(|own| own == ip.dst()),
            "a packet for somebody else"
        );
        if let Some(tapped) = &mut self.tapped {
            return tapped.push(packet.to_vec());
        }
        if let Some(udp) = ip.udp() {
            match udp.dst_port() {
                ECHO_PORT => self.datagrams.push(udp.payload().to_vec()),
                NAME_PORT => self.answers.push(udp.payload().to_vec()),
                _ => self.unasked += 1,
            }
        } else if let Some(IcmpMessage::PacketTooBig { mtu, .. }) =
            ip.icmp().map(|icmp| icmp.message())
        {
            self.too_big.push(mtu);
            self.stack.set_mtu(mtu.try_into().expect("an MTU"));
        } else if let Some(IcmpMessage::EchoReply { sequence, .. }) =
            ip.icmp().map(|icmp| icmp.message())
        {
            self.pings.push(sequence);
        } else {
            self.stack.handle_packet(packet, now);
            self.handle_events(now);
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.stack.handle_timeout(now);
        self.handle_events(now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.stack.poll_timeout()
    }

    fn client(&self) -> IpAddr {
        self.addresses[0].client
    }

    fn push(&mut self, max_len: usize, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let mut packet = vec![0; max_len];
        let n = write(&mut packet).expect("it fits");
        packet.truncate(n);
        self.packets.push_back(packet);
    }

    fn handle_events(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            let flow = event.flow();
            let Some(transfer) = self.transfers.get_mut(&flow) else {
                self.unasked += 1;
                continue;
            };
            match event {
                Event::TcpConnected { .. } => {
                    transfer.connected = true;
                    transfer.go_on(flow, &mut self.stack, now);
                }
                Event::TcpPeerFinished { .. } => {
                    transfer.finished = transfer.received == transfer.to_send
                }
                Event::TcpReset { .. } => transfer.reset = true,
                _ => transfer.go_on(flow, &mut self.stack, now),
            }
        }
    }
}

impl Transfer {
    fn go_on(&mut self, flow: FlowId, stack: &mut Netstack, now: Instant) {
        let mut buf = vec![0; 16 * 1024];
        loop {
            let n = stack.tcp_recv(flow, &mut buf, now);
            for byte in &buf[..n] {
                assert_eq!(
                    *byte,
                    pattern(self.received),
                    "byte {} of the stream",
                    self.received
                );
                self.received += 1;
            }
            if n == 0 {
                break;
            }
        }
        while self.sent < self.to_send {
            let n = buf.len().min(self.to_send - self.sent);
            for (i, byte) in buf[..n].iter_mut().enumerate() {
                *byte = pattern(self.sent + i);
            }
            let taken = stack.tcp_send(flow, &buf[..n], now);
            self.sent += taken;
            if taken < n {
                return;
            }
        }
        if self.to_send > 0 && self.sent == self.to_send {
            stack.tcp_finish(flow, now);
            self.sent = self.to_send;
        }
    }
}

/// The byte at `position` of every stream.
fn pattern(position: usize) -> u8 {
    (position.wrapping_mul(31) ^ (position >> 8)) as u8
}
