//! The same operations on boringtun, gotatun and the cipher alone: a session between two ends in memory, packets sealed,
//! datagrams opened. Batches are prepared outside of what is timed, and what is timed is the thread's processor time, so that
//! a busy machine does not matter.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What is measured of a library.
pub trait Library {
    /// Its name in the table.
    const NAME: &'static str;
    /// Two ends with a session between them.
    fn connected() -> Self;
    /// Seals `count` packets of `size` bytes; the time that took.
    fn seal(&mut self, count: u64, size: usize) -> Duration;
    /// Opens `count` datagrams with packets of `size` bytes; the time that took.
    fn open(&mut self, count: u64, size: usize) -> Duration;
}

/// Datagrams that are prepared at a time; fewer than either replay window.
const BATCH: u64 = 64;

/// The thread's processor time so far.
pub fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Prepares `count` things in batches, and gives the time that using them took.
fn in_batches<T>(
    count: u64,
    mut prepare: impl FnMut() -> T,
    mut use_one: impl FnMut(T),
) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let size = left.min(BATCH);
        let batch: Vec<T> = (0..size).map(|_| prepare()).collect();
        let start = spent();
        batch.into_iter().for_each(&mut use_one);
        took += spent() - start;
        left -= size;
    }
    took
}

/// An IPv4 packet of this length, so that its length is not cut.
pub fn packet(size: usize) -> Vec<u8> {
    let mut packet = vec![7; size];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    packet
}

/// ring's ChaCha20-Poly1305 in place: what no library can be faster than.
pub struct Cipher(ring::aead::LessSafeKey);

impl Library for Cipher {
    const NAME: &'static str = "cipher";

    fn connected() -> Self {
        let key = ring::aead::UnboundKey::new(&ring::aead::CHACHA20_POLY1305, &[7; 32]);
        Self(ring::aead::LessSafeKey::new(key.expect("32 bytes")))
    }

    fn seal(&mut self, count: u64, size: usize) -> Duration {
        let mut buffer = packet(size);
        let start = spent();
        for number in 0..count {
            let none = ring::aead::Aad::empty();
            let tag = self
                .0
                .seal_in_place_separate_tag(nonce(number), none, &mut buffer);
            std::hint::black_box(tag.expect("sealing does not fail").as_ref());
        }
        spent() - start
    }

    fn open(&mut self, count: u64, size: usize) -> Duration {
        let seal = || {
            let mut buffer = packet(size);
            let none = ring::aead::Aad::empty();
            let tag = self
                .0
                .seal_in_place_separate_tag(nonce(1), none, &mut buffer);
            buffer.extend_from_slice(tag.expect("sealing does not fail").as_ref());
            buffer
        };
        in_batches(count, seal, |mut buffer| {
            let none = ring::aead::Aad::empty();
            let opened = self.0.open_in_place(nonce(1), none, &mut buffer);
            opened.expect("it was just sealed");
        })
    }
}

fn nonce(number: u64) -> ring::aead::Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    ring::aead::Nonce::assume_unique_for_key(nonce)
}

/// boringtun 0.7: from one buffer into another.
pub struct Boringtun {
    client: boringtun::noise::Tunn,
    gateway: boringtun::noise::Tunn,
}

impl Library for Boringtun {
    const NAME: &'static str = "boringtun";

    fn connected() -> Self {
        use boringtun::noise::{Tunn, TunnResult};
        use boringtun::x25519::{PublicKey, StaticSecret};
        let (client, gateway) = (StaticSecret::from([1; 32]), StaticSecret::from([2; 32]));
        let (client_public, gateway_public) = (PublicKey::from(&client), PublicKey::from(&gateway));
        let mut client = Tunn::new(client, gateway_public, None, None, 1, None);
        let mut gateway = Tunn::new(gateway, client_public, None, None, 2, None);
        let (mut first, mut second) = ([0; 256], [0; 256]);
        let TunnResult::WriteToNetwork(initiation) =
            client.format_handshake_initiation(&mut first, false)
        else {
            panic!("no initiation")
        };
        let TunnResult::WriteToNetwork(response) =
            gateway.decapsulate(None, initiation, &mut second)
        else {
            panic!("no response")
        };
        let TunnResult::WriteToNetwork(keepalive) = client.decapsulate(None, response, &mut first)
        else {
            panic!("no session")
        };
        gateway.decapsulate(None, keepalive, &mut second);
        Self { client, gateway }
    }

    fn seal(&mut self, count: u64, size: usize) -> Duration {
        let (packet, mut out) = (packet(size), vec![0; size + 256]);
        let start = spent();
        for _ in 0..count {
            std::hint::black_box(self.client.encapsulate(&packet, &mut out));
        }
        spent() - start
    }

    fn open(&mut self, count: u64, size: usize) -> Duration {
        use boringtun::noise::TunnResult;
        let Self { client, gateway } = self;
        let (packet, mut opened) = (packet(size), vec![0; size + 256]);
        let source = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let seal = || {
            let mut out = vec![0; size + 256];
            let TunnResult::WriteToNetwork(datagram) = client.encapsulate(&packet, &mut out) else {
                panic!("no session")
            };
            let length = datagram.len();
            out.truncate(length);
            out
        };
        in_batches(count, seal, |datagram| {
            let result = gateway.decapsulate(source, &datagram, &mut opened);
            assert!(matches!(result, TunnResult::WriteToTunnelV4(..)));
        })
    }
}

/// gotatun 0.10: an owned packet in, an owned packet out.
pub struct Gotatun {
    client: gotatun::noise::Tunn,
    gateway: gotatun::noise::Tunn,
    mtu: gotatun::tun::MtuWatcher,
}

impl Library for Gotatun {
    const NAME: &'static str = "gotatun";

    fn connected() -> Self {
        use gotatun::noise::index_table::IndexTable;
        use gotatun::noise::rate_limiter::RateLimiter;
        use gotatun::noise::{Tunn, TunnResult};
        use gotatun::x25519::{PublicKey, StaticSecret};
        let (client, gateway) = (StaticSecret::from([1; 32]), StaticSecret::from([2; 32]));
        let (client_public, gateway_public) = (PublicKey::from(&client), PublicKey::from(&gateway));
        let end = |private, own: &PublicKey, peer| {
            let limiter = Arc::new(RateLimiter::new(own, u64::MAX));
            Tunn::new(
                private,
                peer,
                None,
                None,
                IndexTable::from_os_rng(),
                limiter,
            )
        };
        let mut gateway_end = end(gateway, &gateway_public, client_public);
        let mut client_end = end(client, &client_public, gateway_public);
        let initiation = client_end
            .format_handshake_initiation(false)
            .expect("none is under way");
        let TunnResult::WriteToNetwork(response) =
            gateway_end.handle_incoming_packet(initiation.into())
        else {
            panic!("no response")
        };
        let TunnResult::WriteToNetwork(keepalive) = client_end.handle_incoming_packet(response)
        else {
            panic!("no session")
        };
        gateway_end.handle_incoming_packet(keepalive);
        Self {
            client: client_end,
            gateway: gateway_end,
            mtu: gotatun::tun::MtuWatcher::new(9000),
        }
    }

    fn seal(&mut self, count: u64, size: usize) -> Duration {
        let bytes = packet(size);
        let copy = || gotatun::packet::Packet::copy_from(bytes.as_slice());
        in_batches(count, copy, |packet| {
            let sealed = self
                .client
                .handle_outgoing_packet(packet, Some(&mut self.mtu));
            assert!(sealed.is_some());
        })
    }

    fn open(&mut self, count: u64, size: usize) -> Duration {
        let bytes = packet(size);
        let Self {
            client,
            gateway,
            mtu,
        } = self;
        let seal = || {
            let packet = gotatun::packet::Packet::copy_from(bytes.as_slice());
            let sealed = client.handle_outgoing_packet(packet, Some(mtu));
            sealed.expect("there is a session")
        };
        in_batches(count, seal, |datagram| {
            let result = gateway.handle_incoming_packet(datagram);
            assert!(matches!(
                result,
                gotatun::noise::TunnResult::WriteToTunnel(_)
            ));
        })
    }
}
