//! The window on a stream with one bottleneck and buffers without end.

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// A Mbit/s in bytes a second.
const MEGABIT: f64 = 1e6 / 8.0;

#[expect(
    clippy::disallowed_methods,
    reason = "a test's clock has to start somewhere"
)]
fn start() -> Instant {
    Instant::now()
}

/// A stream: `rate` bytes a second, `delay` there and back, and everything in between is buffered.
struct Path {
    rate: f64,
    delay: Duration,
    losses: Losses,
    window: Window,
    now: Instant,
    /// When the bottleneck is done with what was sent.
    busy_until: Instant,
    /// When what was lost last has come, and all that had to wait for it.
    held_until: Instant,
    /// The queue each time that something was sent, since it was last looked at.
    waits: Vec<Duration>,
    /// Reports on their way: when they come, and what they say.
    reports: VecDeque<(Instant, u64)>,
    sent: u64,
    unreported: u64,
    every: u64,
}

/// What the TCP below loses. It has it again a round trip later, and until then it holds back all that comes.
enum Losses {
    None,
    /// One in this time.
    Every(Duration, Instant),
    /// Each of so many packets, by the generator's state.
    OneIn(u64, u64),
}

impl Losses {
    fn each(time: Duration) -> Self {
        Self::Every(time, start())
    }

    /// Whether one of `bytes` that leave at `at` is lost.
    fn hit(&mut self, bytes: usize, at: Instant) -> bool {
        match self {
            Self::None => false,
            Self::Every(time, next) => {
                let mut hit = false;
                while at >= *next {
                    hit = at < *next + 2 * MS;
                    *next += *time;
                }
                hit
            }
            Self::OneIn(packets, state) => (0..bytes.div_ceil(1448)).fold(false, |hit, _| {
                // Numerical Recipes' generator.
                *state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                hit | (*state >> 33).is_multiple_of(*packets)
            }),
        }
    }
}

impl Path {
    fn new(rate: f64, delay: Duration) -> Self {
        let now = start();
        let window = Window::new(0, now);
        Self {
            rate,
            delay,
            losses: Losses::None,
            held_until: now,
            waits: Vec::new(),
            every: window.report_every() as u64,
            window,
            now,
            busy_until: now,
            reports: VecDeque::new(),
            sent: 0,
            unreported: 0,
        }
    }

    /// Sends as much as the window lets through for `time`; the longest queue of the last half, and the bytes that arrived.
    fn fill(&mut self, time: Duration) -> (Duration, u64) {
        let (begun, before) = (self.now, self.window.received);
        let mut longest = Duration::ZERO;
        while self.now < begun + time {
            while self.window.room() > 0 {
                self.send(self.window.piece());
            }
            if self.now > begun + time / 2 {
                longest = longest.max(self.queue());
            }
            self.advance();
        }
        (longest, self.window.received - before)
    }

    /// Sends `bytes` as fast as the window lets them through.
    fn burst(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            while self.window.room() > 0 && left > 0 {
                let piece = self.window.piece().min(left);
                self.send(piece);
                left -= piece;
            }
            if left > 0 {
                self.advance();
            }
        }
    }

    /// Takes the reports that come until then, and sends nothing.
    fn wait_until(&mut self, end: Instant) {
        while self.reports.front().is_some_and(|(at, _)| *at < end) {
            self.advance();
        }
        self.now = self.now.max(end);
    }

    /// Sends so many small pieces, one each `pause`.
    fn trickle(&mut self, pieces: u32, pause: Duration) {
        for _ in 0..pieces {
            self.send(300);
            self.wait_until(self.now + pause);
        }
    }

    fn queue(&self) -> Duration {
        self.busy_until.saturating_duration_since(self.now)
    }

    fn send(&mut self, bytes: usize) {
        self.window.sent(bytes, self.now);
        self.sent += bytes as u64;
        self.busy_until =
            self.busy_until.max(self.now) + Duration::from_secs_f64(bytes as f64 / self.rate);
        if self.losses.hit(bytes, self.busy_until) {
            let again = self.busy_until + self.delay + self.delay / 4;
            self.held_until = self.held_until.max(again);
        }
        self.unreported += bytes as u64;
        self.report();
    }

    /// The queue that 9 of 10 did not exceed, since this was last asked.
    fn usual_queue(&mut self) -> Duration {
        let mut waits = std::mem::take(&mut self.waits);
        waits.sort_unstable();
        waits[waits.len() * 9 / 10]
    }

    /// Fills the path, and gives the share of its rate that arrived.
    fn used(&mut self, time: Duration) -> f64 {
        self.waits.clear();
        let (_, bytes) = self.fill(time);
        bytes as f64 / (self.rate * time.as_secs_f64())
    }

    fn report(&mut self) {
        if self.unreported >= self.every {
            self.unreported = 0;
            let arrived = self.busy_until.max(self.now).max(self.held_until);
            self.reports.push_back((arrived + self.delay, self.sent));
        }
    }

    /// To the next report.
    fn advance(&mut self) {
        let (at, total) = self
            .reports
            .pop_front()
            .expect("the window is never full without one on its way");
        while self.now < at {
            self.now = at.min(self.now + MS);
            self.waits.push(self.queue());
        }
        self.window.received(total, self.now);
        self.every = self.window.report_every() as u64;
        self.report();
    }
}

#[test]
fn a_path_is_filled_and_its_queue_stays_short() {
    // 10 Mbit/s to 10 Gbit/s, and 1 to 200 ms.
    for megabits in [10, 100, 1_360, 10_000] {
        for delay in [1, 20, 200] {
            let rate = f64::from(megabits) * 1e6 / 8.0;
            let mut path = Path::new(rate, delay * MS);
            let (queue, bytes) = path.fill(20 * SECOND);
            let used = bytes as f64 / (rate * 20.0);
            // Slow start included: 20 s are a hundred round trips of the longest.
            assert!(used > 0.65, "{megabits} Mbit/s, {delay} ms: {used:.2} used");
            assert!(
                queue < 35 * MS,
                "{megabits} Mbit/s, {delay} ms: queue of {queue:?}"
            );
        }
    }
}

#[test]
fn it_grows_to_what_a_long_fat_path_needs_within_a_second() {
    let mut path = Path::new(170e6, 20 * MS);
    path.fill(SECOND);
    assert!(path.window.size() >= 3_400_000, "{}", path.window.size());
}

#[test]
fn a_narrower_path_makes_it_shrink() {
    let mut path = Path::new(170e6, 20 * MS);
    path.fill(2 * SECOND);
    path.rate = 5e6;
    path.fill(2 * SECOND);
    let (queue, _) = path.fill(2 * SECOND);
    assert!(queue < 26 * MS, "{queue:?}");
}

#[test]
fn a_longer_path_is_noticed() {
    let mut path = Path::new(20e6, 5 * MS);
    path.fill(2 * SECOND);
    path.delay = 60 * MS;
    path.fill(25 * SECOND);
    let (queue, bytes) = path.fill(5 * SECOND);
    assert!(bytes > 80_000_000, "{bytes} bytes in 5 s");
    assert!(queue < 40 * MS, "{queue:?}");
}

#[test]
fn who_sends_little_does_not_make_it_grow() {
    let mut path = Path::new(1e6, 20 * MS);
    for _ in 0..500 {
        path.send(20_000);
        path.advance();
    }
    assert_eq!(path.window.size(), INITIAL);
}

#[test]
fn reports_that_cannot_be_are_ignored() {
    let now = start();
    let mut window = Window::new(100, now);
    window.sent(1000, now);
    for total in [0, 100, 1101, u64::MAX] {
        window.received(total, now);
        assert_eq!(window.room(), INITIAL - 1000);
    }
    window.received(1100, now);
    assert_eq!(window.room(), INITIAL);
    window.received(600, now);
    assert_eq!(window.room(), INITIAL);
}

#[test]
fn what_a_receiver_keeps_unreported_never_fills_the_window() {
    let mut window = Window::new(0, start());
    for size in [FLOOR, INITIAL, 1 << 20, CEILING] {
        window.size = size;
        assert!(window.report_every() <= size / 4);
    }
}

#[test]
fn a_path_without_loss_is_used_and_its_queue_is_as_long_as_it_should_be() {
    for megabits in [10, 100, 600, 2_000] {
        for delay in [5, 20, 80] {
            let mut path = Path::new(f64::from(megabits) * MEGABIT, delay * MS);
            path.fill(3 * SECOND);
            let used = path.used(20 * SECOND);
            let queue = path.usual_queue();
            assert!(used > 0.9, "{megabits} Mbit/s, {delay} ms: {used:.2} used");
            assert!(queue < 26 * MS, "{megabits} Mbit/s, {delay} ms: {queue:?}");
        }
    }
}

#[test]
fn what_is_held_back_behind_a_loss_is_no_queue() {
    for megabits in [20, 100, 600, 2_000] {
        let mut path = Path::new(f64::from(megabits) * MEGABIT, 20 * MS);
        path.losses = Losses::each(40 * MS);
        path.fill(SECOND);
        let used = path.used(20 * SECOND);
        let queue = path.usual_queue();
        assert!(used > 0.7, "{megabits} Mbit/s: {used:.2} used");
        assert!(queue < 40 * MS, "{megabits} Mbit/s: {queue:?}");
    }
}

#[test]
fn a_thousandth_lost_leaves_most_of_the_path_in_use() {
    // Per mille, in ms, the share that has to be used: at 80 ms there is always something that waits for a loss.
    for (megabits, delay, least) in [
        (100, 20, 0.85),
        (600, 20, 0.85),
        (100, 80, 0.6),
        (600, 80, 0.4),
    ] {
        for seed in 1..4 {
            let mut path = Path::new(f64::from(megabits) * MEGABIT, delay * MS);
            path.losses = Losses::OneIn(1_000, seed);
            path.fill(SECOND);
            let used = path.used(20 * SECOND);
            assert!(
                used > least,
                "{megabits} Mbit/s, {delay} ms, seed {seed}: {used:.2} used"
            );
        }
    }
}

#[test]
fn a_rate_that_falls_leaves_no_queue_once_what_was_on_its_way_is_out() {
    for (before, after) in [(400, 20), (100, 50)] {
        let mut path = Path::new(f64::from(before) * MEGABIT, 20 * MS);
        path.fill(3 * SECOND);
        path.rate = f64::from(after) * MEGABIT;
        // 32 ms of 400 Mbit/s alone take 0.64 s of 20.
        path.fill(SECOND + SECOND / 4);
        let used = path.used(SECOND);
        let queue = path.usual_queue();
        assert!(used > 0.9, "{before} to {after} Mbit/s: {used:.2} used");
        assert!(queue < 22 * MS, "{before} to {after} Mbit/s: {queue:?}");
    }
}

#[test]
fn a_path_that_became_longer_is_filled_again_soon() {
    for (before, after) in [(0, 20), (5, 15), (5, 80), (80, 5)] {
        let mut path = Path::new(400.0 * MEGABIT, before * MS);
        path.fill(3 * SECOND);
        path.delay = after * MS;
        path.fill(SECOND + SECOND / 2);
        let used = path.used(SECOND);
        assert!(used > 0.9, "{before} to {after} ms: {used:.2} used");
        path.used(SECOND);
        let queue = path.usual_queue();
        assert!(queue < 30 * MS, "{before} to {after} ms: {queue:?}");
    }
}

#[test]
fn who_was_quiet_while_the_path_changed_is_not_slow_afterwards() {
    let mut path = Path::new(400.0 * MEGABIT, Duration::ZERO);
    path.trickle(20, 50 * MS);
    path.delay = 20 * MS;
    path.trickle(100, 50 * MS);
    let used = path.used(SECOND);
    assert!(used > 0.6, "{used:.2} used in the first second");
}

#[test]
fn bursts_with_pauses_between_them_make_no_large_window() {
    // 1 MB each 100 ms, which take 80.
    let mut path = Path::new(100.0 * MEGABIT, 20 * MS);
    for _ in 0..100 {
        let end = path.now + 100 * MS;
        path.burst(1_000_000);
        path.wait_until(end);
        assert!(path.window.size() < 1_500_000, "{}", path.window.size());
    }
}

#[test]
fn bursts_behind_losses_keep_their_window() {
    for seed in 1..4 {
        let mut path = Path::new(600.0 * MEGABIT, 20 * MS);
        path.fill(SECOND);
        path.losses = Losses::OneIn(1_000, seed);
        let mut smallest = usize::MAX;
        for _ in 0..200 {
            let end = path.now + 100 * MS;
            path.burst(2_000_000);
            path.wait_until(end);
            smallest = smallest.min(path.window.size());
        }
        assert!(smallest > 1_200_000, "seed {seed}: {smallest}");
    }
}
