//! How often names are set again over another program's, before it is left alone: two that fight serve nobody.
//!
//! Pure: takes the time, must not set anything.

use std::time::Duration;

use tokio::time::Instant;

/// So many times within [`SPAN`] are no fight: a network that comes up makes two or three programs write.
pub(super) const TIMES: usize = 8;
/// The time that counts.
pub(super) const SPAN: Duration = Duration::from_secs(60);

/// When names were set again lately.
#[derive(Debug, Default)]
pub(super) struct Patience {
    times: Vec<Instant>,
    lost: bool,
}

impl Patience {
    /// Whether names may be set again.
    pub(super) fn lasts(&self) -> bool {
        !self.lost
    }

    /// They had to be set again. True when that was once too often.
    pub(super) fn tried(&mut self, now: Instant) -> bool {
        self.times.retain(|then| now.duration_since(*then) < SPAN);
        self.times.push(now);
        self.lost = self.times.len() > TIMES;
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::{Instant, Patience, SPAN, TIMES};

    #[test]
    fn a_fight_is_given_up_and_a_rewrite_now_and_then_is_none() {
        let mut now = Instant::now();
        let mut patience = Patience::default();
        for _ in 0..10 * TIMES {
            assert!(!patience.tried(now));
            now += SPAN / 4;
        }
        let mut patience = Patience::default();
        for _ in 0..TIMES {
            assert!(!patience.tried(now) && patience.lasts());
        }
        assert!(patience.tried(now) && !patience.lasts());
    }
}
