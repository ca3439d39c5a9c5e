//! Two parts of one gateway, between which a test carries what one has for the other.

use std::time::Instant;

use kvpn_wire::control::CreateSession;
use kvpn_wire::wireguard::{Opened, PrivateKey, Tunnel, TunnelConfig};

use super::client::{config, request, start};
use super::{drops, udp_path};
use crate::output::DropReason;
use crate::{Config, Elsewhere, GatewayState, Limits, Refused, Shard};

fn parts(limits: Limits, now: Instant) -> [GatewayState; 2] {
    let parts = Shard::all(2).map(|shard| {
        let config = Config {
            shard,
            limits,
            ..config()
        };
        GatewayState::new(config, now)
    });
    parts.collect::<Vec<_>>().try_into().expect("two parts")
}

fn tunnel(gateway: &mut GatewayState, seed: u8, now: Instant) -> Tunnel {
    let grant = gateway.create_session(&request(seed), now).unwrap();
    let config = TunnelConfig {
        private: PrivateKey::from_seed([seed; 32]),
        peer: grant.gateway_public_key,
        preshared: Some(grant.preshared_key),
        index: u32::from(seed),
        persistent_keepalive: None,
        mtu: usize::from(grant.mtu),
        jitter_seed: 1,
        limiter: None,
    };
    Tunnel::new(config, now)
}

#[test]
fn an_initiation_at_the_wrong_part_is_passed_on() {
    let now = start();
    let [mut first, mut second] = parts(Limits::default(), now);
    let mut tunnel = tunnel(&mut second, 1, now);
    let mut initiation = [0; 148];
    tunnel.initiate(&mut initiation, now).unwrap();
    let path = udp_path("192.0.2.5:4000");
    first.handle_datagram(path, &initiation, now);
    assert!(first.poll_transmit(now).is_none());
    let stranger = first.poll_stranger().unwrap();
    assert!(first.poll_stranger().is_none());
    assert!(second.has_session(&stranger.key) && !first.has_session(&stranger.key));

    second.handle_stranger(&stranger, now);
    let answer = second.poll_transmit(now).unwrap();
    assert_eq!(answer.path, path);
    let mut out = [0; 200];
    let opened = tunnel.open(answer.payload, None, &mut out, now);
    let Opened::Established(length) = opened else {
        panic!("{opened:?}");
    };
    assert_eq!(
        Shard::all(2).next().unwrap().of_datagram(&out[..length]),
        Some(1)
    );
    second.handle_datagram(path, &out[..length], now);
    assert_eq!(second.snapshot().drops, Default::default());
}

#[test]
fn a_stranger_whom_nobody_knows_is_counted() {
    let now = start();
    let [mut first, mut second] = parts(Limits::default(), now);
    let mut tunnel = tunnel(&mut second, 1, now);
    let mut initiation = [0; 148];
    tunnel.initiate(&mut initiation, now).unwrap();
    first.handle_datagram(udp_path("192.0.2.5:4000"), &initiation, now);
    let stranger = first.poll_stranger().unwrap();
    first.handle_stranger(&stranger, now);
    assert_eq!(drops(&first, DropReason::UnknownSession), 1);
}

#[test]
fn strangers_wait_in_bounds() {
    let now = start();
    let [mut first, mut second] = parts(Limits::default(), now);
    let mut tunnel = tunnel(&mut second, 1, now);
    let mut initiation = [0; 148];
    tunnel.initiate(&mut initiation, now).unwrap();
    for _ in 0..300 {
        first.handle_datagram(udp_path("192.0.2.5:4000"), &initiation, now);
    }
    assert_eq!(std::iter::from_fn(|| first.poll_stranger()).count(), 256);
    assert_eq!(drops(&first, DropReason::QueueFull), 44);
}

#[test]
fn the_limit_on_sessions_counts_all_parts() {
    let now = start();
    let limits = Limits {
        max_sessions: 3,
        ..Limits::default()
    };
    let [mut first, _] = parts(limits, now);
    first.set_elsewhere(Elsewhere {
        sessions: 2,
        with_flows: 0,
    });
    let create = |gateway: &mut GatewayState, request: &CreateSession| {
        gateway.create_session(request, now).map(|_| ())
    };
    assert_eq!(create(&mut first, &request(1)), Ok(()));
    assert_eq!(create(&mut first, &request(2)), Err(Refused::Full(3)));
    assert_eq!(create(&mut first, &request(1)), Ok(()), "a renewal");
}

#[test]
fn counts_are_sums() {
    let now = start();
    let [mut first, mut second] = parts(Limits::default(), now);
    tunnel(&mut first, 1, now);
    tunnel(&mut second, 2, now);
    for gateway in [&mut first, &mut second] {
        gateway.handle_datagram(udp_path("192.0.2.5:4000"), b"nonsense", now);
    }
    let mut sum = first.snapshot();
    sum.add(&second.snapshot());
    assert_eq!((sum.sessions, sum.sessions_created), (2, 2));
    assert_eq!(sum.drops.of(DropReason::Malformed), 2);
}
