//! What an idle flow costs. In a process of its own, because it looks at the process's memory.

#![expect(
    clippy::unwrap_used,
    reason = "the whole crate is tests; lints make exceptions only for the functions marked as such"
)]

use std::net::SocketAddr;
use std::time::Instant;

use kvpn_netstack::{Config, Event, Netstack};

const FLOWS: u16 = 10_000;
/// Bytes of an established flow that does nothing.
const MOST: usize = 4096;

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn carry(from: &mut Netstack, to: &mut Netstack, now: Instant) -> bool {
    let mut any = false;
    while let Some(packet) = from.poll_segment() {
        to.handle_packet(packet, now);
        any = true;
    }
    any
}

/// Answers all that happens at one end with a few bytes, once.
fn answer(stack: &mut Netstack, now: Instant) {
    while let Some(event) = stack.poll_event() {
        match event {
            Event::TcpOpening { flow, .. } => stack.tcp_accept(flow, now),
            Event::TcpConnected { flow } => assert_eq!(stack.tcp_send(flow, &[1; 2000], now), 2000),
            Event::TcpReadable { flow } => {
                assert_eq!(stack.tcp_recv(flow, &mut [0; 4000], now), 2000)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn an_idle_flow_is_small() {
    let now = Instant::now();
    let config = Config {
        max_flows: 20_000,
        ..Config::default()
    };
    let mut stacks = [1, 2].map(|seed| {
        Netstack::new(
            Config {
                seed,
                ..config.clone()
            },
            now,
        )
    });
    let before = resident();
    let [client, server] = &mut stacks;
    for port in 0..FLOWS {
        let src = SocketAddr::from(([198, 19, 0, 2], 10_000 + port));
        client
            .tcp_connect(src, SocketAddr::from(([10, 96, 0, 10], 80)), now)
            .unwrap();
        while carry(client, server, now) | carry(server, client, now) {
            answer(client, now);
            answer(server, now);
        }
    }
    let each = (resident() - before) / (2 * usize::from(FLOWS));
    assert_eq!(
        (client.flows().tcp, server.flows().tcp),
        (FLOWS.into(), FLOWS.into())
    );
    assert!(each <= MOST, "{each} bytes");
}
