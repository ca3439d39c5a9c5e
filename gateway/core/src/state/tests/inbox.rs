//! A session that sends more than is served, beside one that sends little.

use std::time::Duration;

use super::client::{Client, config, start};
use super::{drops, events, udp_path};
use crate::output::DropReason;
use crate::{Event, FlowEvent, GatewayState};

const QUIET: &str = "192.0.2.5:4000";
const NOISY: &str = "192.0.2.6:4000";
const TARGET: &str = "10.0.0.9:9";

fn pair(gateway: &mut GatewayState) -> (Client, Client) {
    let now = start();
    let mut connect = |seed, path| {
        let mut client = Client::connected(gateway, seed, now);
        client.path = udp_path(path);
        client
    };
    (connect(1, QUIET), connect(2, NOISY))
}

fn queue(gateway: &mut GatewayState, client: &mut Client, length: usize) {
    let packet = super::udp(
        format!("{}:4000", client.v4().client).parse().unwrap(),
        TARGET.parse().unwrap(),
        &vec![7; length],
    );
    let datagram = client.seal(&packet);
    gateway.queue_datagrams(client.path, &datagram, datagram.len(), client.now);
}

fn received(gateway: &GatewayState) -> u64 {
    gateway.snapshot().received.0
}

#[test]
fn who_sends_little_is_served_at_once() {
    let mut gateway = GatewayState::new(config(), start());
    let (mut quiet, mut noisy) = pair(&mut gateway);
    for _ in 0..1000 {
        queue(&mut gateway, &mut noisy, 1200);
    }
    assert_eq!(received(&gateway), 0);
    assert!(gateway.handle_waiting(noisy.now));
    // A few at a time, so that what they ask for is done in between.
    assert_eq!(received(&gateway), 8);
    events(&mut gateway);
    queue(&mut gateway, &mut quiet, 100);
    assert!(gateway.handle_waiting(quiet.now));
    let opened = events(&mut gateway).into_iter().any(|event| {
        matches!(
            event,
            Event::Flow {
                what: FlowEvent::UdpOpening { .. },
                ..
            }
        )
    });
    assert!(opened, "the quiet session's flow");
}

#[test]
fn those_who_send_much_take_turns_by_bytes() {
    let mut gateway = GatewayState::new(config(), start());
    let (mut small, mut large) = pair(&mut gateway);
    for _ in 0..400 {
        queue(&mut gateway, &mut small, 200);
        queue(&mut gateway, &mut large, 1200);
    }
    for _ in 0..280 / 8 {
        assert!(gateway.handle_waiting(small.now));
    }
    let bytes = |client: &Client| {
        let session = gateway.sessions.with_client(client.v4().client).unwrap();
        gateway
            .session_status(session, client.now)
            .unwrap()
            .received_bytes
    };
    let (small, large) = (bytes(&small), bytes(&large));
    // But for what sealing adds to each.
    assert!(small.abs_diff(large) < large / 4, "{small} and {large}");
}

#[test]
fn who_sends_too_much_loses_and_nobody_else() {
    let mut gateway = GatewayState::new(config(), start());
    let (mut quiet, mut noisy) = pair(&mut gateway);
    queue(&mut gateway, &mut quiet, 100);
    for _ in 0..5000 {
        queue(&mut gateway, &mut noisy, 1200);
    }
    let dropped = drops(&gateway, DropReason::Overloaded);
    assert!(dropped > 1000, "{dropped}");
    // What waited for long is still good.
    let later = noisy.now + Duration::from_secs(1);
    while gateway.handle_waiting(later) {}
    assert_eq!(received(&gateway), 5001 - dropped);
    let session = gateway.sessions.with_client(quiet.v4().client).unwrap();
    let status = gateway.session_status(session, later).unwrap();
    assert!(status.received_bytes > 0);
    assert!(!gateway.has_waiting());
}

#[test]
fn a_session_that_ended_is_forgotten() {
    let mut gateway = GatewayState::new(config(), start());
    let (mut quiet, _) = pair(&mut gateway);
    queue(&mut gateway, &mut quiet, 100);
    gateway.handle_timeout(quiet.now + super::LEASE);
    assert!(gateway.has_waiting());
    assert!(!gateway.handle_waiting(quiet.now + super::LEASE));
    queue(&mut gateway, &mut quiet, 100);
    assert!(!gateway.has_waiting());
    assert_eq!(drops(&gateway, DropReason::UnknownSession), 1);
}
