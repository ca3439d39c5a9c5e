//! ProbeBW: leave room, use what is known, now and then try more (draft-ietf-ccwg-bbr section 5.3.3).

use super::latest::BETA;
use super::{Bbr, NONE, Phase, SECOND, Sample, too_much};
use crate::clock::Time;

/// Time between two probes, to which up to a second comes by chance.
const WAIT: u64 = 2 * SECOND;
/// Most round trips between two probes: a Reno flow would then have found as much (section 5.3.3.5).
const MOST_ROUNDS: u32 = 63;
/// Most doublings of how fast `inflight_hi` grows.
const DOUBLINGS: u8 = 30;

/// Where in the cycle it is.
#[derive(Debug, Default)]
pub(super) struct Cycle {
    began: Time,
    /// How long until the next probe.
    wait: u64,
    /// The round trip in which the last probe ended, moved back by chance.
    probed_at: u32,
    /// The probe is over; what it sent still arrives, for a round trip.
    stopping: bool,
    /// What arrives, or does not, was sent by a probe.
    pub(super) samples_probe: bool,
    /// Segments by which `inflight_hi` grows each round trip, as a power of two.
    doublings: u8,
    /// Bytes of growth that were not added yet, times the window.
    growth: u64,
}

impl Cycle {
    /// Another phase takes over: what arrives after a round trip was not sent by a probe.
    pub(super) fn stop_probe(&mut self) {
        self.stopping = true;
    }
}

impl Bbr {
    pub(super) fn start_down(&mut self, now: Time) {
        self.latest.reset();
        let chance = self.seeds.draw();
        self.cycle.wait = WAIT + chance % SECOND;
        self.cycle.probed_at = self.rounds.count.wrapping_sub((chance >> 32) as u32 % 2);
        self.cycle.began = now;
        self.cycle.stopping = true;
        self.start_round();
        self.phase = Phase::Down;
    }

    pub(super) fn start_cruise(&mut self) {
        self.phase = Phase::Cruise;
    }

    fn start_refill(&mut self) {
        self.reset_bounds();
        (self.cycle.doublings, self.cycle.growth) = (0, 0);
        self.start_round();
        self.phase = Phase::Refill;
    }

    fn start_up(&mut self, sample: &Sample, now: Time) {
        self.cycle.stopping = false;
        self.cycle.samples_probe = true;
        self.cycle.began = now;
        self.start_round();
        self.full.reset(sample.rate);
        self.phase = Phase::Up;
    }

    /// BBRUpdateProbeBWCyclePhase.
    pub(super) fn update_cycle(&mut self, sample: &Sample, now: Time) {
        if !self.full.reached {
            return;
        }
        let high_limits = sample.window_limited && self.window >= self.inflight_high;
        self.update_inflight_high(sample, high_limits, now);
        match self.phase {
            Phase::Down | Phase::Cruise if self.is_time_to_probe(now) => self.start_refill(),
            Phase::Down if self.is_time_to_cruise(sample) => self.start_cruise(),
            Phase::Refill if self.rounds.began => self.start_up(sample, now),
            Phase::Up => self.end_up_in_time(sample, high_limits, now),
            Phase::Startup
            | Phase::Drain
            | Phase::Down
            | Phase::Cruise
            | Phase::Refill
            | Phase::ProbeRtt => {}
        }
    }

    /// BBRAdaptLongTermModel.
    fn update_inflight_high(&mut self, sample: &Sample, high_limits: bool, now: Time) {
        if self.cycle.stopping && self.rounds.began {
            self.cycle.stopping = false;
            self.cycle.samples_probe = false;
            if self.phase.is_cycle() && !sample.limited {
                self.advance_bandwidth();
            }
        }
        if too_much(sample.lost, sample.in_flight.into()) {
            if self.cycle.samples_probe {
                self.inflight_too_high(sample, now);
            }
        } else if self.inflight_high != NONE {
            self.inflight_high = self.inflight_high.max(sample.in_flight);
            if self.phase == Phase::Up && high_limits {
                self.raise_inflight_high(sample);
            }
        }
    }

    /// BBRHandleInflightTooHigh.
    pub(super) fn inflight_too_high(&mut self, sample: &Sample, now: Time) {
        self.cycle.samples_probe = false;
        if !sample.limited {
            let target = u64::from(self.target()) * BETA / 100;
            self.inflight_high = sample.in_flight.max(target as u32);
        }
        if self.phase == Phase::Up {
            self.start_down(now);
        }
    }

    /// A segment in the first round trip, two in the second, four in the third (BBRProbeInflightHiUpward).
    fn raise_inflight_high(&mut self, sample: &Sample) {
        let window = u64::from(self.window.max(1));
        let bytes = u64::from(sample.acked) * u64::from(self.mss);
        self.cycle.growth += bytes << self.cycle.doublings;
        let grown = self.cycle.growth / window;
        self.cycle.growth %= window;
        self.inflight_high = self
            .inflight_high
            .saturating_add(u32::try_from(grown).unwrap_or(NONE))
            .min(self.most);
        if self.rounds.began {
            self.cycle.doublings = (self.cycle.doublings + 1).min(DOUBLINGS);
        }
    }

    fn is_time_to_probe(&self, now: Time) -> bool {
        let rounds = (self.target() / self.mss).min(MOST_ROUNDS);
        now.since(self.cycle.began) > self.cycle.wait
            || self.rounds.count.wrapping_sub(self.cycle.probed_at) >= rounds
    }

    fn is_time_to_cruise(&self, sample: &Sample) -> bool {
        let full = self.inflight_in_batches(self.max_bandwidth(), 100);
        sample.pipe <= full.min(self.inflight_with_headroom())
    }

    /// The path takes no more, unless it was only us who did not try (BBRIsTimeToGoDown).
    fn end_up_in_time(&mut self, sample: &Sample, high_limits: bool, now: Time) {
        if high_limits {
            self.full.reset(sample.rate);
        } else if self.full.now {
            self.start_down(now);
        }
    }

    /// BBRTargetInflight.
    fn target(&self) -> u32 {
        self.inflight(self.bandwidth(), 100).min(self.window)
    }
}
