//! Time as TCP counts it: microseconds in one number, because it is compared and subtracted for every packet. It never reads a clock.

use std::time::{Duration, Instant};

/// Microseconds since the stack was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(u64);

impl Time {
    /// Microseconds from `earlier` on; none when that is later.
    pub(crate) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// So many microseconds later.
    pub(crate) fn plus(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// Turns the caller's instants into [`Time`] and back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Self {
        Self { start: now }
    }

    /// An instant before the start is taken as the start.
    pub(crate) fn time(self, now: Instant) -> Time {
        let elapsed = now.saturating_duration_since(self.start).as_micros();
        Time(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// The first instant that is this time or later.
    pub(crate) fn instant(self, time: Time) -> Instant {
        self.start + Duration::from_micros(time.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as a start")]
    fn there_and_back() {
        let start = Instant::now();
        let clock = Clock::new(start);
        let later = start + Duration::from_micros(1_234_567);
        assert_eq!(clock.instant(clock.time(later)), later);
        assert_eq!(clock.time(start), Time::default());
        assert_eq!(clock.time(later).since(clock.time(start)), 1_234_567);
        assert_eq!(clock.time(start).since(clock.time(later)), 0);
    }
}
