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
    // Each sender waits for its pacing once a millisecond at most.
    let millis = (pair.now - pair.start).as_millis() as u64;
    assert!(pair.wakes < 100 + 2 * millis, "{} in {millis}", pair.wakes);
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

/// Super-packets on the link: each is one packet there, and several segments for who counts them.
#[test]
fn super_packets() {
    for loss in [0, 20] {
        let quality = Quality {
            loss,
            ..Quality::delayed(5)
        };
        let mut pair = Pair::new(quality, 12);
        pair.supers = true;
        pair.open(1000, Script::both_ways(1, 3_000_000, 2_000_000));
        pair.run_until(PATIENCE, Pair::all_ended);
        pair.assert_all_closed();
    }
}

/// The path turns out narrower, or wider, while flows use it.
#[test]
fn the_mtu_changes() {
    let wide = kvpn_netstack::Config {
        mtu: 1420,
        ..config(1)
    };
    let mut pair = Pair::with([wide.clone(), wide], Quality::delayed(5), 13);
    pair.open(1000, Script::both_ways(1, 3_000_000, 3_000_000));
    for mtu in [1280, 1420, 1360, 9000] {
        pair.run_for(Duration::from_millis(60));
        for side in [CLIENT, SERVER] {
            pair.stacks[side].set_mtu(mtu);
            pair.mtus[side] = mtu.min(1420);
        }
    }
    pair.run_until(PATIENCE, Pair::all_ended);
    pair.assert_all_closed();
}

/// Readers that stop fill the memory, and no more than that; when they go on, everything comes.
#[test]
fn memory_has_a_bound() {
    const FLOWS: usize = 50;
    const BUDGET: usize = 1 << 20;
    let small = kvpn_netstack::Config {
        memory: BUDGET,
        ..kvpn_netstack::Config::default()
    };
    let mut pair = Pair::with([small.clone(), small], Quality::delayed(5), 14);
    pair.reluctance = 1000;
    for port in 1000..1000 + FLOWS as u16 {
        pair.open(port, Script::both_ways(u64::from(port), 400_000, 400_000));
    }
    let mut most = 0;
    while !pair.all_ended() {
        pair.run_for(Duration::from_millis(20));
        most = most
            .max(pair.stacks[SERVER].memory_used())
            .max(pair.stacks[CLIENT].memory_used());
        assert!(pair.now - pair.start < PATIENCE);
    }
    pair.assert_all_closed();
    assert!(most > BUDGET / 2, "{most}");
    let floor = FLOWS * 2 * 16 * 1024;
    assert!(most <= BUDGET + floor + (2 << 20) + (128 << 10), "{most}");
}

/// Goodput on a path that loses at random is at least what the average window allows that RFC 9438 (sections 4.3 and 5.1) derives for CUBIC.
#[test]
fn as_fast_as_cubic_may_be() {
    const BYTES: usize = 64 << 20;
    for (loss, bytes) in [(1, BYTES), (10, BYTES / 4)] {
        let p = loss as f64 / 1000.0;
        let cubic = 1.054 * (0.020_f64 / p).powf(0.75);
        let reno = (0.529 * 1.7 / (2.0 * 0.3 * p)).sqrt();
        let expected = cubic.max(reno) * 1320.0 * 8.0 / 0.020 / 1e6;
        let quality = Quality {
            loss,
            ..Quality::delayed(10)
        };
        let configs = [1, 2].map(|seed| kvpn_netstack::Config {
            seed,
            ..kvpn_netstack::Config::default()
        });
        let mut pair = Pair::with(configs, quality, 5);
        pair.open(1000, Script::both_ways(1, bytes, 0));
        pair.run_until(Duration::from_secs(1000), Pair::all_ended);
        pair.assert_all_closed();
        let rate = bytes as f64 * 8.0 / 1e6 / (pair.now - pair.start).as_secs_f64();
        assert!(
            rate >= expected,
            "{rate:.1} Mbit/s, not {expected:.1}, at {loss}/1000"
        );
    }
}

/// Both ends open the same flow at once (RFC 9293 section 3.5, figure 8).
#[test]
fn opened_by_both() {
    let mut pair = Pair::new(Quality::delayed(5), 15);
    let [client, server] = Script::both_ways(1, 50_000, 50_000);
    pair.open(1000, [client, server]);
    let flow = pair.stacks[SERVER]
        .tcp_connect(crate::pair::server_addr(), client_addr(1000), pair.now)
        .unwrap();
    pair.programs[SERVER].insert(flow, crate::pair::Program::new(flow, server));
    pair.run_until(PATIENCE, Pair::all_ended);
    pair.assert_all_closed();
}

/// A link that reorders a lot, and loses nothing, is not taken for one that loses.
#[test]
fn reordering_is_not_loss() {
    let quality = Quality {
        jitter: Duration::from_millis(4),
        ..Quality::delayed(10)
    };
    let mut pair = Pair::with(
        [config(1), config(2)].map(|config| kvpn_netstack::Config {
            tcp_buffer: 4 << 20,
            ..config
        }),
        quality,
        16,
    );
    pair.open(1000, Script::both_ways(1, 20_000_000, 0));
    pair.run_until(PATIENCE, Pair::all_ended);
    pair.assert_all_closed();
    let seconds = (pair.now - pair.start).as_secs_f64();
    assert!(seconds < 3.0, "{seconds} s for 20 MB");
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

    /// As above, with readers that stop, little memory, links that carry super-packets, several flows, other MTUs.
    #[test]
    fn bad_links_and_little_room(
        seed in 1..u64::MAX / 4,
        loss in 0..50_u64,
        duplication in 0..50_u64,
        millis in (0..40_u64, 0..10_u64),
        buffer in 4096..400_000_usize,
        memory in 0..400_000_usize,
        reluctance in 0..600_u64,
        mtus in prop::array::uniform2(1280..3000_usize),
        supers: bool,
        flows in 1..4_u16,
    ) {
        let quality = Quality {
            delay: Duration::from_millis(millis.0),
            jitter: Duration::from_millis(millis.1),
            loss,
            duplication,
            ..Quality::PERFECT
        };
        let configs = mtus.map(|mtu| kvpn_netstack::Config {
            mtu,
            tcp_buffer: buffer,
            memory,
            seed: seed ^ mtu as u64,
            ..kvpn_netstack::Config::default()
        });
        let mut pair = Pair::with(configs, quality, seed);
        (pair.supers, pair.reluctance) = (supers, reluctance);
        for flow in 0..flows {
            pair.open(1000 + flow, Script::both_ways(seed + u64::from(flow), 70_000, 50_000));
        }
        pair.run_until(PATIENCE, Pair::all_ended);
        pair.assert_all_closed();
        // Seven timeouts in a row, each twice as long as the one before, are one in a billion.
        prop_assert!(pair.longest_pause < Duration::from_secs(26), "{:?}", pair.longest_pause);
    }
}
