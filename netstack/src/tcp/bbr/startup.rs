//! Startup until the path is full, Drain until its queue is gone (draft-ietf-ccwg-bbr sections 5.3.1 and 5.3.2).

use super::{Bbr, Phase, Sample, too_much};
use crate::clock::Time;

/// Round trips without a higher bandwidth that show that the path is full.
const ROUNDS: u8 = 3;
/// Separate losses in a round trip that, at 2 %, show it as well (BBR.StartupFullLossCnt).
const LOSSES: u32 = 6;

/// Whether more can be delivered, while more is sent.
#[derive(Debug, Default)]
pub(super) struct FullBandwidth {
    /// The path was full at least once.
    pub(super) reached: bool,
    /// It is in this probe.
    pub(super) now: bool,
    bandwidth: u64,
    rounds: u8,
}

impl FullBandwidth {
    /// Another probe begins, at `bandwidth`.
    pub(super) fn reset(&mut self, bandwidth: u64) {
        (self.now, self.bandwidth, self.rounds) = (false, bandwidth, 0);
    }
}

impl Bbr {
    pub(super) fn check_full_bandwidth(&mut self, sample: &Sample) {
        let full = &mut self.full;
        if full.now || sample.limited {
            return;
        }
        if sample.rate >= full.bandwidth + full.bandwidth / 4 {
            return full.reset(sample.rate);
        }
        if self.rounds.began {
            full.rounds += 1;
            full.now = full.rounds >= ROUNDS;
            full.reached |= full.now;
        }
    }

    pub(super) fn check_startup(&mut self, sample: &Sample, now: Time) {
        if self.phase != Phase::Startup {
            return;
        }
        let lossy = self.latest.ended
            && sample.recovering
            && self.latest.losses >= LOSSES
            && too_much(sample.lost, sample.in_flight.into());
        if lossy && !self.full.reached {
            self.full.reached = true;
            let seen = u32::try_from(self.latest.inflight).unwrap_or(super::NONE - 1);
            self.inflight_high = self.inflight(self.max_bandwidth(), 100).max(seen);
        }
        if self.full.reached {
            self.phase = Phase::Drain;
            self.check_drain(sample, now);
        }
    }

    pub(super) fn check_drain(&mut self, sample: &Sample, now: Time) {
        if self.phase == Phase::Drain
            && sample.pipe <= self.inflight_in_batches(self.max_bandwidth(), 100)
        {
            self.start_down(now);
        }
    }
}
