//! Turns the caller's instants into smoltcp's and back. It never reads a clock.

use std::time::{Duration, Instant};

use smoltcp::time::Instant as StackInstant;

/// smoltcp's time scale: microseconds since the stack was made, plus one second, because smoltcp uses
/// instant zero as "at once".
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

const OFFSET: Duration = Duration::from_secs(1);

impl Clock {
    pub(crate) fn new(now: Instant) -> Self {
        Self { start: now }
    }

    /// An instant before the start is taken as the start.
    pub(crate) fn to_stack(self, now: Instant) -> StackInstant {
        let elapsed = now.saturating_duration_since(self.start) + OFFSET;
        StackInstant::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }

    /// smoltcp's "at once" becomes the start, which is always due.
    pub(crate) fn to_caller(self, at: StackInstant) -> Instant {
        let micros = u64::try_from(at.total_micros()).unwrap_or(0);
        self.start + Duration::from_micros(micros).saturating_sub(OFFSET)
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
        assert_eq!(clock.to_caller(clock.to_stack(later)), later);
        assert_eq!(clock.to_caller(StackInstant::ZERO), start);
        assert!(clock.to_stack(start) > StackInstant::ZERO);
    }
}
