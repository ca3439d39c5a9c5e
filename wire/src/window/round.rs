//! What a round trip's worth of bytes tells of the path. It decides nothing.

use std::time::{Duration, Instant};

/// When the stream's byte number `position` was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) position: u64,
    pub(super) at: Instant,
    /// The window then, and what was in flight.
    pub(super) size: usize,
    pub(super) flight: usize,
}

/// One round: until what was sent last when it began has arrived, or it has taken as long as two round trips may.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) end: u64,
    began: Instant,
    /// The shortest round trip, and the window when what took it was sent.
    shortest: Option<(Duration, usize)>,
    /// The longest, and what was in flight with it.
    longest: (Duration, usize),
    /// Whether more would have been sent with a larger window.
    pub(super) limited: bool,
}

/// What a round found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) shortest: Duration,
    /// The window when what took the shortest round trip was sent.
    pub(super) size: usize,
    pub(super) longest: Duration,
    /// What was in flight with the longest.
    pub(super) flight: usize,
}

impl Round {
    pub(super) fn new(end: u64, limited: bool, now: Instant) -> Self {
        Self {
            end,
            began: now,
            shortest: None,
            longest: (Duration::ZERO, 0),
            limited,
        }
    }

    /// What was marked has arrived.
    pub(super) fn measured(&mut self, mark: Mark, rtt: Duration) {
        if self.shortest.is_none_or(|(shortest, _)| rtt < shortest) {
            self.shortest = Some((rtt, mark.size));
        }
        self.longest = self.longest.max((rtt, mark.flight));
    }

    /// Whether it has taken that long, and has something to say.
    pub(super) fn is_longer_than(&self, time: Duration, now: Instant) -> bool {
        self.shortest.is_some() && now.saturating_duration_since(self.began) > time
    }

    /// What it found, if anything.
    pub(super) fn found(&self) -> Option<Found> {
        let (shortest, size) = self.shortest?;
        let (longest, flight) = self.longest;
        Some(Found {
            shortest,
            size,
            longest,
            flight,
        })
    }
}

impl Found {
    /// The bytes that make a round trip of `time`, by Little's law: the rate is that of the shortest round trip.
    pub(super) fn in_time(&self, time: Duration) -> usize {
        scaled(self.size, time, self.shortest)
    }
}

/// `bytes` x `numerator` / `denominator`.
pub(super) fn scaled(bytes: usize, numerator: Duration, denominator: Duration) -> usize {
    let scaled = bytes as u128 * numerator.as_nanos() / denominator.as_nanos().max(1);
    usize::try_from(scaled).unwrap_or(usize::MAX)
}
