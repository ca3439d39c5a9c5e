//! Round-trip times and the retransmission timeout (RFC 6298). Numbers only; all times are microseconds.

use crate::clock::Time;

/// Before a round trip was timed (RFC 6298 section 2.1).
const FIRST: u64 = 1_000_000;
/// The shortest timeout: as long as Linux's, because peers may hold acknowledgements back for as long.
const SHORTEST: u64 = 200_000;
/// The longest timeout (RFC 6298 section 2.5).
const LONGEST: u64 = 60_000_000;
/// A shortest round trip that was seen longer ago than this counts no more.
const FORGET_SHORTEST: u64 = 10_000_000;

/// What is known of the path's round trip.
#[derive(Debug, Default)]
pub(super) struct RoundTrip {
    smoothed: Option<u64>,
    variation: u64,
    shortest: u64,
    shortest_at: Time,
    /// Timeouts in a row.
    backoff: u32,
}

impl RoundTrip {
    pub(super) fn sample(&mut self, micros: u64, now: Time) {
        let micros = micros.max(1);
        if self.smoothed.is_none()
            || micros <= self.shortest
            || now.since(self.shortest_at) > FORGET_SHORTEST
        {
            self.shortest = micros;
            self.shortest_at = now;
        }
        match self.smoothed {
            None => {
                self.variation = micros / 2;
                self.smoothed = Some(micros);
            }
            Some(smoothed) => {
                let off = smoothed.abs_diff(micros);
                self.variation = (3 * self.variation + off) / 4;
                self.smoothed = Some((7 * smoothed + micros) / 8);
            }
        }
    }

    /// The smoothed round trip; `None` before one was timed.
    pub(super) fn smoothed(&self) -> Option<u64> {
        self.smoothed
    }

    /// The shortest round trip of the last seconds; 0 before one was timed.
    pub(super) fn shortest(&self) -> u64 {
        self.shortest
    }

    /// How long to wait for an acknowledgement.
    pub(super) fn timeout(&self) -> u64 {
        let base = self.smoothed.map_or(FIRST, |smoothed| {
            (smoothed + 4 * self.variation).max(SHORTEST)
        });
        base.saturating_mul(1 << self.backoff.min(20)).min(LONGEST)
    }

    /// It ran out: the next one is twice as long.
    pub(super) fn back_off(&mut self) {
        self.backoff += 1;
    }

    /// The peer acknowledged something.
    pub(super) fn answered(&mut self) {
        self.backoff = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_rfc_computes() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.timeout(), FIRST);
        trip.sample(400_000, Time::default());
        // SRTT = R, RTTVAR = R / 2, RTO = SRTT + 4 RTTVAR.
        assert_eq!(trip.timeout(), 1_200_000);
        trip.sample(600_000, Time::default());
        // RTTVAR = 3/4 * 200 + 1/4 * 200 = 200, SRTT = 7/8 * 400 + 1/8 * 600 = 425.
        assert_eq!(
            (trip.smoothed(), trip.timeout()),
            (Some(425_000), 1_225_000)
        );
        assert_eq!(trip.shortest(), 400_000);
    }

    #[test]
    fn bounds_and_backoff() {
        let mut trip = RoundTrip::default();
        (0..50).for_each(|_| trip.sample(100, Time::default()));
        assert_eq!(trip.timeout(), SHORTEST);
        trip.back_off();
        trip.back_off();
        assert_eq!(trip.timeout(), 4 * SHORTEST);
        (0..100).for_each(|_| trip.back_off());
        assert_eq!(trip.timeout(), LONGEST);
        trip.answered();
        assert_eq!(trip.timeout(), SHORTEST);
    }

    #[test]
    fn an_old_shortest_round_trip_is_forgotten() {
        let mut trip = RoundTrip::default();
        trip.sample(100, Time::default());
        trip.sample(5000, Time::default().plus(FORGET_SHORTEST));
        assert_eq!(trip.shortest(), 100);
        trip.sample(5000, Time::default().plus(FORGET_SHORTEST + 1));
        assert_eq!(trip.shortest(), 5000);
    }
}
