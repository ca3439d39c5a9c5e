//! Two tunnels and a clock that the tests move.

mod handshake;
mod limits;
mod plaintext;
mod timing;

use std::time::{Duration, Instant};

use super::*;

/// An IPv4 packet of `len` bytes (20 or more), of which only the header counts here.
fn packet(len: usize) -> Vec<u8> {
    let mut packet = vec![7; len];
    packet[..20].fill(0);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed([seed; 32])
}

fn config(own: u8, peer: u8) -> TunnelConfig {
    TunnelConfig {
        private: key(own),
        peer: key(peer).public(),
        preshared: Some(PresharedKey::from_bytes([42; 32])),
        index: 0x00ab_cd00 | u32::from(own),
        persistent_keepalive: None,
        mtu: 1360,
        jitter_seed: u64::from(own),
        limiter: None,
    }
}

/// A client and a gateway, and what is due on either.
struct Pair {
    client: Tunnel,
    gateway: Tunnel,
    now: Instant,
}

impl Pair {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests need some Instant to begin with"
    )]
    fn with(client: TunnelConfig, gateway: TunnelConfig) -> Self {
        let now = Instant::now();
        Self {
            client: Tunnel::new(client, now),
            gateway: Tunnel::new(gateway, now),
            now,
        }
    }

    fn new() -> Self {
        Self::with(config(1, 2), config(2, 1))
    }

    /// A pair whose client has shaken hands with the gateway, and whose gateway knows.
    fn connected() -> Self {
        let mut pair = Self::new();
        pair.shake_hands();
        pair
    }

    fn shake_hands(&mut self) {
        let initiation = initiate(&mut self.client, self.now);
        let response = answer(&mut self.gateway, &initiation, self.now);
        let keepalive = establish(&mut self.client, &response, self.now);
        assert_eq!(
            open(&mut self.gateway, &keepalive, self.now).0,
            Opened::Keepalive
        );
        assert!(self.client.has_session(self.now) && self.gateway.has_session(self.now));
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Moves the clock and delivers all that either side sends by its timers, in both directions. Gives the kinds of
    /// what was sent, with the time since the beginning of the call.
    fn run(&mut self, span: Duration) -> Vec<(Duration, &'static str, Kind)> {
        let (begin, end) = (self.now, self.now + span);
        let mut log = Vec::new();
        while let Some(at) = self.next_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            for (side, datagram) in self.due() {
                log.push((self.now - begin, side, classify(&datagram).unwrap()));
                self.deliver(side, datagram);
            }
        }
        self.now = end;
        log
    }

    fn next_timeout(&self) -> Option<Instant> {
        let timeouts = [self.client.poll_timeout(), self.gateway.poll_timeout()];
        timeouts.into_iter().flatten().map(|(at, _)| at).min()
    }

    fn due(&mut self) -> Vec<(&'static str, Vec<u8>)> {
        let mut sent = Vec::new();
        for (side, tunnel) in [("client", &mut self.client), ("gateway", &mut self.gateway)] {
            sent.extend(
                timeouts(tunnel, self.now)
                    .into_iter()
                    .map(|datagram| (side, datagram)),
            );
            assert!(
                tunnel.poll_timeout().is_none_or(|(at, _)| at > self.now),
                "{:?}",
                tunnel.poll_timeout()
            );
        }
        sent
    }

    /// Delivers a datagram and every reply to it.
    fn deliver(&mut self, from: &'static str, datagram: Vec<u8>) {
        let (mut from, mut datagram) = (from, datagram);
        loop {
            let (to, tunnel) = match from {
                "client" => ("gateway", &mut self.gateway),
                _ => ("client", &mut self.client),
            };
            match open(tunnel, &datagram, self.now) {
                (Opened::Reply(_) | Opened::Established(_) | Opened::Challenge(_), reply) => {
                    (from, datagram) = (to, reply);
                }
                _ => return,
            }
        }
    }
}

/// What `handle_timeout` gives until it gives nothing.
fn timeouts(tunnel: &mut Tunnel, now: Instant) -> Vec<Vec<u8>> {
    let mut out = [0; 256];
    let mut sent = Vec::new();
    while let Some(n) = tunnel.handle_timeout(&mut out, now) {
        sent.push(out[..n].to_vec());
    }
    sent
}

/// The result of `open` and the bytes it speaks of.
fn open(tunnel: &mut Tunnel, datagram: &[u8], now: Instant) -> (Opened, Vec<u8>) {
    let mut out = [0; 2048];
    let opened = tunnel.open(datagram, None, &mut out, now);
    let n = match opened {
        Opened::Packet { len: n, .. }
        | Opened::Reply(n)
        | Opened::Established(n)
        | Opened::Challenge(n) => n,
        Opened::Keepalive | Opened::Cookie | Opened::Rejected(_) => 0,
    };
    (opened, out[..n].to_vec())
}

/// What opening a sealed [`packet`] of `len` bytes gives.
fn opened(len: usize) -> Opened {
    Opened::Packet {
        len,
        plaintext: len.next_multiple_of(16).min(len.max(1360)),
    }
}

fn initiate(tunnel: &mut Tunnel, now: Instant) -> Vec<u8> {
    let mut out = [0; MAX_HANDSHAKE];
    let n = tunnel.initiate(&mut out, now).unwrap();
    assert_eq!(classify(&out[..n]), Some(Kind::Initiation));
    out[..n].to_vec()
}

fn answer(tunnel: &mut Tunnel, initiation: &[u8], now: Instant) -> Vec<u8> {
    let (opened, response) = open(tunnel, initiation, now);
    assert_eq!(opened, Opened::Reply(92));
    response
}

fn establish(tunnel: &mut Tunnel, response: &[u8], now: Instant) -> Vec<u8> {
    let (opened, keepalive) = open(tunnel, response, now);
    assert_eq!(opened, Opened::Established(32));
    keepalive
}

/// Seals on an existing session.
fn seal(tunnel: &mut Tunnel, packet: &[u8], now: Instant) -> Vec<u8> {
    let mut out = [0; 2048];
    match tunnel.seal(packet, &mut out, now) {
        Sealed::Datagram(n) => out[..n].to_vec(),
        other => panic!("no session: {other:?}"),
    }
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
