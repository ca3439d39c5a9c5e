//! The states on a path that is nothing but a rate, a round trip and a queue.

use std::collections::VecDeque;

use super::*;
use crate::tcp::scoreboard::State;
use crate::tcp::sequence::Seq;

const MSS: u32 = 1000;
/// Bytes a second: a packet every 80 microseconds.
const RATE: u64 = 12_500_000;
const TRIP: u64 = 20_000;
/// What fills the path.
const FULL: u32 = 250_000;

struct Path {
    bbr: Bbr,
    now: Time,
    /// When pacing lets the next packet out.
    next: Time,
    /// When the bottleneck is free.
    free: Time,
    rate: u64,
    /// Packets that may wait for the bottleneck.
    queue: u64,
    /// One packet of so many is lost.
    one_lost_of: u64,
    /// The program sends no more than this at once, and only into an empty path.
    burst: u32,
    flying: VecDeque<(Time, Span, bool)>,
    pipe: u32,
    sent: u64,
    delivered: u64,
    phases: Vec<Phase>,
}

impl Path {
    fn new() -> Self {
        let start = Time::default();
        let mut bbr = Bbr::new(MSS, 1 << 24, 7, start);
        bbr.timed(TRIP, start);
        Self {
            bbr,
            now: start,
            next: start,
            free: start,
            rate: RATE,
            queue: 1000,
            one_lost_of: u64::MAX,
            burst: u32::MAX,
            flying: VecDeque::new(),
            pipe: 0,
            sent: 0,
            delivered: 0,
            phases: vec![Phase::Startup],
        }
    }

    fn run(&mut self, millis: u64) {
        let until = self.now.plus(millis * 1000);
        while self.now < until {
            let room = self.pipe + MSS <= self.bbr.window().min(self.burst);
            let arrival = self.flying.front().map(|&(at, ..)| at);
            if room && arrival.is_none_or(|at| self.next <= at) {
                self.now = self.now.max(self.next);
                self.send();
            } else if let Some(at) = arrival {
                self.now = self.now.max(at);
                self.arrive();
            }
            if self.phases.last() != Some(&self.bbr.phase) {
                self.phases.push(self.bbr.phase);
            }
        }
    }

    fn send(&mut self) {
        if self.pipe == 0 {
            self.bbr.restarts(self.now);
        }
        let snapshot = self.bbr.delivery().sent(MSS, self.pipe, self.now);
        let span = Span {
            start: Seq(0),
            end: Seq(MSS),
            sent: self.now,
            state: State::Flying,
            again: false,
            snapshot,
        };
        self.sent += 1;
        self.pipe += MSS;
        if self.pipe + MSS > self.burst {
            self.bbr.delivery().limited(self.pipe);
        }
        let each = u64::from(MSS) * SECOND / self.rate;
        let free = self.free.max(self.now);
        let lost =
            free.since(self.now) > self.queue * each || self.sent.is_multiple_of(self.one_lost_of);
        self.free = if lost { free } else { free.plus(each) };
        self.flying.push_back((self.free.plus(TRIP), span, lost));
        let rate = self.bbr.pacing_rate().unwrap_or(u64::MAX);
        self.next = self.now.plus(u64::from(MSS) * SECOND / rate);
    }

    fn arrive(&mut self) {
        let Some((_, span, lost)) = self.flying.pop_front() else {
            return;
        };
        self.pipe -= MSS;
        if lost {
            return self.bbr.lost(MSS, &span.snapshot, self.now);
        }
        self.delivered += u64::from(MSS);
        let sample = Sample {
            pipe: self.pipe,
            round_trip: Some(self.now.since(span.sent)),
            window_limited: self.pipe + 2 * MSS > self.bbr.window(),
            recovering: true,
            ..self.bbr.sample(MSS, &span, self.now)
        };
        self.bbr.acknowledged(&sample, self.now);
    }

    /// The share of the path that is used in so many milliseconds, in percent.
    fn used(&mut self, millis: u64) -> u64 {
        let before = self.delivered;
        self.run(millis);
        (self.delivered - before) * 100_000 / (self.rate * millis)
    }
}

#[test]
fn startup_finds_the_path_and_drains_its_queue() {
    let mut path = Path::new();
    path.run(500);
    // What Down waits for, Drain has seen to.
    assert_eq!(path.phases, [Phase::Startup, Phase::Drain, Phase::Cruise]);
    let found = path.bbr.max_bandwidth();
    assert!(found.abs_diff(RATE) < RATE / 20, "{found}");
    assert!(path.pipe < FULL * 11 / 10, "{}", path.pipe);
    assert_eq!(path.bbr.trips.shortest(), Some(TRIP));
    assert!(path.used(400) >= 97);
}

/// A queue that is short ends Startup by its losses; they bound what is in flight.
#[test]
fn startup_ends_by_losses() {
    let mut path = Path::new();
    path.queue = 20;
    path.run(500);
    assert!(path.bbr.full.reached);
    let high = path.bbr.inflight_high;
    assert!((FULL * 9 / 10..FULL * 3 / 2).contains(&high), "{high}");
}

#[test]
fn the_cycle_finds_more_and_less_bandwidth() {
    let mut path = Path::new();
    path.run(3000);
    let cycle = [Phase::Cruise, Phase::Refill, Phase::Up, Phase::Down];
    assert!(path.phases.windows(4).any(|phases| phases == cycle));
    path.rate = 2 * RATE;
    path.run(10_000);
    assert!(path.bbr.max_bandwidth() > RATE * 19 / 10);
    path.rate = RATE;
    path.run(10_000);
    assert!(path.bbr.max_bandwidth() < RATE * 12 / 10);
}

/// Half of the path's content for a fifth of a second, after five seconds without a shorter round trip.
#[test]
fn the_round_trip_is_probed() {
    let mut path = Path::new();
    path.run(4900);
    assert!(!path.phases.contains(&Phase::ProbeRtt));
    path.run(200);
    assert_eq!(path.bbr.phase, Phase::ProbeRtt);
    assert!(path.pipe <= FULL / 2 + MSS, "{}", path.pipe);
    path.run(400);
    assert_ne!(path.bbr.phase, Phase::ProbeRtt);
    assert!(path.used(2000) >= 95);
}

#[test]
fn random_losses_below_the_threshold_change_nothing() {
    let mut path = Path::new();
    path.one_lost_of = 100;
    path.run(1000);
    assert!(path.used(3000) >= 95);
    assert_eq!(path.bbr.inflight_low, NONE);
}

#[test]
fn many_losses_lower_the_bounds_until_the_next_probe() {
    let mut path = Path::new();
    path.run(600);
    assert_eq!(path.bbr.phase, Phase::Cruise);
    path.one_lost_of = 10;
    path.run(100);
    assert!(path.bbr.inflight_low < FULL);
    assert!(path.bbr.bandwidth() < RATE * 97 / 100);
    path.one_lost_of = u64::MAX;
    path.run(4000);
    assert_eq!(
        (path.bbr.inflight_low, path.bbr.bandwidth_low),
        (NONE, u64::MAX)
    );
}

/// Who sends little learns nothing about the path, and forgets nothing.
#[test]
fn a_program_that_sends_little() {
    let mut path = Path::new();
    path.run(1000);
    let found = path.bbr.max_bandwidth();
    path.burst = 5 * MSS;
    path.run(20_000);
    assert!(
        path.bbr.max_bandwidth() >= found / 2,
        "{}",
        path.bbr.max_bandwidth()
    );
    assert!(path.bbr.window() >= FULL / 2);
}

#[test]
fn after_a_timeout() {
    let mut path = Path::new();
    path.run(1000);
    let before = path.bbr.window();
    path.bbr.timed_out();
    assert_eq!(path.bbr.window(), MSS);
    path.bbr.recovered();
    assert_eq!(path.bbr.window(), before);
}

/// Below two milliseconds nothing is paced, and the window is that of a path of two milliseconds.
#[test]
fn short_paths() {
    let mut bbr = Bbr::new(MSS, 1 << 24, 7, Time::default());
    assert!(bbr.pacing_rate().is_some());
    bbr.timed(100, Time::default());
    assert_eq!(bbr.pacing_rate(), None);
    assert_eq!(bbr.inflight(1_000_000_000, 100), 2_000_000);
}

#[test]
fn where_losses_came_to_the_threshold() {
    assert!(!too_much(20, 1000));
    assert!(too_much(21, 1000));
    // 100 segments in flight, the last 10 of them lost at once: at 91 or 92 of them 2 % were.
    let at = in_flight_at_threshold(10 * MSS, 10 * u64::from(MSS), 100 * MSS);
    assert!((91 * MSS..=92 * MSS).contains(&at), "{at}");
}
