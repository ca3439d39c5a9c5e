//! The rules of the module's documentation, one after the other, on a clock that jumps from timeout to timeout.

use super::*;

const UDP: &str = "192.0.2.1:51820";
const OTHER: &str = "192.0.2.2:51820";

fn udp(address: &str) -> Path {
    Path::Udp(address.parse().unwrap())
}

/// Paths, and which of them answer.
struct Rig {
    paths: Paths,
    now: Instant,
    start: Instant,
    /// With the round trip of each.
    answering: BTreeMap<Path, Duration>,
    /// Answers on their way.
    answers: Vec<(Instant, Path, u16, usize)>,
    told: Vec<(Duration, Event)>,
    probes: Vec<(Duration, Path)>,
}

impl Rig {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn new(choice: CarrierChoice, candidates: &[&str], answering: &[(Path, u64)]) -> Self {
        let start = Instant::now();
        let candidates: Vec<SocketAddr> = candidates
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        let mut rig = Self {
            paths: Paths::new(choice, true, &candidates, start),
            now: start,
            start,
            answering: answering
                .iter()
                .map(|(path, rtt)| (*path, Duration::from_millis(*rtt)))
                .collect(),
            answers: Vec::new(),
            told: Vec::new(),
            probes: Vec::new(),
        };
        rig.act();
        rig
    }

    fn api_and_udp() -> Self {
        let mut rig = Self::new(
            CarrierChoice::Auto,
            &[UDP],
            &[(Path::Api, 5), (udp(UDP), 1)],
        );
        rig.open(Path::Api);
        rig.run(2_000);
        assert_eq!(rig.paths.current(), Some(udp(UDP)));
        rig.told.clear();
        rig.probes.clear();
        rig
    }

    fn open(&mut self, path: Path) {
        self.paths.opened(path, self.now);
        self.act();
    }

    fn close(&mut self, path: Path) {
        self.answering.remove(&path);
        self.paths.closed(path, self.now);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.paths.poll_action() {
            match action {
                Action::Probe {
                    path,
                    sequence,
                    size,
                    ..
                } => {
                    self.probes.push((self.now - self.start, path));
                    if let Some(rtt) = self.answering.get(&path) {
                        self.answers.push((self.now + *rtt, path, sequence, size));
                    }
                }
                Action::Tell(event) => self.told.push((self.now - self.start, event)),
            }
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        loop {
            let timeout = self.paths.poll_timeout().map(|(at, _)| at.max(self.now));
            let answer = self.answers.iter().map(|(at, ..)| *at).min();
            let Some(next) = timeout
                .into_iter()
                .chain(answer)
                .min()
                .filter(|at| *at <= end)
            else {
                self.now = end;
                return;
            };
            self.now = next;
            if answer == Some(next) {
                let at = self
                    .answers
                    .iter()
                    .position(|(at, ..)| *at == next)
                    .unwrap();
                let (_, path, sequence, size) = self.answers.remove(at);
                let handshake = !self.paths.established();
                self.paths.received(path, next);
                if !handshake {
                    self.paths.probe_answered(path, sequence, size, next);
                }
            } else {
                self.paths.handle_timeout(next);
            }
            self.act();
        }
    }

    fn events(&self) -> Vec<Event> {
        self.told.iter().map(|(_, event)| event.clone()).collect()
    }

    /// When `event` was told, since the start.
    fn time_of(&self, event: &Event) -> Duration {
        self.told
            .iter()
            .find(|(_, told)| told == event)
            .unwrap_or_else(|| panic!("{event:?} in {:?}", self.told))
            .0
    }
}

#[test]
fn api_first_then_udp_takes_over() {
    let mut rig = Rig::new(
        CarrierChoice::Auto,
        &[UDP],
        &[(Path::Api, 5), (udp(UDP), 20)],
    );
    rig.open(Path::Api);
    rig.run(100);
    let changed = Event::PathChanged {
        from: Path::Api,
        to: udp(UDP),
    };
    assert_eq!(
        rig.events(),
        [Event::Established { path: Path::Api }, changed]
    );
    assert_eq!(rig.paths.rtt(), Some(Duration::from_millis(20)));
}

#[test]
fn the_choice_of_carriers_is_kept() {
    let mut rig = Rig::new(CarrierChoice::Api, &[UDP], &[(Path::Api, 5), (udp(UDP), 1)]);
    rig.open(Path::Api);
    rig.run(60_000);
    assert_eq!(rig.events(), [Event::Established { path: Path::Api }]);
    let mut rig = Rig::new(
        CarrierChoice::Udp,
        &[OTHER, UDP],
        &[(Path::Api, 5), (udp(UDP), 1)],
    );
    rig.open(Path::Api);
    rig.run(60_000);
    assert_eq!(rig.events(), [Event::Established { path: udp(UDP) }]);
    assert!(rig.probes.iter().all(|(_, path)| *path != Path::Api));
}

#[test]
fn an_idle_path_is_probed_every_five_seconds_and_no_other_is() {
    let mut rig = Rig::api_and_udp();
    rig.run(60_000);
    assert!((11..=12).contains(&rig.probes.len()), "{:?}", rig.probes);
    assert!(rig.probes.iter().all(|(_, path)| *path == udp(UDP)));
}

#[test]
fn signs_of_life_are_shown_each_second_whatever_comes() {
    let mut rig = Rig::api_and_udp();
    rig.paths.show_life(true);
    for _ in 0..600 {
        rig.run(100);
        rig.paths.received(udp(UDP), rig.now);
    }
    assert!((58..=61).contains(&rig.probes.len()), "{:?}", rig.probes);
    assert!(rig.probes.iter().all(|(_, path)| *path == udp(UDP)));
    rig.paths.show_life(false);
    rig.run(60_000);
    assert!((69..=73).contains(&rig.probes.len()), "{:?}", rig.probes);
}

#[test]
fn a_path_that_dies_is_found_dead_in_three_signs_of_life() {
    let mut rig = Rig::new(CarrierChoice::Udp, &[UDP], &[(udp(UDP), 1)]);
    rig.run(2_000);
    rig.paths.show_life(true);
    rig.run(10_000);
    rig.probes.clear();
    rig.answering.clear();
    rig.run(5_000);
    assert!(rig.probes.len() >= 3, "{:?}", rig.probes);
    let misses = |rig: &Rig| rig.paths.entries[&udp(UDP)].misses;
    assert!(misses(&rig) >= MISSES_TO_GIVE_UP, "{}", misses(&rig));
}

#[test]
fn a_cut_udp_path_is_left_for_api() {
    let mut rig = Rig::api_and_udp();
    rig.answering.remove(&udp(UDP));
    rig.paths.data_sent(rig.now);
    let cut = rig.now - rig.start;
    rig.run(10_000);
    let changed = Event::PathChanged {
        from: udp(UDP),
        to: Path::Api,
    };
    assert_eq!(rig.events(), std::slice::from_ref(&changed));
    assert!(
        rig.time_of(&changed) - cut <= Duration::from_secs(2),
        "{:?}",
        rig.told
    );
}

#[test]
fn an_idle_cut_is_found_within_the_probing_time() {
    let mut rig = Rig::api_and_udp();
    rig.answering.remove(&udp(UDP));
    let cut = rig.now - rig.start;
    rig.run(20_000);
    let changed = Event::PathChanged {
        from: udp(UDP),
        to: Path::Api,
    };
    assert!(
        rig.time_of(&changed) - cut <= Duration::from_secs(7),
        "{:?}",
        rig.told
    );
}

#[test]
fn udp_is_tried_again_with_growing_pauses_and_comes_back() {
    let mut rig = Rig::api_and_udp();
    rig.answering.remove(&udp(UDP));
    rig.run(600_000);
    let tries: Vec<Duration> = rig
        .probes
        .iter()
        .filter(|(_, path)| *path == udp(UDP))
        .map(|(at, _)| *at)
        .collect();
    assert!((6..=14).contains(&tries.len()), "{tries:?}");
    assert_eq!(rig.paths.current(), Some(Path::Api));
    rig.answering.insert(udp(UDP), Duration::from_millis(1));
    rig.run(310_000);
    assert_eq!(rig.paths.current(), Some(udp(UDP)));
}

#[test]
fn after_a_candidates_miss_the_gateway_is_led_back() {
    let mut rig = Rig::new(CarrierChoice::Auto, &[UDP], &[(Path::Api, 5)]);
    rig.open(Path::Api);
    rig.run(100_000);
    for (i, (at, path)) in rig.probes.iter().enumerate() {
        if *path == udp(UDP) && *at > Duration::from_secs(1) {
            let back = rig.probes[i..]
                .iter()
                .find(|(_, path)| *path == Path::Api)
                .unwrap();
            assert!(back.0 - *at <= Duration::from_secs(1), "{:?}", rig.probes);
        }
    }
}

#[test]
fn one_lost_probe_changes_nothing() {
    let mut rig = Rig::api_and_udp();
    rig.answering.remove(&udp(UDP));
    while rig.probes.is_empty() {
        rig.run(10);
    }
    rig.answering.insert(udp(UDP), Duration::from_millis(1));
    rig.run(30_000);
    assert_eq!(rig.events(), []);
}

#[test]
fn a_black_hole_makes_the_session_quiet_within_15_seconds() {
    for busy in [false, true] {
        let mut rig = Rig::api_and_udp();
        rig.answering.clear();
        if busy {
            rig.paths.data_sent(rig.now);
        }
        let cut = rig.now - rig.start;
        rig.run(60_000);
        let took = rig.time_of(&Event::Quiet) - cut;
        assert!(took <= Duration::from_secs(15), "{took:?}");
        assert_eq!(
            rig.events()
                .iter()
                .filter(|event| **event == Event::Quiet)
                .count(),
            1
        );
        rig.answering.insert(Path::Api, Duration::from_millis(5));
        rig.run(31_000);
        assert_eq!(
            rig.events().last(),
            Some(&Event::Established { path: Path::Api })
        );
    }
}

#[test]
fn a_session_that_never_comes_up_is_quiet_too() {
    let mut rig = Rig::new(CarrierChoice::Api, &[], &[]);
    rig.run(60_000);
    assert_eq!(
        rig.events(),
        [],
        "without a carrier there is nothing to be said"
    );
    rig.open(Path::Api);
    rig.run(15_000);
    assert_eq!(rig.events(), [Event::Quiet]);
}

#[test]
fn a_missing_api_carrier_is_asked_for_until_it_comes() {
    let mut rig = Rig::api_and_udp();
    rig.close(Path::Api);
    rig.run(60_000);
    let asked = rig.events();
    assert!(
        (3..=7).contains(&asked.len())
            && asked.iter().all(|event| *event == Event::ApiCarrierWanted),
        "{asked:?}"
    );
    rig.told.clear();
    rig.open(Path::Api);
    rig.run(60_000);
    assert_eq!(rig.events(), []);
    assert_eq!(rig.paths.current(), Some(udp(UDP)));
}

#[test]
fn a_closed_api_carrier_in_use_is_replaced_by_whatever_answers() {
    let mut rig = Rig::new(CarrierChoice::Auto, &[UDP], &[(Path::Api, 5)]);
    rig.open(Path::Api);
    rig.run(20_000);
    rig.told.clear();
    rig.close(Path::Api);
    assert_eq!(rig.paths.current(), None);
    rig.answering.insert(udp(UDP), Duration::from_millis(1));
    rig.run(20_000);
    assert_eq!(rig.paths.current(), Some(udp(UDP)));
    let changed = Event::PathChanged {
        from: Path::Api,
        to: udp(UDP),
    };
    assert!(rig.events().contains(&changed), "{:?}", rig.told);
}

#[test]
fn a_new_api_carrier_is_used_at_once_when_nothing_else_is_there() {
    let mut rig = Rig::new(CarrierChoice::Api, &[], &[(Path::Api, 5)]);
    rig.open(Path::Api);
    rig.run(1_000);
    rig.close(Path::Api);
    rig.run(1_000);
    rig.open(Path::Api);
    assert_eq!(rig.paths.current(), Some(Path::Api));
}

#[test]
fn after_a_change_of_network_everything_is_probed_at_once() {
    let mut rig = Rig::api_and_udp();
    rig.paths.probe_all(rig.now);
    rig.act();
    let probed: Vec<Path> = rig.probes.iter().map(|(_, path)| *path).collect();
    assert_eq!(probed, [udp(UDP), Path::Api], "api last");
}

#[test]
fn removed_candidates_are_left() {
    let mut rig = Rig::api_and_udp();
    rig.paths.set_candidates(&[OTHER.parse().unwrap()], rig.now);
    rig.act();
    rig.run(1_000);
    assert_eq!(rig.paths.current(), Some(Path::Api));
    assert!(
        rig.paths
            .status(rig.now)
            .iter()
            .all(|status| status.path != udp(UDP))
    );
}

#[test]
fn a_stream_that_breaks_at_once_is_not_asked_for_at_once() {
    let mut rig = Rig::api_and_udp();
    for _ in 0..100 {
        rig.close(Path::Api);
        rig.paths.opened(Path::Api, rig.now);
        rig.act();
        rig.run(10);
    }
    let asked = rig.events();
    let wanted = asked
        .iter()
        .filter(|event| **event == Event::ApiCarrierWanted);
    assert_eq!(wanted.count(), 1);
}
