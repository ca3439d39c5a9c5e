//! Whose packets wait, whose are marked, whose are dropped.

use std::net::SocketAddr;

use super::*;
use crate::packet::build;

const MS: Duration = Duration::from_millis(1);

#[expect(
    clippy::disallowed_methods,
    reason = "a test's clock has to start somewhere"
)]
fn start() -> Instant {
    Instant::now()
}

/// A packet of flow `flow` and of `len` bytes.
fn packet(flow: u16, len: usize) -> Vec<u8> {
    let src = SocketAddr::from(([10, 0, 0, 1], flow));
    let dst = SocketAddr::from(([10, 0, 0, 2], 80));
    let mut packet = vec![0; len];
    let n = build::udp(src, dst, &vec![0; len - 28], &mut packet).unwrap();
    assert_eq!(n, len);
    packet
}

fn queue(settings: Settings) -> FqCodel<u16> {
    FqCodel::new(settings, 1)
}

fn pop(queue: &mut FqCodel<u16>, now: Instant) -> Option<u16> {
    queue.pop(now).map(|(_, tag)| tag)
}

#[test]
fn one_flow_keeps_its_order_and_its_bytes() {
    let (mut queue, now) = (queue(Settings::default()), start());
    let packets: Vec<_> = [28, 1500, 20_000, 65_535, 40]
        .map(|len| packet(1, len))
        .into();
    for (tag, packet) in packets.iter().enumerate() {
        queue.push(tag as u16, packet, now);
    }
    assert_eq!(queue.len(), 5);
    for (n, packet) in packets.iter().enumerate() {
        let (bytes, tag) = queue.pop(now).unwrap();
        assert_eq!((usize::from(tag), &*bytes), (n, &packet[..]));
    }
    assert!(queue.pop(now).is_none() && queue.is_empty() && queue.bytes() == 0);
}

#[test]
fn flows_take_turns_by_bytes() {
    let (mut queue, now) = (queue(Settings::default()), start());
    for _ in 0..50 {
        queue.push(1, &packet(1, 60_000), now);
        queue.push(2, &packet(2, 1500), now);
    }
    let mut bytes = [0; 3];
    for _ in 0..30 {
        let (packet, tag) = queue.pop(now).unwrap();
        bytes[usize::from(tag)] += packet.len();
    }
    assert!(bytes[1].abs_diff(bytes[2]) <= 61_500, "{bytes:?}");
}

#[test]
fn a_flow_that_sends_little_does_not_wait_behind_one_that_sends_much() {
    let (mut queue, now) = (queue(Settings::default()), start());
    for _ in 0..60 {
        queue.push(1, &packet(1, 60_000), now);
    }
    assert_eq!(pop(&mut queue, now), Some(1));
    for round in 0..20 {
        queue.push(2, &packet(2, 100), now);
        let waited = (0..).position(|_| pop(&mut queue, now) == Some(2)).unwrap();
        assert!(waited <= 1, "round {round}: behind {waited} packets");
    }
}

#[test]
fn a_standing_queue_is_told_and_a_short_one_is_not() {
    for (arrivals, told) in [(2, true), (1, false)] {
        let (mut queue, mut now) = (queue(Settings::default()), start());
        // One packet a millisecond goes out; a burst of 30 is there from the beginning.
        for _ in 0..30 {
            queue.push(1, &packet(1, 1500), now);
        }
        for round in 0..400 {
            for _ in 0..arrivals.min(1 + round % arrivals) {
                queue.push(1, &packet(1, 1500), now);
            }
            // Without more arrivals than departures the burst goes.
            for _ in 0..(3 - arrivals) {
                queue.pop(now);
            }
            now += MS;
        }
        assert_eq!(queue.counts.dropped > 0, told, "{:?}", queue.counts);
        assert_eq!(queue.counts.overflowed, 0);
    }
}

#[test]
fn signals_come_the_sooner_the_more_there_were() {
    let (mut queue, mut now) = (queue(Settings::default()), start());
    let mut dropped = Vec::new();
    for _ in 0..4 {
        let before = queue.counts.dropped;
        for _ in 0..300 {
            while queue.len() < 40 {
                queue.push(1, &packet(1, 1500), now);
            }
            queue.pop(now);
            now += MS;
        }
        dropped.push(queue.counts.dropped - before);
    }
    assert!(
        dropped.is_sorted() && dropped[0] > 0 && dropped[3] > dropped[0],
        "{dropped:?}"
    );
}

#[test]
fn a_flow_that_knows_marks_loses_nothing() {
    let (mut queue, mut now) = (queue(Settings::default()), start());
    let mut capable = packet(1, 1500);
    capable[1] |= 2;
    let (mut pushed, mut popped) = (0, 0);
    for _ in 0..500 {
        while queue.len() < 40 {
            queue.push(1, &capable, now);
            pushed += 1;
        }
        let (packet, _) = queue.pop(now).unwrap();
        popped += 1;
        assert!(matches!(packet[1] & 3, 2 | 3));
        now += MS;
    }
    assert!(queue.counts.marked > 5, "{:?}", queue.counts);
    assert_eq!((queue.counts.dropped, pushed - popped), (0, queue.len()));
}

#[test]
fn the_fattest_flow_pays_for_the_bounds() {
    let settings = Settings {
        max_packets: 100,
        max_bytes: 100_000,
        ..Settings::default()
    };
    let (mut queue, now) = (queue(settings), start());
    for _ in 0..10 {
        queue.push(2, &packet(2, 100), now);
    }
    for _ in 0..500 {
        queue.push(1, &packet(1, 1500), now);
        assert!(queue.len() <= 100 && queue.bytes() <= 100_000);
    }
    let tags: Vec<u16> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
    assert_eq!(tags.iter().filter(|tag| **tag == 2).count(), 10, "{tags:?}");
    assert_eq!(510 - tags.len() as u64, queue.counts.overflowed);
    for flow in 100..600 {
        queue.push(3, &packet(flow, 28), now);
        assert!(queue.len() <= 100 && queue.bytes() <= 100_000);
    }
    assert_eq!(queue.len(), 100);
    while queue.pop(now).is_some() {}
    queue.push(1, &vec![0x45; 100_001], now);
    assert!(queue.is_empty(), "longer than everything together");
}

#[test]
fn more_flows_than_queues_and_packets_without_ports_pass() {
    let (mut queue, now) = (queue(Settings::default()), start());
    for flow in 0..3000 {
        queue.push(flow, &packet(flow + 1, 28), now);
    }
    queue.push(9999, &[1, 2, 3], now);
    let mut tags: Vec<u16> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq((0..3000).chain([9999])));
    assert!(queue.flows.len() <= FLOWS);
}

#[test]
fn shrinking_gives_memory_back_and_goes_on() {
    let (mut queue, now) = (queue(Settings::default()), start());
    for round in 0..3 {
        queue.push(round, &packet(round + 1, 60_000), now);
        queue.shrink();
        assert_eq!(pop(&mut queue, now), Some(round));
        assert_eq!(pop(&mut queue, now), None);
        queue.shrink();
        assert_eq!(queue.flows.capacity(), 0);
    }
}

#[test]
fn who_says_what_belongs_together_is_believed() {
    let (mut queue, now) = (queue(Settings::default()), start());
    for number in 0..50 {
        queue.push_flow(1, number, &[4; 1500], now);
    }
    queue.push_flow(2, 100, &[4; 100], now);
    let tags: Vec<u16> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
    let turn = tags.iter().position(|tag| *tag == 100);
    assert!(turn < Some(3), "{turn:?}");
    assert!(tags.into_iter().filter(|tag| *tag < 100).eq(0..50));
}
