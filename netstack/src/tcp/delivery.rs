//! How fast the path delivers: a sample of the rate with each acknowledgement (draft-ietf-ccwg-bbr section 4.1). Bytes and
//! microseconds; rates in bytes a second. It only counts: what follows is decided in `bbr.rs`.

use super::scoreboard::Span;
use crate::clock::Time;

/// Microseconds.
const SECOND: u64 = 1_000_000;

/// What was known when something was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Bytes delivered until then.
    pub(super) delivered: u64,
    /// When the last of them were.
    delivered_at: Time,
    /// When that was sent which arrived last.
    first_sent: Time,
    /// Bytes lost until then.
    pub(super) lost: u64,
    /// Bytes in flight, these among them.
    pub(super) in_flight: u32,
    /// There was less to send than the path would have taken.
    limited: bool,
}

impl Snapshot {
    pub(super) fn is_limited(&self) -> bool {
        self.limited
    }
}

/// What one acknowledgement says about the path.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    /// Bytes that arrived with it.
    pub(super) acked: u32,
    /// Bytes that are in flight now.
    pub(super) pipe: u32,
    pub(super) round_trip: Option<u64>,
    /// The window, and nothing else, kept more from being in flight.
    pub(super) window_limited: bool,
    /// Losses are being repaired.
    pub(super) recovering: bool,
    /// Bytes a second; 0 when the time is too short to tell.
    pub(super) rate: u64,
    /// Bytes delivered since the latest of what arrived was sent.
    pub(super) delivered: u64,
    /// Bytes lost since then.
    pub(super) lost: u64,
    /// Bytes delivered before.
    pub(super) prior: u64,
    /// Bytes in flight then.
    pub(super) in_flight: u32,
    /// There was less to send than the path would have taken.
    pub(super) limited: bool,
}

/// The counts of one flow.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    delivered: u64,
    delivered_at: Time,
    first_sent: Time,
    lost: u64,
    /// There is too little to send until so many bytes are delivered; 0 when there is enough.
    limited_until: u64,
}

impl Delivery {
    /// Bytes delivered so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// So many bytes are sent on top of `pipe`.
    pub(super) fn sent(&mut self, len: u32, pipe: u32, now: Time) -> Snapshot {
        if pipe == 0 {
            (self.first_sent, self.delivered_at) = (now, now);
        }
        Snapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            lost: self.lost,
            in_flight: pipe.saturating_add(len),
            limited: self.limited_until > 0,
        }
    }

    /// All there is to send is out, with room for more.
    pub(super) fn limited(&mut self, pipe: u32) {
        self.limited_until = (self.delivered + u64::from(pipe)).max(1);
    }

    /// Whether what is sent now says less than the path could do.
    pub(super) fn is_limited(&self) -> bool {
        self.limited_until > 0
    }

    /// So many bytes are lost; returns how many since that snapshot.
    pub(super) fn lost(&mut self, len: u32, snapshot: &Snapshot) -> u64 {
        self.lost += u64::from(len);
        self.lost - snapshot.lost
    }

    /// So many bytes arrived, the latest sent of them in `latest`. Shorter times than the `shortest` round trip are not believed.
    pub(super) fn sample(&mut self, acked: u32, latest: &Span, shortest: u64, now: Time) -> Sample {
        self.delivered += u64::from(acked);
        self.delivered_at = now;
        if self.delivered > self.limited_until {
            self.limited_until = 0;
        }
        let then = &latest.snapshot;
        let sending = latest.sent.since(then.first_sent);
        let interval = sending.max(now.since(then.delivered_at));
        self.first_sent = latest.sent;
        let delivered = self.delivered - then.delivered;
        let rate = if interval < shortest.max(1) {
            0
        } else {
            delivered * SECOND / interval
        };
        Sample {
            acked,
            rate,
            delivered,
            lost: self.lost - then.lost,
            prior: then.delivered,
            in_flight: then.in_flight,
            limited: then.limited,
            ..Sample::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::scoreboard::State;
    use crate::tcp::sequence::Seq;

    fn at(millis: u64) -> Time {
        Time::default().plus(millis * 1000)
    }

    fn span(sent: Time, snapshot: Snapshot) -> Span {
        Span {
            start: Seq(0),
            end: Seq(1),
            sent,
            state: State::Flying,
            again: false,
            snapshot,
        }
    }

    /// 10,000 bytes every 10 ms, acknowledged after 20 ms: a megabyte a second.
    #[test]
    fn the_rate_of_a_steady_flow() {
        let mut delivery = Delivery::default();
        let mut sent = Vec::new();
        for step in 0..10_usize {
            let now = at(10 * step as u64);
            if step >= 2 {
                let sample = delivery.sample(10_000, &sent[step - 2], 20_000, now);
                assert!(!sample.limited);
                assert!(step < 4 || sample.rate == 1_000_000, "{}", sample.rate);
            }
            let pipe = 10_000 * step.min(1) as u32;
            sent.push(span(now, delivery.sent(10_000, pipe, now)));
        }
    }

    /// Acknowledgements that were held up and come at once do not look like a faster path: the time it took to send counts.
    #[test]
    fn held_up_acknowledgements() {
        let mut delivery = Delivery::default();
        let first = span(at(0), delivery.sent(10_000, 0, at(0)));
        let last = span(at(50), delivery.sent(10_000, 10_000, at(50)));
        assert_eq!(delivery.sample(10_000, &first, 1000, at(60)).rate, 166_666);
        assert_eq!(delivery.sample(10_000, &last, 1000, at(60)).rate, 333_333);
    }

    #[test]
    fn too_little_to_send() {
        let mut delivery = Delivery::default();
        let before = span(at(0), delivery.sent(1000, 0, at(0)));
        delivery.limited(1000);
        let behind = span(at(1), delivery.sent(1000, 1000, at(1)));
        assert!(!delivery.sample(1000, &before, 1, at(10)).limited);
        assert!(delivery.is_limited());
        assert!(delivery.sample(1000, &behind, 1, at(11)).limited);
        assert!(!delivery.is_limited());
    }

    #[test]
    fn losses_since() {
        let mut delivery = Delivery::default();
        let first = delivery.sent(1000, 0, at(0));
        assert_eq!(delivery.lost(300, &first), 300);
        let second = delivery.sent(1000, 700, at(1));
        assert_eq!((delivery.lost(200, &first), second.lost), (500, 300));
        assert_eq!(
            delivery.sample(500, &span(at(1), second), 1, at(9)).lost,
            200
        );
    }
}
