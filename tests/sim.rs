//! The client's core and the gateway's core, joined by links that misbehave, on a clock that jumps. No sockets, no threads:
//! a run takes milliseconds and can be repeated from its seed.

#[path = "support/sim.rs"]
mod sim;

use std::time::Duration;

use kvpn_client_core::{Event, Path};

use sim::cluster::{CLOSED, ECHO, SINK};
use sim::exposed::{EXPOSED, ports};
use sim::link::{Link, Udp};
use sim::{Candidate, Leads, NODE, Setup, Sim, node};

const SECOND: Duration = Duration::from_secs(1);

fn rough() -> Udp {
    Udp::both(Link {
        latency: Duration::from_millis(20),
        jitter: Duration::from_millis(10),
        loss: 3,
        repeated: 2,
        max_len: 1472,
        rate: None,
        cut: false,
    })
}

fn established(sim: &Sim) -> bool {
    sim.client.status(sim.now).established
}

#[track_caller]
fn assert_transfer(sim: &mut Sim, len: usize, limit: Duration) -> Duration {
    let flow = sim.programs.transfer(ECHO, len, sim.now);
    sim.settle();
    let took = sim.run_until(limit, "transfer", |sim| {
        sim.programs.transferred(flow).finished
    });
    assert!(!sim.programs.transferred(flow).reset);
    took
}

#[test]
fn handshake_survives_loss() {
    for seed in 0..20 {
        let mut setup = Setup::udp_only(seed);
        setup.udp.to_gateway.loss = 30;
        setup.udp.to_client.loss = 30;
        let mut sim = Sim::new(setup);
        sim.run_until(30 * SECOND, "handshake", established);
    }
}

/// Two round trips: the handshake, and what a program then asks.
#[test]
fn the_first_handshake_over_udp_does_not_wait_for_candidates_that_are_dead() {
    let addresses = [
        "203.0.113.1:1",
        "203.0.113.2:1",
        "203.0.113.3:1",
        "203.0.113.4:1",
        NODE,
    ];
    for place in 0..addresses.len() {
        for others in [Leads::Nowhere, Leads::ThereAndBack] {
            let mut setup = Setup::udp_only(30);
            let leads = |i| {
                if i == place {
                    Leads::ThereAndBack
                } else {
                    others
                }
            };
            setup.candidates = (addresses.iter().enumerate())
                .map(|(i, address)| Candidate::new(address, leads(i)))
                .collect();
            let rtt = 2 * setup.udp.to_client.latency;
            let mut sim = Sim::new(setup);
            sim.programs.send_udp(ECHO, b"hello");
            sim.settle();
            let took = sim.run_until(SECOND, "an answer", |sim| {
                !sim.programs.datagrams.is_empty()
            });
            assert!(
                took <= 2 * rtt,
                "{took:?}, the candidate {place} among {others:?}"
            );
        }
    }
}

#[test]
fn candidates_that_swallow_handshakes_do_not_keep_the_one_that_works_from_its_turn() {
    let addresses = ["203.0.113.1:1", "203.0.113.2:1", NODE, "203.0.113.4:1"];
    for place in 0..addresses.len() {
        let mut setup = Setup::udp_only(31);
        setup.candidates = (addresses.iter().enumerate())
            .map(|(i, address)| {
                let leads = if i == place {
                    Leads::ThereAndBack
                } else {
                    Leads::There
                };
                Candidate::new(address, leads)
            })
            .collect();
        let mut sim = Sim::new(setup);
        sim.run_until(15 * SECOND, "handshake", established);
    }
}

#[test]
fn both_carriers_move_a_stream_through_the_userspace_datapath() {
    for setup in [Setup::api_only(1), Setup::udp_only(1), Setup::new(1)] {
        let mut sim = Sim::new(setup);
        assert_transfer(&mut sim, 2_000_000, 60 * SECOND);
        assert_eq!(sim.programs.unasked, 0);
    }
}

#[test]
fn a_stream_survives_loss_reordering_and_repetition() {
    for seed in 0..8 {
        let mut sim = Sim::new(Setup {
            udp: rough(),
            ..Setup::udp_only(seed)
        });
        assert_transfer(&mut sim, 300_000, 120 * SECOND);
    }
}

#[test]
fn many_connections_at_once() {
    let mut sim = Sim::new(Setup::new(3));
    sim.run(SECOND);
    let flows: Vec<_> = (0..200)
        .map(|_| sim.programs.transfer(ECHO, 5_000, sim.now))
        .collect();
    sim.settle();
    sim.run_until(30 * SECOND, "transfers", |sim| {
        flows
            .iter()
            .all(|flow| sim.programs.transferred(*flow).finished)
    });
}

#[test]
fn a_closed_port_is_refused_as_such_and_at_once() {
    let mut sim = Sim::new(Setup::new(4));
    sim.run(SECOND);
    let flow = sim.programs.transfer(CLOSED, 10, sim.now);
    sim.settle();
    let took = sim.run_until(SECOND, "refusal", |sim| {
        sim.programs.transferred(flow).reset
    });
    assert!(took < Duration::from_millis(50), "{took:?}");
    assert!(!sim.programs.transferred(flow).connected);
}

#[test]
fn callers_reach_an_exposed_port_and_no_other() {
    for setup in [
        Setup::api_only(1),
        Setup {
            udp: rough(),
            ..Setup::udp_only(2)
        },
    ] {
        let mut sim = Sim::new(setup);
        sim.client.set_exposed(ports());
        sim.programs.send_udp(ECHO, b"hello");
        sim.settle();
        sim.run(2 * SECOND);
        let calls: Vec<_> = (0..20).map(|_| sim.call(EXPOSED, 50_000)).collect();
        let wrong = sim.call(EXPOSED + 1, 10);
        sim.run_until(60 * SECOND, "answers", |sim| {
            let calls = calls.iter().map(|flow| &sim.cluster.callers.calls[flow]);
            calls.map(|call| call.received).all(|len| len == 50_000)
        });
        // Nobody says what is not exposed: to the gateway it looks like a laptop without that port.
        let call = &sim.cluster.callers.calls[&wrong];
        assert_eq!(call.received, 0);
    }
}

#[test]
fn a_laptop_that_exposes_something_is_heard_each_second() {
    let mut sim = Sim::new(Setup::new(3));
    sim.client.set_exposed(ports());
    sim.programs.send_udp(ECHO, b"hello");
    sim.settle();
    sim.run(2 * SECOND);
    let session = sim.cluster.session().expect("a program has a flow");
    for _ in 0..60 {
        sim.run(SECOND);
        let ago = sim.gateway.heard_ago(session, sim.now);
        assert!(ago.is_some_and(|ago| ago < 2 * SECOND), "{ago:?}");
    }
    sim.setup.udp.cut(true);
    sim.setup.api.cut = true;
    sim.run(5 * SECOND);
    let ago = sim.gateway.heard_ago(session, sim.now);
    assert!(ago.is_some_and(|ago| ago >= 5 * SECOND), "{ago:?}");
}

#[test]
fn datagrams_and_pings_come_back() {
    let mut sim = Sim::new(Setup::new(5));
    sim.run(SECOND);
    sim.programs.send_udp(ECHO, b"hello");
    sim.programs.ping("10.96.0.7", 3);
    sim.settle();
    sim.run(SECOND);
    assert_eq!(sim.programs.datagrams, [b"hello"]);
    assert_eq!(sim.programs.pings, [3]);
}

/// Programs see the cluster's 10.96.0.0/12 as 100.64.0.0/12.
fn mapped(setup: Setup) -> Sim {
    let shown = Some("100.64.0.0/12");
    let mut sim = Sim::new(Setup { shown, ..setup });
    sim.run(SECOND);
    sim
}

#[test]
fn a_cluster_in_a_virtual_range_is_reached_by_every_protocol() {
    for setup in [
        Setup::api_only(11),
        Setup {
            udp: rough(),
            ..Setup::udp_only(12)
        },
    ] {
        let mut sim = mapped(setup);
        let flows: Vec<_> = (0..5)
            .map(|_| sim.programs.transfer("100.64.0.7:7", 200_000, sim.now))
            .collect();
        let refused = sim.programs.transfer("100.64.0.7:81", 10, sim.now);
        let real = sim.programs.transfer(ECHO, 10, sim.now);
        sim.settle();
        sim.run_until(120 * SECOND, "transfers", |sim| {
            let mut flows = flows.iter().map(|flow| sim.programs.transferred(*flow));
            flows.all(|flow| flow.finished) && sim.programs.transferred(refused).reset
        });
        assert!(!sim.programs.transferred(refused).connected);
        assert!(
            !sim.programs.transferred(real).connected,
            "another session's"
        );
    }
}

#[test]
fn datagrams_pings_and_names_of_a_virtual_range_come_back() {
    let mut sim = mapped(Setup::new(13));
    sim.programs.send_udp("100.64.0.7:7", b"hello");
    sim.programs.send_udp(ECHO, b"lost");
    sim.programs.ping("100.64.0.7", 3);
    sim.programs.ask("echo.default", 1);
    sim.settle();
    sim.run(SECOND);
    assert_eq!(sim.programs.datagrams, [b"hello"]);
    assert_eq!(sim.programs.pings, [3]);
    assert!(sim.programs.answers[0].ends_with(&[100, 64, 0, 7]));
    assert_eq!(sim.client.status(sim.now).drops["tun_has_virtual"], 1);
}

#[test]
fn a_new_gateway_resets_connections_to_a_virtual_range() {
    let mut sim = mapped(Setup::new(14));
    let flow = sim.programs.transfer("100.64.0.7:7", 0, sim.now);
    sim.settle();
    sim.run_until(SECOND, "connection", |sim| {
        sim.programs.transferred(flow).connected
    });
    sim.restart_gateway();
    sim.new_session();
    sim.run_until(10 * SECOND, "reset", |sim| {
        sim.programs.transferred(flow).reset
    });
}

#[test]
fn names_resolve_whatever_is_lost() {
    for seed in 0..10 {
        let mut sim = Sim::new(Setup {
            udp: rough(),
            ..Setup::udp_only(seed)
        });
        sim.run(10 * SECOND);
        for (id, name) in (1..).zip([
            "echo",
            "Echo.Default",
            "echo.default.svc",
            "echo.default.svc.cluster.local",
        ]) {
            sim.programs.ask(name, id);
            sim.programs.ask("wrong.default", id + 100);
        }
        sim.settle();
        sim.run(6 * SECOND);
        assert_eq!(sim.programs.answers.len(), 8);
        for answer in &sim.programs.answers {
            let (right, code) = (answer[0] == 0 && answer[1] < 100, answer[3] & 15);
            assert_eq!(code, if right { 0 } else { 3 });
            assert_eq!(answer.ends_with(&[10, 96, 0, 7]), right);
        }
        assert!(
            sim.programs
                .answers
                .iter()
                .any(|answer| answer[12..].starts_with(b"\x04Echo\x07Default\x00"))
        );
    }
}

#[test]
fn api_comes_first_udp_takes_over_and_gives_back() {
    let mut sim = Sim::new(Setup::new(6));
    sim.run_until(SECOND, "udp", |sim| sim.path() == Some(node()));
    let flow = sim.programs.transfer(ECHO, 20_000_000, sim.now);
    sim.settle();
    sim.run_until(5 * SECOND, "a beginning", |sim| {
        sim.programs.transferred(flow).received > 100_000
    });
    sim.setup.udp.cut(true);
    let took = sim.run_until(5 * SECOND, "api", |sim| sim.path() == Some(Path::Api));
    assert!(took <= 2 * SECOND, "{took:?}");
    let before = sim.programs.transferred(flow).received;
    sim.run_until(10 * SECOND, "the same stream", |sim| {
        sim.programs.transferred(flow).received > before + 100_000
    });
    sim.setup.udp.cut(false);
    sim.run_until(60 * SECOND, "udp again", |sim| sim.path() == Some(node()));
    sim.run_until(60 * SECOND, "the whole stream", |sim| {
        sim.programs.transferred(flow).finished
    });
    assert_eq!(sim.told(&Event::Quiet), None);
}

/// The way to the gateway is 20, 80, 300 ms long there and back, and `loss` of 100 datagrams are lost each way.
fn lossy(rtt: u64, loss: u32, seed: u64) -> Setup {
    let latency = Duration::from_millis(rtt / 2);
    let mut setup = Setup::new(seed);
    setup.udp = Udp::both(Link {
        latency,
        jitter: latency / 10,
        loss,
        ..setup.udp.to_client
    });
    setup.api.latency = latency;
    setup
}

#[test]
fn a_cut_under_load_is_found_within_two_seconds_whatever_the_round_trip() {
    for rtt in [2, 20, 80, 300] {
        for seed in 0..4 {
            let mut sim = Sim::new(lossy(rtt, 0, seed));
            sim.run_until(5 * SECOND, "udp", |sim| sim.path() == Some(node()));
            let flow = sim.programs.transfer(ECHO, 50_000_000, sim.now);
            sim.settle();
            sim.run_until(60 * SECOND, "full speed", |sim| {
                sim.programs.transferred(flow).received > 5_000_000 + 137_000 * seed as usize
            });
            sim.setup.udp.cut(true);
            let took = sim.run_until(5 * SECOND, "api", |sim| sim.path() == Some(Path::Api));
            assert!(took <= 2 * SECOND, "{rtt} ms: {took:?}");
            let before = sim.programs.transferred(flow).received;
            sim.run_until(10 * SECOND, "the same stream", |sim| {
                sim.programs.transferred(flow).received > before
            });
        }
    }
}

#[test]
fn loss_alone_is_no_reason_to_leave_udp() {
    for rtt in [20, 80, 300] {
        for seed in 0..3 {
            let mut sim = Sim::new(lossy(rtt, 5, seed));
            sim.run_until(30 * SECOND, "udp", |sim| sim.path() == Some(node()));
            sim.events.clear();
            for second in 0..180u64 {
                match second / 60 {
                    // Questions and answers, then one way only, then next to nothing.
                    0 => sim.programs.send_udp(ECHO, b"hello"),
                    1 => sim.programs.send_udp(SINK, b"hello"),
                    _ if second % 20 == 0 => sim.programs.send_udp(SINK, b"hello"),
                    _ => {}
                }
                sim.settle();
                sim.run(SECOND / 2);
                sim.programs
                    .send_udp(if second < 60 { ECHO } else { SINK }, b"again");
                sim.settle();
                sim.run(SECOND / 2);
            }
            assert_eq!(sim.events, [], "{rtt} ms, seed {seed}");
            assert!(sim.cluster.swallowed > 100, "{}", sim.cluster.swallowed);
        }
    }
}

#[test]
fn a_flow_that_is_not_answered_costs_little_more_than_a_probe_a_second() {
    let mut sim = Sim::new(Setup::new(32));
    sim.run(5 * SECOND);
    sim.trace.clear();
    for _ in 0..1000 {
        sim.programs.send_udp(SINK, b"a report");
        sim.settle();
        sim.run(Duration::from_millis(20));
    }
    let answers = sim.trace.iter().filter(|sent| !sent.to_gateway).count();
    assert!((15..=30).contains(&answers), "{answers} in 20 s");
}

#[test]
fn udp_that_only_works_one_way_is_not_taken() {
    for to_gateway in [false, true] {
        let mut setup = Setup::new(7);
        setup.udp.to_gateway.cut = !to_gateway;
        setup.udp.to_client.cut = to_gateway;
        let mut sim = Sim::new(setup);
        for _ in 0..30 {
            sim.run(2 * SECOND);
            sim.programs.send_udp(ECHO, b"hello");
            sim.settle();
        }
        sim.run(5 * SECOND);
        assert_eq!(sim.path(), Some(Path::Api));
        assert!(
            sim.programs.datagrams.len() >= 28,
            "{} of 30",
            sim.programs.datagrams.len()
        );
    }
}

#[test]
fn udp_that_loses_long_datagrams_is_not_taken() {
    let mut setup = Setup::new(8);
    setup.udp = Udp::both(Link {
        max_len: 1200,
        ..setup.udp.to_client
    });
    let mut sim = Sim::new(setup);
    assert_transfer(&mut sim, 1_000_000, 60 * SECOND);
    assert_eq!(sim.path(), Some(Path::Api));
}

#[test]
fn a_nat_that_changes_its_mind_is_not_noticed() {
    let mut sim = Sim::new(Setup::udp_only(9));
    let flow = sim.programs.transfer(ECHO, 10_000_000, sim.now);
    sim.settle();
    sim.run_until(5 * SECOND, "a beginning", |sim| {
        sim.programs.transferred(flow).received > 100_000
    });
    for port in 50_000..50_005 {
        sim.nat.set_port(port);
        let before = sim.programs.transferred(flow).received;
        let what = "the same stream";
        sim.run_until(5 * SECOND, what, |sim| {
            sim.programs.transferred(flow).received > before + 100_000
        });
    }
    sim.run_until(60 * SECOND, "the whole stream", |sim| {
        sim.programs.transferred(flow).finished
    });
    assert!(sim.events.len() == 1, "{:?}", sim.events);
}

#[test]
fn a_lost_api_carrier_is_opened_again() {
    let mut sim = Sim::new(Setup::api_only(10));
    let flow = sim.programs.transfer(ECHO, 5_000_000, sim.now);
    sim.settle();
    sim.run_until(5 * SECOND, "a beginning", |sim| {
        sim.programs.transferred(flow).received > 100_000
    });
    sim.close_api();
    sim.run_until(60 * SECOND, "the whole stream", |sim| {
        sim.programs.transferred(flow).finished
    });
    assert_eq!(sim.told(&Event::Quiet), None);
}

#[test]
fn a_new_gateway_gets_a_new_session_with_the_same_addresses() {
    for setup in [Setup::new(11), Setup::udp_only(11), Setup::api_only(11)] {
        let mut sim = Sim::new(setup);
        sim.run(20 * SECOND);
        sim.events.clear();
        sim.restart_gateway();
        let took = sim.run_until(15 * SECOND, "quiet", |sim| {
            sim.told(&Event::Quiet).is_some()
        });
        assert!(took <= 15 * SECOND, "{took:?}");
        sim.new_session();
        sim.run_until(SECOND, "a new session", established);
        assert_transfer(&mut sim, 100_000, 5 * SECOND);
    }
}

#[test]
fn ten_minutes_of_rekeying_lose_nothing() {
    for setup in [Setup::new(12), Setup::udp_only(12), Setup::api_only(12)] {
        let mut sim = Sim::new(setup);
        sim.run(SECOND);
        for n in 0..600u32 {
            sim.programs.send_udp(ECHO, &n.to_be_bytes());
            sim.settle();
            sim.run(SECOND);
        }
        let expected: Vec<Vec<u8>> = (0..600u32).map(|n| n.to_be_bytes().to_vec()).collect();
        assert_eq!(sim.programs.datagrams, expected);
        let initiations = sim
            .trace
            .iter()
            .filter(|sent| sent.to_gateway && sent.len == 148)
            .count();
        assert!((5..=9).contains(&initiations), "{initiations}");
    }
}

#[test]
fn an_idle_hour_keeps_the_session() {
    let mut sim = Sim::new(Setup::new(13));
    sim.run(SECOND);
    sim.events.clear();
    sim.run(800 * SECOND);
    assert_eq!(sim.events, []);
    assert_transfer(&mut sim, 10_000, SECOND);
}

#[test]
fn forged_and_repeated_datagrams_change_nothing() {
    let mut sim = Sim::new(Setup::udp_only(14));
    let flow = sim.programs.transfer(ECHO, 2_000_000, sim.now);
    sim.settle();
    for round in 0..50u8 {
        sim.run(Duration::from_millis(20));
        let overheard: Vec<Vec<u8>> = sim
            .overheard
            .iter()
            .rev()
            .take(20)
            .map(|(_, bytes)| bytes.clone())
            .collect();
        for mut datagram in overheard {
            sim.attack_gateway("192.0.2.66:666", &datagram);
            sim.attack_client(&datagram);
            let at = usize::from(round) * 7 % datagram.len();
            datagram[at] ^= 1 << (round % 8);
            sim.attack_gateway("192.0.2.66:666", &datagram);
            sim.attack_client(&datagram);
        }
    }
    sim.run_until(60 * SECOND, "the whole stream", |sim| {
        sim.programs.transferred(flow).finished
    });
    assert_eq!(sim.events.len(), 1, "{:?}", sim.events);
    assert_eq!(sim.programs.unasked, 0);
}

#[test]
fn a_black_hole_is_noticed_within_15_seconds() {
    for setup in [Setup::new(15), Setup::udp_only(15), Setup::api_only(15)] {
        for busy in [false, true] {
            let mut sim = Sim::new(setup.clone());
            sim.run(30 * SECOND);
            sim.setup.udp.cut(true);
            sim.setup.api.cut = true;
            if busy {
                sim.programs.send_udp(ECHO, b"anybody there?");
                sim.settle();
            }
            sim.run_until(15 * SECOND, "quiet", |sim| {
                sim.told(&Event::Quiet).is_some()
            });
            sim.setup.udp.cut(false);
            sim.setup.api.cut = false;
            sim.run_until(35 * SECOND, "the old session", established_again);
            assert_transfer(&mut sim, 10_000, 10 * SECOND);
        }
    }
}

/// What programs send last while nothing works, they get answered when it does again; with a new gateway too.
#[test]
fn the_newest_packets_survive_a_recovery() {
    for (setup, replaced) in [
        (Setup::new(33), false),
        (Setup::udp_only(33), false),
        (Setup::new(34), true),
        (Setup::udp_only(34), true),
    ] {
        let mut sim = Sim::new(setup);
        sim.run(20 * SECOND);
        sim.setup.udp.cut(true);
        sim.setup.api.cut = true;
        sim.run_until(15 * SECOND, "quiet", |sim| {
            sim.told(&Event::Quiet).is_some()
        });
        for n in 0..200u32 {
            sim.programs.send_udp(ECHO, &n.to_be_bytes());
            sim.settle();
            sim.run(Duration::from_millis(10));
        }
        assert_eq!(sim.programs.datagrams.len(), 0);
        sim.setup.udp.cut(false);
        sim.setup.api.cut = false;
        if replaced {
            sim.restart_gateway();
            sim.new_session();
        }
        let took = sim.run_until(10 * SECOND, "the newest", |sim| {
            sim.programs.datagrams.last() == Some(&199u32.to_be_bytes().to_vec())
        });
        assert!(took <= 3 * SECOND, "{took:?}");
        let answered = sim.programs.datagrams.len();
        assert!((32..=64).contains(&answered), "{answered}");
    }
}

fn established_again(sim: &Sim) -> bool {
    sim.events.iter().rev().find_map(|(_, event)| match event {
        Event::Established { .. } => Some(true),
        Event::Quiet => Some(false),
        _ => None,
    }) == Some(true)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut sim = Sim::new(Setup {
            udp: rough(),
            ..Setup::new(seed)
        });
        let flow = sim.programs.transfer(ECHO, 200_000, sim.now);
        sim.programs.ask("echo", 1);
        sim.settle();
        sim.run(20 * SECOND);
        sim.setup.udp.cut(true);
        sim.run(20 * SECOND);
        assert!(sim.programs.transferred(flow).finished);
        (sim.trace, sim.events)
    };
    let (trace, events) = run(16);
    assert!(trace.len() > 300);
    assert_eq!(run(16), (trace.clone(), events));
    assert_ne!(run(17).0, trace);
}

#[test]
fn a_transfer_that_fills_the_stream_leaves_others_fast() {
    // 10 to 400 Mbit/s, buffers without end on the way, echoed: both directions are full.
    for (rate, len) in [
        (1_250_000, 30_000_000),
        (12_500_000, 200_000_000),
        (50_000_000, 400_000_000),
    ] {
        let mut setup = Setup::api_only(5);
        setup.api.rate = Some(rate);
        let base = 2 * setup.api.latency;
        let mut sim = Sim::new(setup);
        sim.run(SECOND);
        let flow = sim.programs.transfer(ECHO, len, sim.now);
        sim.settle();
        // The first seconds are slow start's, inside and outside of the tunnel.
        sim.run(3 * SECOND);
        let mut pings: Vec<_> = (1..50)
            .map(|sequence| assert_ping(&mut sim, sequence))
            .collect();
        pings.sort_unstable();
        // The userspace datapath's own TCP sends in bursts when it recovers a loss; one of them may hold a ping up.
        let usual = pings[pings.len() * 9 / 10];
        assert!(!sim.programs.transferred(flow).reset);
        assert!(
            usual < base + Duration::from_millis(30),
            "{rate} bytes/s: {pings:?}"
        );
    }
}

#[track_caller]
fn assert_ping(sim: &mut Sim, sequence: u16) -> Duration {
    let before = sim.programs.pings.len();
    sim.programs.ping("10.96.0.7", sequence);
    sim.settle();
    let took = sim.run_until(SECOND, "ping", |sim| sim.programs.pings.len() > before);
    sim.run(Duration::from_millis(20));
    took
}

/// A path over IPv4 of so many bytes: what a UDP datagram may hold, and the packet in it, with WireGuard's 32 around it and
/// padding to 16.
fn ipv4_path(mtu: usize) -> (usize, usize) {
    (mtu - 28, ((mtu - 60) / 16 * 16).min(1440))
}

fn mtu(sim: &Sim) -> usize {
    sim.client.status(sim.now).mtu
}

fn set_width(sim: &mut Sim, to_gateway: usize, to_client: usize) {
    sim.setup.udp.to_gateway.max_len = ipv4_path(to_gateway).0;
    sim.setup.udp.to_client.max_len = ipv4_path(to_client).0;
}

#[test]
fn a_path_of_any_mtu_is_found_out_and_used() {
    for width in [1280, 1400, 1450, 1492, 1500] {
        for (to_gateway, to_client) in [(width, width), (width, 1500), (1500, width)] {
            for mut setup in [Setup::udp_only(40), Setup::new(40)] {
                setup.udp.to_gateway.max_len = ipv4_path(to_gateway).0;
                setup.udp.to_client.max_len = ipv4_path(to_client).0;
                let mut sim = Sim::new(setup);
                let fits = ipv4_path(width).1;
                sim.run_until(30 * SECOND, "the MTU", |sim| {
                    sim.path() == Some(node()) && mtu(sim) == fits
                });
                // The gateway is told.
                sim.run(SECOND);
                assert_transfer(&mut sim, 1_000_000, 20 * SECOND);
                assert_eq!((mtu(&sim), sim.path()), (fits, Some(node())));
            }
        }
    }
}

#[test]
fn what_fits_a_path_passes_and_what_does_not_is_refused() {
    let mut setup = Setup::udp_only(41);
    let (max_len, fits) = ipv4_path(1280);
    setup.udp = Udp::both(Link {
        max_len,
        ..setup.udp.to_gateway
    });
    let mut sim = Sim::new(setup);
    sim.run_until(30 * SECOND, "the MTU", |sim| mtu(sim) == fits);
    sim.run(SECOND);
    // The echo is as long, and crosses as well.
    sim.programs.send_udp(ECHO, &vec![7; fits - 28]);
    sim.settle();
    sim.run(SECOND);
    assert_eq!(sim.programs.datagrams, [vec![7; fits - 28]]);
    assert!(sim.programs.too_big.is_empty());
    sim.programs.send_udp(ECHO, &vec![8; fits - 27]);
    sim.settle();
    sim.run(SECOND);
    assert_eq!(sim.programs.datagrams.len(), 1);
    assert_eq!(sim.programs.too_big, [u32::try_from(fits).unwrap()]);
}

#[test]
fn connections_go_on_when_the_path_narrows() {
    for (to_gateway, to_client) in [(1280, 1280), (1280, 1500), (1500, 1280), (1400, 1300)] {
        for setup in [Setup::udp_only(42), Setup::new(42)] {
            let mut sim = Sim::new(setup);
            sim.run_until(30 * SECOND, "the MTU", |sim| mtu(sim) == 1440);
            sim.run_until(SECOND, "udp", |sim| sim.path() == Some(node()));
            sim.run(SECOND);
            let flow = sim.programs.transfer(ECHO, 10_000_000, sim.now);
            sim.settle();
            sim.run(SECOND / 10);
            let before = sim.programs.transferred(flow).received;
            assert!(before > 0 && before < 5_000_000, "{before} in the middle");
            set_width(&mut sim, to_gateway, to_client);
            sim.run_until(30 * SECOND, "transfer", |sim| {
                sim.programs.transferred(flow).finished
            });
            assert!(!sim.programs.transferred(flow).reset);
            let fits = ipv4_path(to_gateway.min(to_client)).1;
            sim.run_until(30 * SECOND, "the MTU", |sim| mtu(sim) == fits);
            assert_eq!(sim.path(), Some(node()));
        }
    }
}

#[test]
fn connections_go_on_when_the_path_widens() {
    let mut setup = Setup::udp_only(43);
    setup.udp = Udp::both(Link {
        max_len: ipv4_path(1280).0,
        ..setup.udp.to_gateway
    });
    let mut sim = Sim::new(setup);
    sim.run_until(30 * SECOND, "the MTU", |sim| mtu(sim) == ipv4_path(1280).1);
    let flow = sim.programs.transfer(ECHO, 10_000_000, sim.now);
    sim.settle();
    sim.run(SECOND / 10);
    set_width(&mut sim, 1500, 1500);
    sim.client.network_changed(sim.now);
    sim.settle();
    sim.run_until(2 * SECOND, "the MTU", |sim| mtu(sim) == 1440);
    sim.run_until(20 * SECOND, "transfer", |sim| {
        sim.programs.transferred(flow).finished
    });
    assert!(!sim.programs.transferred(flow).reset);
}

#[test]
fn a_path_that_widens_is_noticed_within_ten_minutes() {
    let mut setup = Setup::udp_only(44);
    setup.udp.to_client.max_len = ipv4_path(1400).0;
    let mut sim = Sim::new(setup);
    sim.run_until(30 * SECOND, "the MTU", |sim| mtu(sim) == ipv4_path(1400).1);
    set_width(&mut sim, 1500, 1500);
    sim.run_until(610 * SECOND, "the MTU", |sim| mtu(sim) == 1440);
}

#[test]
fn a_lossy_path_is_not_taken_for_a_narrow_one() {
    for seed in 0..4 {
        let mut setup = Setup::udp_only(seed);
        setup.udp = rough();
        let mut sim = Sim::new(setup);
        sim.run_until(30 * SECOND, "the MTU", |sim| mtu(sim) == 1440);
        let flow = sim.programs.transfer(ECHO, 10_000_000, sim.now);
        sim.settle();
        let mut narrow = 0;
        while !sim.programs.transferred(flow).finished && narrow < 100 {
            sim.run(SECOND / 10);
            narrow += u32::from(mtu(&sim) < 1440);
        }
        assert_eq!(narrow, 0, "seed {seed}");
    }
}

#[test]
fn with_a_gateway_that_answers_no_probes_the_mtu_stays() {
    let mut setup = Setup::udp_only(45);
    setup.path_mtu = false;
    let mut sim = Sim::new(setup);
    assert_transfer(&mut sim, 1_000_000, 20 * SECOND);
    sim.run(30 * SECOND);
    assert_eq!(mtu(&sim), 1360);
    assert!(sim.trace.iter().all(|sent| sent.len <= 1360 + 32));
}
