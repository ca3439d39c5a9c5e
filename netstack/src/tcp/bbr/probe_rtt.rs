//! The shortest round trip, and ProbeRTT, which makes it seen again (draft-ietf-ccwg-bbr section 5.3.4).

use super::{Bbr, Phase, SECOND, Sample};
use crate::clock::Time;

/// The shortest round trip counts for so long (BBR.MinRTTFilterLen).
const KEPT: u64 = 10 * SECOND;
/// Without one as short for so long, it is looked for (BBR.ProbeRTTInterval).
const INTERVAL: u64 = 5 * SECOND;
/// How long little is in flight then, at least a round trip (BBR.ProbeRTTDuration).
const DURATION: u64 = SECOND / 5;

/// Round trips seen.
#[derive(Debug)]
pub(super) struct RoundTrips {
    shortest: Option<u64>,
    shortest_at: Time,
    /// The shortest of the last seconds.
    recent: Option<u64>,
    recent_at: Time,
    /// No other was as short for some seconds.
    old: bool,
    /// When ProbeRTT may end.
    done_at: Option<Time>,
    /// A round trip passed since little is in flight.
    round_over: bool,
}

impl RoundTrips {
    pub(super) fn new(now: Time) -> Self {
        Self {
            shortest: None,
            shortest_at: now,
            recent: None,
            recent_at: now,
            old: false,
            done_at: None,
            round_over: false,
        }
    }

    pub(super) fn shortest(&self) -> Option<u64> {
        self.shortest
    }

    pub(super) fn update(&mut self, trip: Option<u64>, now: Time) {
        self.old = now.since(self.recent_at) > INTERVAL;
        if let Some(trip) = trip
            && (self.old || self.recent.is_none_or(|recent| trip < recent))
        {
            (self.recent, self.recent_at) = (Some(trip), now);
        }
        let expired = now.since(self.shortest_at) > KEPT;
        if expired || self.shortest.is_none() || self.recent < self.shortest {
            (self.shortest, self.shortest_at) = (self.recent, self.recent_at);
        }
    }
}

impl Bbr {
    pub(super) fn update_trips(&mut self, sample: &Sample, now: Time) {
        self.trips.update(sample.round_trip, now);
    }

    /// BBRCheckProbeRTT.
    pub(super) fn check_probe_rtt(&mut self, sample: &Sample, now: Time) {
        if self.phase != Phase::ProbeRtt && self.trips.old && !self.restarting {
            self.phase = Phase::ProbeRtt;
            self.save_window();
            self.trips.done_at = None;
            self.cycle.stop_probe();
            self.start_round();
        }
        if self.phase == Phase::ProbeRtt {
            self.probe_rtt(sample, now);
        }
        self.restarting &= sample.acked == 0;
    }

    fn probe_rtt(&mut self, sample: &Sample, now: Time) {
        self.delivery.limited(sample.pipe);
        if self.trips.done_at.is_none() {
            if sample.pipe <= self.probe_rtt_window() {
                self.trips.done_at = Some(now.plus(DURATION));
                self.trips.round_over = false;
                self.start_round();
            }
            return;
        }
        self.trips.round_over |= self.rounds.began;
        if self.trips.round_over {
            self.end_probe_rtt_in_time(now);
        }
    }

    /// BBRCheckProbeRTTDone.
    pub(super) fn end_probe_rtt_in_time(&mut self, now: Time) {
        if self.trips.done_at.is_none_or(|at| now < at) {
            return;
        }
        self.trips.recent_at = now;
        self.restore_window();
        self.reset_bounds();
        if self.full.reached {
            self.start_down(now);
            self.start_cruise();
        } else {
            self.phase = Phase::Startup;
        }
    }

    pub(super) fn probe_rtt_window(&self) -> u32 {
        let gain = Phase::ProbeRtt.window_gain();
        self.inflight(self.bandwidth(), gain).max(self.least())
    }
}
