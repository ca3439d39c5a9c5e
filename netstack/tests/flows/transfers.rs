//! Bytes: exact both ways over bad links, half closes, many flows at once.

use std::time::Duration;

use kvpn_netstack::Event;
use proptest::prelude::*;

use crate::link::{Link, Quality};
use crate::pair::{CLIENT, Pair, SERVER, Script, client_addr, config};

const PATIENCE: Duration = Duration::from_secs(600);

#[test]
fn both_ways_at_once() {
    let mut pair = Pair::new(Quality::delayed(5), 1);
    pair.open(1000, Script::both_ways(1, 3_000_000, 2_000_000));
    pair.run_until(PATIENCE, Pair::all_ended);
    pair.assert_all_closed();
    assert!(pair.wakes < 100, "{} wake-ups", pair.wakes);
}

#[test]
fn nothing_but_finishing() {
    let mut pair = Pair::new(Quality::delayed(5), 2);
    pair.open(1000, Script::both_ways(1, 0, 0));
    pair.run_until(PATIENCE, Pair::all_ended);
    pair.assert_all_closed();
}

#[test]
fn ipv6() {
    let mut pair = Pair::new(Quality::delayed(5), 3);
    let [client, server] = Script::both_ways(9, 300_000, 300_000);
    let (src, dst) = (
        "[fd6b:7670:6e00::2]:4000".parse().unwrap(),
        "[fd00::1]:80".parse().unwrap(),
    );
    pair.servers.insert(4000, server);
    let flow = pair.stacks[CLIENT].tcp_connect(src, dst, pair.now).unwrap();
    pair.programs[CLIENT].insert(flow, crate::pair::Program::new(flow, client));
    pair.run_until(PATIENCE, Pair::all_ended);
    pair.assert_all_closed();
}

/// A client that finishes at once and gets its answer afterwards, as `nc -N` and HTTP/1.0 do.
#[test]
fn half_closed_by_the_client() {
    let mut pair = Pair::new(Quality::delayed(5), 4);
    let [client, server] = Script::both_ways(1, 100_000, 500_000);
    let server = Script {
        finish_last: true,
        send: server.send,
        ..server
    };
    pair.open(1000, [client, server]);
    pair.run_until(PATIENCE, Pair::all_ended);
    pair.assert_all_closed();
}

#[test]
fn half_closed_by_the_server() {
    let mut pair = Pair::new(Quality::delayed(5), 5);
    let [client, server] = Script::both_ways(1, 500_000, 100_000);
    pair.open(
        1000,
        [
            Script {
                finish_last: true,
                ..client
            },
            server,
        ],
    );
    pair.run_until(PATIENCE, Pair::all_ended);
    pair.assert_all_closed();
}

/// An answer that comes an hour after the question was finished.
#[test]
fn half_closed_for_long() {
    let mut pair = Pair::new(Quality::delayed(5), 6);
    let [client, mut server] = Script::both_ways(1, 10, 10);
    let late = server.send;
    server.send.len = 0;
    server.finish_last = true;
    pair.open(
        1000,
        [
            client,
            Script {
                finish_last: true,
                ..server
            },
        ],
    );
    pair.programs[SERVER].clear();
    pair.servers.clear();
    pair.run_for(Duration::from_secs(1));
    let Some(&Event::TcpOpening { flow, .. }) = pair.others[SERVER].first() else {
        panic!("no opening: {:?}", pair.others);
    };
    pair.stacks[SERVER].tcp_accept(flow, pair.now);
    pair.run_for(Duration::from_secs(3600));
    let bytes: Vec<u8> = (0..late.len).map(|at| late.byte(at)).collect();
    assert_eq!(
        pair.stacks[SERVER].tcp_send(flow, &bytes, pair.now),
        bytes.len()
    );
    let mut buf = [0; 20];
    assert_eq!(pair.stacks[SERVER].tcp_recv(flow, &mut buf, pair.now), 10);
    pair.stacks[SERVER].tcp_finish(flow, pair.now);
    pair.run_for(Duration::from_secs(1));
    let program = pair.programs[CLIENT].values().next().unwrap();
    assert!(
        matches!(program.end, Some(Event::TcpClosed { .. })),
        "{program:?}"
    );
    assert_eq!(pair.others[SERVER].last(), Some(&Event::TcpClosed { flow }));
}

#[test]
fn a_thousand_flows() {
    let mut pair = Pair::new(Quality::delayed(10), 7);
    for port in 1000..2000 {
        pair.open(port, Script::both_ways(u64::from(port), 20_000, 30_000));
    }
    assert_eq!(pair.stacks[CLIENT].flows().tcp, 1000);
    pair.run_until(PATIENCE, Pair::all_ended);
    pair.assert_all_closed();
}

/// A reader that stops reading closes the window; nothing is lost when it goes on.
#[test]
fn a_slow_reader() {
    let mut pair = Pair::new(Quality::delayed(5), 8);
    pair.open(1000, Script::both_ways(1, 500_000, 0));
    let server = pair.servers.remove(&1000).unwrap();
    pair.run_for(Duration::from_secs(1));
    let flow = pair.others[SERVER][0].flow();
    pair.stacks[SERVER].tcp_accept(flow, pair.now);
    pair.run_for(Duration::from_secs(600));
    assert!(pair.stacks[SERVER].tcp_recv_ready(flow) >= config(0).tcp_buffer - 1);
    let mut received = 0;
    let mut buf = [0; 1000];
    while received < 500_000 {
        let len = pair.stacks[SERVER].tcp_recv(flow, &mut buf, pair.now);
        for (offset, &byte) in buf[..len].iter().enumerate() {
            assert_eq!(byte, server.expect.byte(received + offset));
        }
        received += len;
        if len == 0 {
            pair.run_for(Duration::from_millis(50));
            assert!(pair.now - pair.start < 2 * PATIENCE, "stuck at {received}");
        }
    }
    pair.stacks[SERVER].tcp_finish(flow, pair.now);
    pair.run_for(Duration::from_secs(10));
    assert!(matches!(
        pair.programs[CLIENT].values().next().unwrap().end,
        Some(Event::TcpClosed { .. })
    ));
}

/// What was received before the end can be read long after both sides finished.
#[test]
fn read_after_everything_ended() {
    let mut pair = Pair::new(Quality::delayed(5), 9);
    pair.open(1000, Script::both_ways(1, 30_000, 0));
    pair.servers.clear();
    pair.run_for(Duration::from_secs(1));
    let flow = pair.others[SERVER][0].flow();
    pair.stacks[SERVER].tcp_accept(flow, pair.now);
    pair.stacks[SERVER].tcp_finish(flow, pair.now);
    pair.run_for(Duration::from_secs(300));
    assert_eq!(pair.stacks[SERVER].tcp_recv_ready(flow), 30_000);
    let mut buf = vec![0; 40_000];
    assert_eq!(
        pair.stacks[SERVER].tcp_recv(flow, &mut buf, pair.now),
        30_000
    );
    pair.run_for(Duration::from_secs(1));
    assert!(
        pair.others[SERVER]
            .ends_with(&[Event::TcpPeerFinished { flow }, Event::TcpClosed { flow }])
    );
}

/// The last segment is lost, and nothing behind it tells: it is repeated after some round trips, not after a second.
#[test]
fn a_lost_tail_is_soon_repaired() {
    let mut pair = Pair::new(Quality::delayed(5), 11);
    let [client, server] = Script::both_ways(1, 5000, 5000);
    let flow = pair.open(
        1000,
        [
            Script {
                finish_last: true,
                ..client
            },
            Script {
                finish_last: true,
                ..server
            },
        ],
    );
    pair.run_for(Duration::from_secs(1));
    let received = |pair: &Pair| pair.programs[SERVER].values().next().unwrap().received;
    assert_eq!(received(&pair), 5000);
    pair.programs[SERVER]
        .values_mut()
        .next()
        .unwrap()
        .script
        .expect
        .len = 5100;
    let bytes: Vec<u8> = (5000..5100).map(|at| client.send.byte(at)).collect();
    let good = std::mem::replace(
        &mut pair.links[SERVER],
        Link::new(
            Quality {
                loss: 1000,
                ..Quality::PERFECT
            },
            1,
        ),
    );
    assert_eq!(pair.stacks[CLIENT].tcp_send(flow, &bytes, pair.now), 100);
    pair.run_for(Duration::from_millis(1));
    assert_eq!(pair.links[SERVER].lost, 1);
    pair.links[SERVER] = good;
    pair.run_for(Duration::from_millis(150));
    assert_eq!(received(&pair), 5100);
}

#[test]
fn the_same_ports_again_at_once() {
    let mut pair = Pair::new(Quality::delayed(5), 10);
    for round in 0..20 {
        let [client, server] = Script::both_ways(round, 1000, 1000);
        let (first, last) = if round % 2 == 0 {
            (false, true)
        } else {
            (true, false)
        };
        pair.open(
            1000,
            [
                Script {
                    finish_last: first,
                    ..client
                },
                Script {
                    finish_last: last,
                    ..server
                },
            ],
        );
        pair.run_until(Duration::from_secs(20), Pair::all_ended);
        pair.assert_all_closed();
        pair.programs
            .iter_mut()
            .for_each(std::collections::BTreeMap::clear);
    }
}

proptest! {
    /// Loss, repetition and reordering change nothing but the time it takes.
    #[test]
    fn bad_links(
        seed in 1..u64::MAX / 4,
        loss in 0..100_u64,
        duplication in 0..100_u64,
        delay in 0..50_u64,
        jitter in 0..20_u64,
        up in 0..200_000_usize,
        down in 0..200_000_usize,
        last in 0..3_u8,
        read in 1..20_000_usize,
    ) {
        let quality = Quality {
            delay: Duration::from_millis(delay),
            jitter: Duration::from_millis(jitter),
            loss,
            duplication,
            ..Quality::PERFECT
        };
        let mut pair = Pair::new(quality, seed);
        let [client, server] = Script::both_ways(seed, up, down);
        let client = Script { finish_last: last == 1, read, ..client };
        let server = Script { finish_last: last == 2, read, ..server };
        pair.open(client_addr(1000).port(), [client, server]);
        pair.run_until(PATIENCE, Pair::all_ended);
        pair.assert_all_closed();
    }
}
