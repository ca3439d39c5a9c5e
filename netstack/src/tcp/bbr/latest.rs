//! What the last round trip and the last cycle showed: bandwidth, losses, bunched acknowledgements (draft-ietf-ccwg-bbr sections 5.5.5,
//! 5.5.9, 5.5.10).

use super::{Bbr, NONE, SECOND, Sample, too_much};
use crate::clock::Time;

/// What is left of a bound after losses, in percent (BBR.Beta).
pub(super) const BETA: u64 = 70;
/// Round trips that bunched acknowledgements are remembered for, at least (half of BBR.ExtraAckedFilterLen: two halves are kept).
const REMEMBERED: u32 = 5;

/// What the current round trip showed. It is counted apart from the others', which a phase may begin anew.
#[derive(Debug, Default)]
pub(super) struct Latest {
    bandwidth: u64,
    pub(super) inflight: u64,
    end: u64,
    /// One ended with this acknowledgement.
    pub(super) ended: bool,
    /// Separate losses in it, and the bytes of all of them.
    pub(super) losses: u32,
    lost: u64,
}

impl Latest {
    pub(super) fn lost(&mut self, len: u32) {
        self.losses = self.losses.saturating_add(1);
        self.lost += u64::from(len);
    }

    pub(super) fn forget_losses(&mut self) {
        (self.losses, self.lost) = (0, 0);
    }

    /// BBRResetCongestionSignals.
    pub(super) fn reset(&mut self) {
        (self.losses, self.lost, self.bandwidth, self.inflight) = (0, 0, 0, 0);
    }
}

/// How much more arrives at once than the bandwidth explains.
#[derive(Debug, Default)]
pub(super) struct Aggregation {
    since: Time,
    acked: u64,
    /// The most, of the last rounds and of those before.
    extra: [u32; 2],
    rounds: u32,
}

impl Aggregation {
    pub(super) fn extra(&self) -> u32 {
        self.extra[0].max(self.extra[1])
    }

    pub(super) fn restart(&mut self, now: Time) {
        (self.since, self.acked) = (now, 0);
    }
}

impl Bbr {
    pub(super) fn update_latest(&mut self, sample: &Sample) {
        self.rounds.began = sample.prior >= self.rounds.end;
        if self.rounds.began {
            self.start_round();
            self.rounds.count += 1;
        }
        let latest = &mut self.latest;
        latest.bandwidth = latest.bandwidth.max(sample.rate);
        latest.inflight = latest.inflight.max(sample.delivered);
        latest.ended = sample.prior >= latest.end;
        if latest.ended {
            latest.end = self.delivery.delivered();
        }
    }

    pub(super) fn advance_latest(&mut self, sample: &Sample) {
        if self.latest.ended {
            self.latest.bandwidth = sample.rate;
            self.latest.inflight = sample.delivered;
            self.latest.forget_losses();
        }
    }

    pub(super) fn update_bandwidth(&mut self, sample: &Sample) {
        if sample.rate >= self.max_bandwidth() || !sample.limited {
            self.bandwidths[1] = self.bandwidths[1].max(sample.rate);
        }
    }

    /// Another cycle: what the one before the last showed is forgotten.
    pub(super) fn advance_bandwidth(&mut self) {
        if self.bandwidths[1] > 0 {
            self.bandwidths = [self.bandwidths[1], 0];
        }
    }

    /// BBRAdaptLowerBoundsFromCongestion. Here, as everywhere else, less than 2 % lost is no congestion: otherwise each round trip with one
    /// random loss would lower the bounds to what was delivered, which is less than was sent, until the next probe.
    pub(super) fn update_bounds(&mut self) {
        let lossy = too_much(self.latest.lost, self.latest.inflight);
        if !self.latest.ended || !lossy || self.phase.is_probing() {
            return;
        }
        let (bandwidth, inflight) = match self.inflight_low {
            NONE => (self.max_bandwidth(), self.window),
            low => (self.bandwidth_low, low),
        };
        self.bandwidth_low = self.latest.bandwidth.max(bandwidth / 100 * BETA);
        let inflight = self.latest.inflight.max(u64::from(inflight) * BETA / 100);
        self.inflight_low = u32::try_from(inflight).unwrap_or(NONE - 1);
    }

    pub(super) fn reset_bounds(&mut self) {
        (self.bandwidth_low, self.inflight_low) = (u64::MAX, NONE);
    }

    pub(super) fn update_aggregation(&mut self, sample: &Sample, now: Time) {
        let kept = if self.full.reached { REMEMBERED } else { 1 };
        let (bandwidth, window) = (self.bandwidth(), self.window);
        let seen = &mut self.aggregation;
        seen.rounds += u32::from(self.rounds.began);
        if seen.rounds >= kept {
            seen.rounds = 0;
            seen.extra = [seen.extra[1], 0];
        }
        let mut expected = bandwidth.saturating_mul(now.since(seen.since)) / SECOND;
        if seen.acked <= expected {
            seen.restart(now);
            expected = 0;
        }
        seen.acked += u64::from(sample.acked);
        let extra = (seen.acked - expected.min(seen.acked)).min(u64::from(window));
        seen.extra[1] = seen.extra[1].max(extra as u32);
    }
}
