//! Congestion control: BBR version 3 (draft-ietf-ccwg-bbr, whose names are used). A model of the path, of bandwidth and round trip, says how
//! fast to send and how much may be in flight; random losses below 2 % do not change it. Bytes and microseconds, rates in bytes a second,
//! gains in percent. It reads no clock, and does not know segments.

mod cycle;
mod latest;
mod probe_rtt;
mod spurious;
mod startup;
#[cfg(test)]
mod tests;

use super::delivery::{Delivery, Sample, Snapshot};
use super::pacing::Pacer;
use super::scoreboard::Span;
use crate::clock::Time;
use crate::seeds::Seeds;
use latest::{Aggregation, Latest};
use probe_rtt::RoundTrips;
use spurious::Undo;
use startup::FullBandwidth;

/// Segments that may be in flight before the first acknowledgement (RFC 6928).
const INITIAL: u32 = 10;
/// Segments that may always be in flight.
const LEAST: u32 = 4;
/// The round trip that is assumed for the first pacing rate before one was timed.
const UNKNOWN_TRIP: u64 = 1_000;
/// On a shorter path nothing is paced, and its round trip counts as this long: timers are not finer, and the time is that which the programs
/// at both ends take for their batches, rather than the path's.
const SHORT_TRIP: u64 = 2_000;
/// What pacing stays below the estimated bandwidth, so that queues drain.
const MARGIN: u64 = 99;
/// Microseconds.
const SECOND: u64 = 1_000_000;
/// No bound.
const NONE: u32 = u32::MAX;

/// What it does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Twice as fast each round trip, until the path is full.
    Startup,
    /// Less than the path delivers, until the queue of Startup is gone.
    Drain,
    /// A little less than the path delivers, for others and to see that the queue is gone.
    Down,
    /// As much as it delivers.
    Cruise,
    /// As much as it delivers, without the bounds that losses gave: the last round trip before `Up`.
    Refill,
    /// More, to see whether it takes more.
    Up,
    /// Half of it, to see the path without a queue.
    ProbeRtt,
}

impl Phase {
    fn pacing_gain(self) -> u64 {
        match self {
            Self::Startup => 277,
            Self::Drain => 50,
            Self::Down => 90,
            Self::Cruise | Self::Refill | Self::ProbeRtt => 100,
            Self::Up => 125,
        }
    }

    fn window_gain(self) -> u64 {
        match self {
            Self::Up => 225,
            Self::Startup | Self::Drain | Self::Down | Self::Cruise | Self::Refill => 200,
            Self::ProbeRtt => 50,
        }
    }

    fn is_cycle(self) -> bool {
        matches!(self, Self::Down | Self::Cruise | Self::Refill | Self::Up)
    }

    /// It may send more than it knows the path to take.
    fn is_probing(self) -> bool {
        matches!(self, Self::Startup | Self::Refill | Self::Up)
    }
}

/// The congestion control of one flow.
#[derive(Debug)]
pub(super) struct Bbr {
    delivery: Delivery,
    seeds: Seeds,
    /// Bytes of a full segment.
    mss: u32,
    /// More in flight is of no use: the buffers are not larger.
    most: u32,
    phase: Phase,
    /// The congestion window.
    window: u32,
    /// The window before something made it small for a while.
    saved: u32,
    /// The pacing rate.
    rate: u64,
    rounds: Rounds,
    /// The highest delivery rates of the last cycle and of this one.
    bandwidths: [u64; 2],
    /// Bounds by losses until the next probe: `bw_lo`, `inflight_lo`.
    bandwidth_low: u64,
    inflight_low: u32,
    /// What the path takes without much loss: `inflight_hi`.
    inflight_high: u32,
    /// What all was before the last losses.
    undo: Option<Undo>,
    /// Losses are being repaired.
    repairing: bool,
    latest: Latest,
    aggregation: Aggregation,
    full: FullBandwidth,
    cycle: cycle::Cycle,
    trips: RoundTrips,
    /// Nothing was in flight; what is sent now is no reason to probe for the round trip.
    restarting: bool,
}

/// Round trips, counted by what is delivered.
#[derive(Debug, Default)]
struct Rounds {
    /// The round ends when something arrives that was sent after so many bytes were delivered.
    end: u64,
    /// One began with this acknowledgement.
    began: bool,
    count: u32,
}

impl Bbr {
    /// For segments of `mss` bytes, with at most `most` in flight. The moments of its probes come from `seed`.
    pub(super) fn new(mss: u32, most: u32, seed: u64, now: Time) -> Self {
        let window = INITIAL * mss;
        Self {
            delivery: Delivery::default(),
            seeds: Seeds::new(seed),
            mss,
            most: most.max(window),
            phase: Phase::Startup,
            window,
            saved: 0,
            rate: first_rate(window, UNKNOWN_TRIP),
            rounds: Rounds::default(),
            bandwidths: [0; 2],
            bandwidth_low: u64::MAX,
            inflight_low: NONE,
            inflight_high: NONE,
            undo: None,
            repairing: false,
            latest: Latest::default(),
            aggregation: Aggregation::default(),
            full: FullBandwidth::default(),
            cycle: cycle::Cycle::default(),
            trips: RoundTrips::new(now),
            restarting: false,
        }
    }

    pub(super) fn delivery(&mut self) -> &mut Delivery {
        &mut self.delivery
    }

    /// The handshake took so long.
    pub(super) fn timed(&mut self, trip: u64, now: Time) {
        self.trips.update(Some(trip), now);
        self.rate = first_rate(self.window, trip);
    }

    /// Bytes that may be in flight.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// Bytes a second to send at; `None` where the path is too short for that.
    pub(super) fn pacing_rate(&self) -> Option<u64> {
        let short = self.trips.shortest().is_some_and(|trip| trip < SHORT_TRIP);
        (!short).then(|| self.rate.max(1))
    }

    /// Segments became longer or shorter.
    pub(super) fn set_mss(&mut self, mss: u32) {
        self.mss = mss;
        self.window = self.window.max(self.least());
    }

    /// So many bytes arrived, the latest sent of them in `latest`.
    pub(super) fn sample(&mut self, acked: u32, latest: &Span, now: Time) -> Sample {
        let shortest = self.trips.shortest().unwrap_or(0);
        self.delivery.sample(acked, latest, shortest, now)
    }

    /// A loss that was repaired before anybody saw it.
    pub(super) fn lost_unseen(&mut self) {
        self.latest.lost(self.mss);
    }

    /// What [`Bbr::sample`] gave, completed (BBRUpdateOnACK).
    pub(super) fn acknowledged(&mut self, sample: &Sample, now: Time) {
        self.update_latest(sample);
        self.update_bandwidth(sample);
        self.update_bounds();
        self.update_aggregation(sample, now);
        self.check_full_bandwidth(sample);
        self.check_startup(sample, now);
        self.check_drain(sample, now);
        self.update_cycle(sample, now);
        self.update_trips(sample, now);
        self.check_probe_rtt(sample, now);
        self.advance_latest(sample);
        self.set_rate(self.phase.pacing_gain());
        self.set_window(sample.acked);
    }

    /// So many bytes are lost that were sent as `snapshot` says (BBRHandleLostPacket).
    pub(super) fn lost(&mut self, len: u32, snapshot: &Snapshot, now: Time) {
        if !std::mem::replace(&mut self.repairing, true) {
            self.remember();
        }
        let lost = self.delivery.lost(len, snapshot);
        self.latest.lost(len);
        if self.cycle.samples_probe && too_much(lost, snapshot.in_flight.into()) {
            let sample = Sample {
                in_flight: in_flight_at_threshold(len, lost, snapshot.in_flight),
                limited: snapshot.is_limited(),
                ..Sample::default()
            };
            self.inflight_too_high(&sample, now);
        }
    }

    /// Nothing was heard for a whole timeout, and all that is in flight counts as lost (BBROnEnterRTO).
    pub(super) fn timed_out(&mut self) {
        self.save_window();
        self.window = self.mss;
    }

    /// Losses are repaired.
    pub(super) fn recovered(&mut self) {
        self.repairing = false;
        self.restore_window();
    }

    /// Something is sent, with nothing in flight, and before there was nothing to send (BBRHandleRestartFromIdle).
    pub(super) fn restarts(&mut self, now: Time) {
        if !self.delivery.is_limited() {
            return;
        }
        self.restarting = true;
        self.aggregation.restart(now);
        if self.phase.is_cycle() {
            self.set_rate(100);
        } else if self.phase == Phase::ProbeRtt {
            self.end_probe_rtt_in_time(now);
        }
    }

    /// The estimated bandwidth (BBRBoundBWForModel).
    fn bandwidth(&self) -> u64 {
        self.max_bandwidth().min(self.bandwidth_low)
    }

    fn max_bandwidth(&self) -> u64 {
        self.bandwidths[0].max(self.bandwidths[1])
    }

    fn least(&self) -> u32 {
        LEAST * self.mss
    }

    /// The bytes that fill the path, times `gain` percent; before anything is known, those of the first flight.
    fn inflight(&self, bandwidth: u64, gain: u64) -> u32 {
        let Some(trip) = self.trips.shortest().filter(|_| bandwidth > 0) else {
            return INITIAL * self.mss;
        };
        let bytes = bandwidth.saturating_mul(trip.max(SHORT_TRIP)) / SECOND * gain / 100;
        u32::try_from(bytes).unwrap_or(NONE)
    }

    /// The same with room for what is on its way through the batches of both ends (BBRQuantizationBudget).
    fn inflight_in_batches(&self, bandwidth: u64, gain: u64) -> u32 {
        let batches = 3 * Pacer::portion(self.rate, self.mss) as u32;
        let up = if self.phase == Phase::Up {
            2 * self.mss
        } else {
            0
        };
        let bytes = self.inflight(bandwidth, gain);
        bytes.max(batches).max(self.least()).saturating_add(up)
    }

    /// What is left for others of what the path takes.
    fn inflight_with_headroom(&self) -> u32 {
        if self.inflight_high == NONE {
            return NONE;
        }
        let headroom = (self.inflight_high / 100 * 15).max(self.mss);
        self.inflight_high
            .saturating_sub(headroom)
            .max(self.least())
    }

    fn set_rate(&mut self, gain: u64) {
        let rate = self.bandwidth().saturating_mul(gain) / 100 * MARGIN / 100;
        if self.full.reached || rate > self.rate {
            self.rate = rate;
        }
    }

    fn set_window(&mut self, acked: u32) {
        let gain = self.phase.window_gain();
        let target = self
            .inflight_in_batches(self.bandwidth(), gain)
            .saturating_add(self.aggregation.extra());
        let grown = self.window.saturating_add(acked);
        if self.full.reached {
            self.window = grown.min(target);
        } else if self.window < target || self.delivery.delivered() < u64::from(INITIAL * self.mss)
        {
            self.window = grown;
        }
        let bound = self.window_bound();
        self.window = self.window.min(bound).min(self.most).max(self.least());
    }

    /// BBRBoundCwndForModel, BBRBoundCwndForProbeRTT.
    fn window_bound(&self) -> u32 {
        let high = match self.phase {
            Phase::Down | Phase::Refill | Phase::Up => self.inflight_high,
            Phase::Cruise => self.inflight_with_headroom(),
            Phase::ProbeRtt => self.inflight_with_headroom().min(self.probe_rtt_window()),
            Phase::Startup | Phase::Drain => NONE,
        };
        high.min(self.inflight_low)
    }

    fn save_window(&mut self) {
        self.saved = self.window.max(self.saved);
    }

    fn restore_window(&mut self) {
        self.window = self.window.max(std::mem::take(&mut self.saved));
    }

    fn start_round(&mut self) {
        self.rounds.end = self.delivery.delivered();
    }
}

/// Before anything was delivered (BBRInitPacingRate).
fn first_rate(window: u32, trip: u64) -> u64 {
    u64::from(window) * SECOND / trip.max(1) * Phase::Startup.pacing_gain() / 100
}

/// More than 2 % were lost of what was in flight (BBR.LossThresh).
fn too_much(lost: u64, in_flight: u64) -> bool {
    lost * 50 > in_flight
}

/// How much was in flight when the losses came to 2 %, `len` of the `lost` bytes being the last (BBRInflightHiFromLostPacket).
fn in_flight_at_threshold(len: u32, lost: u64, in_flight: u32) -> u32 {
    let before = u64::from(in_flight.saturating_sub(len));
    let lost_before = lost - u64::from(len);
    let prefix = (before.saturating_sub(50 * lost_before)) / 49;
    u32::try_from(before + prefix).unwrap_or(NONE)
}
