//! Many peers of one gateway, all from one process and one UDP socket: sessions, handshakes, and one that makes noise.
//!
//! Each step prints a JSON line and waits for a line on standard input, so that the gateway can be looked at.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kvpn_wire::control::SessionGrant;
use kvpn_wire::packet::build;
use kvpn_wire::wireguard::{
    Kind, MAX_HANDSHAKE, Opened, PrivateKey, Sealed, Tunnel, TunnelConfig, classify,
};
use serde_json::json;

use crate::control::{Control, new_key};
use crate::{now, say, wait_for_line};

/// Handshakes under way at the same time.
const UNDER_WAY: usize = 64;
/// When a handshake is begun again, and when nothing more is expected.
const RETRY: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(30);
/// Payload of the noise, in bytes.
const NOISE: usize = 1200;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    control: Control,
    /// Where the gateway's `udp` carrier answers
    #[arg(long)]
    gateway: SocketAddr,
    /// How many peers
    #[arg(long, default_value_t = 1000)]
    peers: usize,
    /// The first peer then sends UDP there, as fast as it can
    #[arg(long)]
    noise: Option<SocketAddr>,
    /// For how many seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// Sessions, handshakes, noise.
///
/// # Errors
/// The gateway refuses a session, or a peer gets no answer within 30 s.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut crowd = Crowd::open(options)?;
    wait_for_line()?;
    crowd.shake_hands()?;
    wait_for_line()?;
    if let Some(target) = options.noise {
        crowd.make_noise(target, Duration::from_secs_f64(options.seconds))?;
    }
    Ok(())
}

struct Crowd {
    socket: UdpSocket,
    peers: Vec<Peer>,
    out: Vec<u8>,
    datagram: Vec<u8>,
}

struct Peer {
    tunnel: Tunnel,
    grant: SessionGrant,
    begun: Option<Instant>,
    established: bool,
}

impl Crowd {
    fn open(options: &Options) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind(any(options.gateway))?;
        socket.connect(options.gateway)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let start = now();
        let count = options.peers;
        let peers = options.control.with(move |control| {
            let peers = (0..count).map(|number| {
                let key = new_key()?;
                let grant = control.create(key.public(), &format!("peer {number}"), false)?;
                anyhow::Ok(Peer::new(key, grant, number))
            });
            peers.collect::<anyhow::Result<Vec<_>>>()
        })??;
        let seconds = start.elapsed().as_secs_f64();
        say(json!({ "sessions": count, "seconds": seconds }));
        Ok(Self {
            socket,
            peers,
            out: vec![0; 2048],
            datagram: vec![0; 2048],
        })
    }

    fn shake_hands(&mut self) -> anyhow::Result<()> {
        let start = now();
        let (mut first, mut done) = (0, 0);
        while done < self.peers.len() {
            ensure!(
                start.elapsed() < PATIENCE,
                "{done} of {} peers were answered within {} s",
                self.peers.len(),
                PATIENCE.as_secs()
            );
            while first < self.peers.len() && self.peers[first].established {
                first += 1;
            }
            let waiting =
                (first..self.peers.len()).filter(|&number| !self.peers[number].established);
            let waiting: Vec<usize> = waiting.take(UNDER_WAY).collect();
            for number in waiting {
                if self.peers[number].is_late() {
                    self.begin(number)?;
                }
            }
            done += self.receive()?;
        }
        let seconds = start.elapsed().as_secs_f64();
        say(json!({
            "handshakes": done, "seconds": seconds, "per_second": done as f64 / seconds,
        }));
        Ok(())
    }

    fn begin(&mut self, number: usize) -> anyhow::Result<()> {
        let peer = &mut self.peers[number];
        peer.begun = Some(now());
        if let Some(length) = peer.tunnel.initiate(&mut self.out, now()) {
            self.socket.send(&self.out[..length])?;
        }
        Ok(())
    }

    /// Takes one datagram; how many peers are done by it.
    fn receive(&mut self) -> anyhow::Result<usize> {
        let length = match self.socket.recv(&mut self.datagram) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        };
        let datagram = &self.datagram[..length];
        let receiver = match classify(datagram) {
            Some(
                Kind::Response { receiver } | Kind::Cookie { receiver } | Kind::Data { receiver },
            ) => receiver,
            Some(Kind::Initiation) | None => return Ok(0),
        };
        let number = (receiver >> 8) as usize;
        let Some(peer) = self.peers.get_mut(number) else {
            return Ok(0);
        };
        match peer.tunnel.open(datagram, None, &mut self.out, now()) {
            Opened::Established(length) => {
                self.socket.send(&self.out[..length])?;
                let new = !peer.established;
                peer.established = true;
                Ok(usize::from(new))
            }
            Opened::Cookie => {
                self.begin(number)?;
                Ok(0)
            }
            Opened::Packet { .. }
            | Opened::Keepalive
            | Opened::Reply(_)
            | Opened::Challenge(_)
            | Opened::Rejected(_) => Ok(0),
        }
    }

    fn make_noise(&mut self, target: SocketAddr, length: Duration) -> anyhow::Result<()> {
        let peer = self.peers.first_mut().context("there are no peers")?;
        let own = peer.grant.addresses.iter();
        let own = own
            .map(|addresses| addresses.client)
            .find(|client| client.is_ipv4() == target.is_ipv4())
            .context("the session has no address of the target's family")?;
        let mut packet = [0; NOISE + 60];
        let source = SocketAddr::new(own, 4000);
        let size = build::udp(source, target, &[7; NOISE], &mut packet)
            .context("the packet is too short")?;
        let start = now();
        let mut sent = 0_u64;
        while start.elapsed() < length {
            if let Sealed::Datagram(size) = peer.tunnel.seal(&packet[..size], &mut self.out, now())
            {
                // A full queue is a part of the noise.
                sent += u64::from(self.socket.send(&self.out[..size]).is_ok());
            }
        }
        let rate = sent as f64 * NOISE as f64 * 8.0 / 1e6 / length.as_secs_f64();
        say(json!({ "packets": sent, "mbit_per_second": rate }));
        Ok(())
    }
}

impl Peer {
    fn new(private: PrivateKey, grant: SessionGrant, number: usize) -> Self {
        let config = TunnelConfig {
            private,
            peer: grant.gateway_public_key,
            preshared: Some(grant.preshared_key.clone()),
            index: number as u32,
            persistent_keepalive: None,
            mtu: usize::from(grant.mtu),
            jitter_seed: number as u64,
            limiter: None,
        };
        Self {
            tunnel: Tunnel::new(config, now()),
            grant,
            begun: None,
            established: false,
        }
    }

    fn is_late(&self) -> bool {
        self.begun.is_none_or(|begun| begun.elapsed() > RETRY)
    }
}

fn any(gateway: SocketAddr) -> SocketAddr {
    let any: std::net::IpAddr = if gateway.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(any, 0)
}

const _: () = assert!(MAX_HANDSHAKE <= 2048);
