//! A path between two ends on a clock that jumps: what it carries each way, what it loses.

use super::*;

const ROUND_TRIP: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_millis(500);

struct Rig {
    pmtud: Pmtud,
    /// What passes there and back, in bytes of the inner packet.
    there: usize,
    back: usize,
    /// Which probes, counted from 1, are lost whatever their length.
    unlucky: Vec<usize>,
    probes: Vec<usize>,
    answers: Vec<(Instant, usize)>,
    now: Instant,
}

impl Rig {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn new(width: usize) -> Self {
        Self {
            pmtud: Pmtud::default(),
            there: width,
            back: width,
            unlucky: Vec::new(),
            probes: Vec::new(),
            answers: Vec::new(),
            now: Instant::now(),
        }
    }

    /// A path that answered a first probe of `size`, and was given time to be searched.
    fn searched(width: usize, size: usize) -> Self {
        let mut rig = Self::new(width);
        rig.pmtud.acknowledged(size, rig.now);
        rig.run(Duration::from_secs(30));
        rig
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timeout = self.pmtud.poll_timeout().map(|at| at.max(self.now));
            let answer = self.answers.iter().map(|(at, _)| *at).min();
            let Some(next) = timeout.into_iter().chain(answer).min() else {
                break;
            };
            if next > end {
                break;
            }
            self.now = next;
            if answer == Some(next) {
                let (_, size) = self.answers.remove(0);
                self.pmtud.acknowledged(size, next);
            } else if let Some(size) = self.pmtud.handle_timeout(PATIENCE, next) {
                self.probes.push(size);
                let lost = self.unlucky.contains(&self.probes.len());
                if !lost && size <= self.there && size <= self.back {
                    self.answers.push((next + ROUND_TRIP, size));
                }
            }
        }
        self.now = end;
    }
}

#[test]
fn nothing_is_probed_before_the_path_answered() {
    let mut rig = Rig::new(1500);
    assert_eq!((rig.pmtud.limit(), rig.pmtud.poll_timeout()), (BASE, None));
    rig.run(RAISE);
    assert!(rig.probes.is_empty());
}

#[test]
fn a_wide_path_takes_one_round_trip() {
    let mut rig = Rig::new(1500);
    rig.pmtud.acknowledged(BASE, rig.now);
    rig.run(ROUND_TRIP);
    // The second probe tells the other end.
    assert_eq!((rig.pmtud.limit(), &rig.probes[..]), (MAX, &[MAX, MAX][..]));
}

#[test]
fn every_width_is_found_to_sixteen_bytes() {
    for width in MIN..1500 {
        for first in [MIN, BASE] {
            let rig = Rig::searched(width, first.min(width.max(MIN)) / STEP * STEP);
            let fits = (width / STEP * STEP).min(MAX);
            assert_eq!(rig.pmtud.limit(), fits, "{width} after {first}");
            assert!(rig.probes.len() < 30, "{:?}", rig.probes);
        }
    }
}

#[test]
fn the_narrower_direction_counts() {
    for (there, back) in [(1500, 1300), (1300, 1500)] {
        let mut rig = Rig::new(1500);
        (rig.there, rig.back) = (there, back);
        rig.pmtud.acknowledged(MIN, rig.now);
        rig.run(Duration::from_secs(30));
        assert_eq!(rig.pmtud.limit(), 1296);
    }
}

#[test]
fn a_lost_probe_is_sent_again() {
    let mut rig = Rig::new(1500);
    rig.unlucky = vec![1, 2];
    rig.pmtud.acknowledged(BASE, rig.now);
    rig.run(PATIENCE * 3);
    assert_eq!((rig.pmtud.limit(), &rig.probes[..3]), (MAX, &[MAX; 3][..]));
}

#[test]
fn a_lost_confirmation_changes_nothing() {
    let mut rig = Rig::searched(1500, BASE);
    let sent = rig.probes.len();
    rig.unlucky = (sent + 1..sent + 6).collect();
    rig.run(CONFIRM + PATIENCE * 6);
    assert_eq!(rig.pmtud.limit(), MAX);
    assert!(rig.probes[sent..].iter().all(|size| *size == MAX));
}

#[test]
fn bad_luck_is_made_good_in_three_round_trips() {
    let mut rig = Rig::searched(1500, BASE);
    let sent = rig.probes.len();
    rig.unlucky = (sent + 1..=sent + 6).collect();
    rig.run(CONFIRM + PATIENCE * 6 + ROUND_TRIP * 3);
    // The first of them tells the other end.
    assert_eq!(rig.probes[sent + 6..], [MIN, BASE, MAX, MAX]);
    assert_eq!(rig.pmtud.limit(), MAX);
}

#[test]
fn a_path_that_narrows_is_noticed() {
    let mut rig = Rig::searched(1500, BASE);
    rig.there = 1300;
    rig.run(CONFIRM + PATIENCE * 6);
    assert!(rig.pmtud.limit() <= 1300);
    rig.run(Duration::from_secs(10));
    assert_eq!(rig.pmtud.limit(), 1296);
}

#[test]
fn a_doubt_is_cleared_in_a_few_seconds() {
    for (width, found) in [(1500, MAX), (1250, MIN)] {
        let mut rig = Rig::searched(1500, BASE);
        rig.there = width;
        rig.pmtud.doubt(rig.now);
        rig.run(PATIENCE * 6 + ROUND_TRIP);
        assert_eq!(rig.pmtud.limit(), found);
    }
}

#[test]
fn a_path_that_widens_is_used_in_the_end() {
    let mut rig = Rig::searched(BASE, BASE);
    assert_eq!(rig.pmtud.limit(), BASE);
    rig.there = 1500;
    rig.back = 1500;
    rig.run(RAISE - Duration::from_secs(60));
    assert_eq!(rig.pmtud.limit(), BASE);
    rig.run(Duration::from_secs(61));
    assert_eq!(rig.pmtud.limit(), MAX);
}

#[test]
fn a_dead_path_is_probed_no_faster_than_a_live_one() {
    let mut rig = Rig::searched(1500, BASE);
    rig.there = 0;
    let sent = rig.probes.len();
    rig.run(Duration::from_secs(60));
    assert_eq!(rig.pmtud.limit(), MIN);
    assert!(rig.probes.len() - sent < 60, "{:?}", &rig.probes[sent..]);
}

#[test]
fn what_was_found_crosses_in_a_probe() {
    let mut payload = [0; MIN_PAYLOAD];
    for (said, heard) in [(1360, 1360), (0, MIN), (9000, MAX), (70_000, MAX)] {
        write_limit(&mut payload, said);
        assert_eq!(read_limit(&payload), Some(heard));
    }
    assert_eq!(read_limit(&payload[1..]), None);
}
