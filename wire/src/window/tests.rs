//! The window on a stream with one bottleneck and buffers without end.

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

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
    window: Window,
    now: Instant,
    /// When the bottleneck is done with what was sent.
    busy_until: Instant,
    /// Reports on their way: when they come, and what they say.
    reports: VecDeque<(Instant, u64)>,
    sent: u64,
    unreported: u64,
    every: u64,
}

impl Path {
    fn new(rate: f64, delay: Duration) -> Self {
        let now = start();
        let window = Window::new(0);
        Self {
            rate,
            delay,
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

    fn queue(&self) -> Duration {
        self.busy_until.saturating_duration_since(self.now)
    }

    fn send(&mut self, bytes: usize) {
        self.window.sent(bytes, self.now);
        self.sent += bytes as u64;
        self.busy_until =
            self.busy_until.max(self.now) + Duration::from_secs_f64(bytes as f64 / self.rate);
        self.unreported += bytes as u64;
        self.report();
    }

    fn report(&mut self) {
        if self.unreported >= self.every {
            self.unreported = 0;
            self.reports
                .push_back((self.busy_until.max(self.now) + self.delay, self.sent));
        }
    }

    /// To the next report.
    fn advance(&mut self) {
        let (at, total) = self
            .reports
            .pop_front()
            .expect("the window is never full without one on its way");
        self.now = self.now.max(at);
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
    let mut window = Window::new(100);
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
    let mut window = Window::new(0);
    for size in [FLOOR, INITIAL, 1 << 20, CEILING] {
        window.size = size;
        assert!(window.report_every() <= size / 4);
    }
}
