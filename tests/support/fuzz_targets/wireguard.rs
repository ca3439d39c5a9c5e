//! WireGuard datagrams. Handshakes draw fresh keys, so an input says what to do with a real message, not what it is.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::Instant;

use kvpn_wire::packet::Ip;
use kvpn_wire::wireguard::{
    Limiter, MAX_HANDSHAKE, Opened, PresharedKey, PrivateKey, Sealed, Tunnel, TunnelConfig,
    classify, initiator,
};

/// Room for the largest datagram of an input, and for a handshake.
const ROOM: usize = 8192;

thread_local! {
    /// A handshake costs more than a thousand parsers: what does not change the session shares one.
    static PAIR: RefCell<Pair> = RefCell::new(Pair::connected());
}

/// The first byte chooses: the rest is a datagram (0), an inner packet (1), or damage to real messages (2).
pub(super) fn datagram(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let rest = &rest[..rest.len().min(4096)];
    match mode % 3 {
        0 => PAIR.with_borrow_mut(|pair| raw(pair, rest)),
        1 => PAIR.with_borrow_mut(|pair| inner(pair, rest)),
        _ => damaged(rest),
    }
}

/// Nothing that an outsider makes up is accepted.
fn raw(pair: &mut Pair, datagram: &[u8]) {
    let mut out = [0; ROOM];
    let _ = classify(datagram);
    assert_eq!(initiator(&key(2), datagram), None);
    let limiter = Limiter::new(&key(2).public(), 0);
    let _ = limiter.admit(datagram, Some(IpAddr::from([192, 0, 2, 1])), &mut out);
    for tunnel in [&mut pair.client, &mut pair.gateway] {
        let opened = tunnel.open(datagram, None, &mut out, pair.now);
        assert!(matches!(opened, Opened::Rejected(_)), "{opened:?}");
    }
}

/// Whatever a peer seals comes out as it went in, cut to its length, or not at all.
fn inner(pair: &mut Pair, packet: &[u8]) {
    let (mut sealed, mut out) = ([0; ROOM], [0; ROOM]);
    let Sealed::Datagram(n) = pair.client.seal(packet, &mut sealed, pair.now) else {
        panic!("there is a session and room");
    };
    match pair.gateway.open(&sealed[..n], None, &mut out, pair.now) {
        Opened::Packet { len: n, plaintext } => {
            assert!(n <= plaintext && packet.len() <= plaintext);
            assert!(out[packet.len()..plaintext].iter().all(|byte| *byte == 0));
            // Padding may make up for what a lying length field promises.
            let common = n.min(packet.len());
            assert_eq!(out[..common], packet[..common]);
            assert!(n < packet.len() + 16);
            let _ = Ip::parse(&out[..n]);
        }
        Opened::Keepalive => assert!(packet.is_empty()),
        Opened::Rejected(_) => assert!(Ip::parse(packet).is_err()),
        other => panic!("data is no handshake: {other:?}"),
    }
}

/// Real messages of every kind, with bytes changed: position and value in turn. None may panic; changed ones are refused.
fn damaged(damage: &[u8]) {
    let mut pair = Pair::connected();
    let (mut sealed, mut out) = ([0; ROOM], [0; ROOM]);
    let initiation = pair.initiation();
    let response = answer(&mut pair.gateway, &initiation, pair.now);
    let Sealed::Datagram(n) = pair.client.seal(&[7; 100], &mut sealed, pair.now) else {
        panic!("there is a session and room");
    };
    let fresh = pair.initiation();
    for (message, to_client) in [
        (&fresh[..], false),
        (&response[..], true),
        (&sealed[..n], false),
    ] {
        let changed = change(message, damage);
        let to = if to_client {
            &mut pair.client
        } else {
            &mut pair.gateway
        };
        let opened = to.open(&changed, None, &mut out, pair.now);
        // The last 16 bytes of a handshake message count only under load.
        let read = if message.len() == n {
            n
        } else {
            message.len() - 16
        };
        if changed[..read] != message[..read] {
            assert!(matches!(opened, Opened::Rejected(_)), "{opened:?}");
        }
    }
}

fn change(message: &[u8], damage: &[u8]) -> Vec<u8> {
    let mut changed = message.to_vec();
    for pair in damage.chunks_exact(2) {
        let at = usize::from(pair[0]) % changed.len();
        changed[at] ^= pair[1];
    }
    changed
}

/// A client and a gateway with a session.
struct Pair {
    client: Tunnel,
    gateway: Tunnel,
    now: Instant,
}

impl Pair {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to begin with; nothing depends on which"
    )]
    fn connected() -> Self {
        let now = Instant::now();
        let (client, gateway) = (
            Tunnel::new(config(1, 2), now),
            Tunnel::new(config(2, 1), now),
        );
        let mut pair = Self {
            client,
            gateway,
            now,
        };
        let initiation = pair.initiation();
        let response = answer(&mut pair.gateway, &initiation, now);
        let mut out = [0; MAX_HANDSHAKE];
        let Opened::Established(n) = pair.client.open(&response, None, &mut out, now) else {
            panic!("the response is good");
        };
        let mut empty = [0; MAX_HANDSHAKE];
        assert_eq!(
            pair.gateway.open(&out[..n], None, &mut empty, now),
            Opened::Keepalive
        );
        pair
    }

    fn initiation(&mut self) -> Vec<u8> {
        let mut out = [0; MAX_HANDSHAKE];
        let n = self
            .client
            .initiate(&mut out, self.now)
            .expect("there is room");
        out[..n].to_vec()
    }
}

fn answer(gateway: &mut Tunnel, initiation: &[u8], now: Instant) -> Vec<u8> {
    let mut out = [0; MAX_HANDSHAKE];
    let Opened::Reply(n) = gateway.open(initiation, None, &mut out, now) else {
        panic!("the initiation is good");
    };
    out[..n].to_vec()
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed([seed; 32])
}

fn config(own: u8, peer: u8) -> TunnelConfig {
    TunnelConfig {
        private: key(own),
        peer: key(peer).public(),
        preshared: Some(PresharedKey::from_bytes([42; 32])),
        index: u32::from(own),
        persistent_keepalive: None,
        mtu: 1360,
        jitter_seed: 0,
        limiter: None,
    }
}
