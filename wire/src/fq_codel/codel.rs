//! CoDel's control law for one flow (RFC 8289, section 5; the pseudocode's names are kept where they are not ours).

use std::time::{Duration, Instant};

/// Bytes behind a packet that are no queue: less than one packet of the usual length.
const NO_QUEUE: usize = 1500;
/// How soon after the last dropping a new one goes on where that ended, in intervals.
const MEMORY: u32 = 16;

/// Times that the law goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Law {
    pub(super) target: Duration,
    pub(super) interval: Duration,
}

/// What is to be done with the packet at the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// Drop it and look at the next, or mark it and let it pass.
    Signal,
}

/// The law's state for one flow.
#[derive(Debug, Default)]
pub(super) struct Codel {
    /// When the delay will have been above target for an interval.
    first_above: Option<Instant>,
    /// There while signals are sent: when the next one is due.
    drop_next: Option<Instant>,
    /// When the last dropping would have sent its next signal.
    ended: Option<Instant>,
    count: u32,
    last_count: u32,
}

impl Codel {
    /// The verdict on a packet that waited for `sojourn`, with `behind` bytes behind it. To be asked for every packet at the head.
    pub(super) fn judge(
        &mut self,
        sojourn: Duration,
        behind: usize,
        law: Law,
        now: Instant,
    ) -> Verdict {
        let late = self.is_late(sojourn, behind, law, now);
        match self.drop_next {
            Some(_) if !late => self.leave(),
            Some(next) if now >= next => {
                self.count += 1;
                self.drop_next = Some(self.after(next, law));
                return Verdict::Signal;
            }
            None if late => {
                self.enter(law, now);
                return Verdict::Signal;
            }
            Some(_) | None => {}
        }
        Verdict::Pass
    }

    /// The queue is empty.
    pub(super) fn emptied(&mut self) {
        self.first_above = None;
        self.leave();
    }

    /// Whether the delay has been above target for an interval.
    fn is_late(&mut self, sojourn: Duration, behind: usize, law: Law, now: Instant) -> bool {
        if sojourn < law.target || behind < NO_QUEUE {
            self.first_above = None;
            return false;
        }
        now >= *self.first_above.get_or_insert(now + law.interval)
    }

    fn enter(&mut self, law: Law, now: Instant) {
        let soon = (self.ended)
            .is_some_and(|ended| now.saturating_duration_since(ended) < law.interval * MEMORY);
        let delta = self.count.saturating_sub(self.last_count);
        self.count = if soon && delta > 1 { delta } else { 1 };
        self.last_count = self.count;
        self.drop_next = Some(self.after(now, law));
    }

    fn leave(&mut self) {
        if let Some(next) = self.drop_next.take() {
            self.ended = Some(next);
        }
    }

    /// Signals come the sooner the more there were: interval / sqrt(count).
    fn after(&self, from: Instant, law: Law) -> Instant {
        from + law.interval.div_f64(f64::from(self.count).sqrt())
    }
}
