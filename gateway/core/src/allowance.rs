//! A bound on how often something is answered: so many at once, refilled over time.

use std::time::{Duration, Instant};

/// A bucket of answers; empty means: stay silent.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: u32,
    most: u32,
    every: Duration,
    refilled: Instant,
}

impl Allowance {
    /// At most `most` at once, one more each `every`.
    pub(crate) fn new(most: u32, every: Duration, now: Instant) -> Self {
        Self {
            left: most,
            most,
            every,
            refilled: now,
        }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let taken = self.left > 0;
        self.left -= u32::from(taken);
        taken
    }

    fn refill(&mut self, now: Instant) {
        let passed =
            now.saturating_duration_since(self.refilled).as_nanos() / self.every.as_nanos().max(1);
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed == 0 {
            return;
        }
        self.left = self.left.saturating_add(passed).min(self.most);
        self.refilled = if self.left == self.most {
            now
        } else {
            self.refilled + self.every * passed
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn runs_dry_and_refills() {
        let start = Instant::now();
        let mut allowance = Allowance::new(2, Duration::from_millis(100), start);
        assert!(allowance.take(start) && allowance.take(start));
        assert!(!allowance.take(start + Duration::from_millis(99)));
        assert!(allowance.take(start + Duration::from_millis(100)));
        assert!(!allowance.take(start + Duration::from_millis(100)));
        assert!(allowance.take(start + Duration::from_secs(3600)));
    }
}
