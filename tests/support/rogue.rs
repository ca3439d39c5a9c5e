//! A client that plays by no rules but the tunnel's: it opens a session as any client does, through a
//! port-forward, and then sends whatever packets a test makes. The real client would not send them.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

use kvpn_wire::control::{CreateSession, SESSIONS_PATH, SessionGrant, TunnelAddresses, VERSION};
use kvpn_wire::packet::build::{self, Segment};
use kvpn_wire::packet::{FiveTuple, Icmp, IcmpMessage, Ip, Protocol, TcpFlags, Version};
use kvpn_wire::wireguard::{Opened, PrivateKey, Sealed, Tunnel, TunnelConfig};
use kvpn_wire::{API_CARRIER_PORT, CONTROL_PORT};

use crate::flow::{PATIENCE, dial};
use crate::laptop::Laptop;
use crate::outcome::eventually;

/// A session that a test speaks itself.
pub struct Rogue {
    /// What the gateway gave it.
    pub grant: SessionGrant,
    tunnel: Tunnel,
    carrier: TcpStream,
    forward: Child,
    /// The port of the last question: each is a flow of its own.
    port: u16,
}

/// What came back for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The connection would open.
    SynAck,
    /// TCP reset: refused by somebody who was reached.
    Reset,
    /// ICMP: administratively prohibited.
    Prohibited,
    /// ICMP: unreachable for another reason.
    Unreachable,
    /// An answer of another kind.
    Other,
    /// Nothing.
    Silence,
}

impl Rogue {
    /// Opens a session with the gateway of a namespace. `seed` makes its key; `port` and the next one must be free
    /// on the laptop.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn open(laptop: &Laptop, namespace: &str, seed: u8, port: u16) -> Self {
        let (control, carrier) = (
            format!("{port}:{CONTROL_PORT}"),
            format!("{}:{API_CARRIER_PORT}", port + 1),
        );
        let pod = "pod/kvpn-gateway-0";
        let forward = laptop.spawn(&[
            "kubectl",
            "-n",
            namespace,
            "port-forward",
            pod,
            &control,
            &carrier,
        ]);
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert!(
            eventually(PATIENCE, || laptop
                .in_network(|| dial(at(port + 1)))
                .is_ok()),
            "no port-forward"
        );
        let private = PrivateKey::from_seed([seed; 32]);
        let grant = laptop
            .in_network(|| create_session(at(port), &private))
            .expect("the gateway grants a session");
        let config = TunnelConfig {
            private,
            peer: grant.gateway_public_key,
            preshared: Some(grant.preshared_key.clone()),
            index: u32::from(seed),
            persistent_keepalive: None,
            mtu: usize::from(grant.mtu),
            jitter_seed: 0,
            limiter: None,
        };
        let carrier = laptop
            .in_network(|| dial(at(port + 1)))
            .expect("the carrier opens");
        let mut rogue = Self {
            grant,
            tunnel: Tunnel::new(config, now()),
            carrier,
            forward,
            port: 40_000,
        };
        rogue
            .shake_hands()
            .expect("the gateway answers the handshake");
        rogue
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let mut out = [0; 2048];
        let length = self
            .tunnel
            .initiate(&mut out, now())
            .expect("a new tunnel has something to send");
        self.write_frame(&out[..length])?;
        loop {
            let datagram = self.read_frame()?;
            if let Opened::Established(length) = self.tunnel.open(&datagram, None, &mut out, now())
            {
                return self.write_frame(&out[..length]);
            }
        }
    }

    /// The session's addresses of the family of `like`.
    ///
    /// # Panics
    ///
    /// When the session has none.
    pub fn addresses(&self, like: IpAddr) -> TunnelAddresses {
        let same = |entry: &&TunnelAddresses| entry.client.is_ipv4() == like.is_ipv4();
        *self
            .grant
            .addresses
            .iter()
            .find(same)
            .expect("the gateway gives addresses of each family that it has")
    }

    /// Asks `to` for a TCP connection, from the session's own address, thrice at most.
    pub fn ask(&mut self, to: SocketAddr) -> Answer {
        self.ask_from(self.addresses(to.ip()).client, to)
    }

    /// The same from any address.
    ///
    /// # Panics
    ///
    /// When the carrier breaks.
    pub fn ask_from(&mut self, from: IpAddr, to: SocketAddr) -> Answer {
        self.port += 1;
        let flow = FiveTuple {
            protocol: Protocol::Tcp,
            src: SocketAddr::new(from, self.port),
            dst: to,
        };
        for _ in 0..3 {
            self.send_segment(flow, TcpFlags::SYN);
            if let Some(answer) = self.answer_to(flow, Duration::from_millis(700)) {
                self.send_segment(flow, TcpFlags::RST);
                return answer;
            }
        }
        Answer::Silence
    }

    fn send_segment(&mut self, flow: FiveTuple, flags: TcpFlags) {
        let segment = Segment {
            flags,
            sequence: u32::from(flags == TcpFlags::RST),
            window: 65_535,
            ..Segment::default()
        };
        let mut packet = [0; 128];
        let length = build::tcp(flow.src, flow.dst, &segment, &mut packet).expect("it fits");
        self.send(&packet[..length]).expect("the carrier is up");
    }

    /// What came back for a flow within `limit`; packets of other flows are passed over.
    fn answer_to(&mut self, flow: FiveTuple, limit: Duration) -> Option<Answer> {
        let end = now() + limit;
        while let Some(left) = end.checked_duration_since(now()) {
            let packet = self.receive(left).expect("the carrier is up")?;
            let answer = Ip::parse(&packet).ok().and_then(|ip| read(&ip, flow));
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// Sends an inner packet.
    ///
    /// # Errors
    ///
    /// The carrier's.
    pub fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let mut out = vec![0; packet.len() + 256];
        match self.tunnel.seal(packet, &mut out, now()) {
            Sealed::Datagram(length) | Sealed::Handshake(length) => {
                self.write_frame(&out[..length])
            }
            Sealed::Queued | Sealed::Dropped => Err(io::Error::other("the session is gone")),
        }
    }

    /// The next inner packet, if one comes within `limit`.
    ///
    /// # Errors
    ///
    /// The carrier's.
    pub fn receive(&mut self, limit: Duration) -> io::Result<Option<Vec<u8>>> {
        let end = now() + limit;
        let mut out = vec![0; 65_536];
        loop {
            let left = end
                .saturating_duration_since(now())
                .max(Duration::from_millis(1));
            self.carrier.set_read_timeout(Some(left))?;
            let datagram = match self.read_frame() {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            if let Opened::Packet { len, .. } = self.tunnel.open(&datagram, None, &mut out, now()) {
                return Ok(Some(out[..len].to_vec()));
            }
            if end <= now() {
                return Ok(None);
            }
        }
    }

    /// A frame is its length, two bytes big-endian, and a datagram.
    fn write_frame(&mut self, datagram: &[u8]) -> io::Result<()> {
        let length = u16::try_from(datagram.len()).map_err(io::Error::other)?;
        self.carrier
            .write_all(&[&length.to_be_bytes(), datagram].concat())
    }

    fn read_frame(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 2];
        self.carrier.read_exact(&mut length)?;
        let mut datagram = vec![0; usize::from(u16::from_be_bytes(length))];
        self.carrier.read_exact(&mut datagram)?;
        Ok(datagram)
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        let _ = self.forward.kill();
        let _ = self.forward.wait();
    }
}

fn create_session(at: SocketAddr, private: &PrivateKey) -> io::Result<SessionGrant> {
    let request = CreateSession {
        version: VERSION,
        client_version: "rogue".to_owned(),
        public_key: private.public(),
        avoid: Vec::new(),
        prefer: Vec::new(),
        session_name: "rogue".to_owned(),
        super_packets: false,
    };
    let body = serde_json::to_string(&request)?;
    let mut stream = dial(at)?;
    let length = body.len();
    let head = format!(
        "POST {SESSIONS_PATH} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nContent-Type: application/json\r\n"
    );
    write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other(answer.clone()))?;
    serde_json::from_str(body).map_err(|error| io::Error::other(format!("{error}: {answer}")))
}

/// What a packet says about a flow; `None` when it is about another.
fn read(ip: &Ip<'_>, flow: FiveTuple) -> Option<Answer> {
    if FiveTuple::of(ip) == Some(flow.reversed()) {
        return ip.tcp().map(|segment| read_flags(segment.flags()));
    }
    if FiveTuple::quoted_by(ip) == Some(flow) {
        return ip.icmp().map(|icmp| read_icmp(ip.version(), &icmp));
    }
    None
}

fn read_flags(flags: TcpFlags) -> Answer {
    if flags.contains(TcpFlags::RST) {
        Answer::Reset
    } else if flags.contains(TcpFlags::SYN) {
        Answer::SynAck
    } else {
        Answer::Other
    }
}

fn read_icmp(version: Version, icmp: &Icmp<'_>) -> Answer {
    let prohibited = match version {
        Version::V4 => 13,
        Version::V6 => 1,
    };
    match icmp.message() {
        IcmpMessage::Unreachable { code, .. } if code == prohibited => Answer::Prohibited,
        IcmpMessage::Unreachable { .. } => Answer::Unreachable,
        IcmpMessage::EchoRequest { .. }
        | IcmpMessage::EchoReply { .. }
        | IcmpMessage::PacketTooBig { .. }
        | IcmpMessage::TimeExceeded { .. }
        | IcmpMessage::ParameterProblem { .. }
        | IcmpMessage::Other { .. } => Answer::Other,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests of a real cluster run on the real clock"
)]
fn now() -> Instant {
    Instant::now()
}
