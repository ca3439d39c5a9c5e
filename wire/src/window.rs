//! How many bytes may be on their way through a stream, so that it is busy and yet nearly empty.
//!
//! A stream through proxies hides loss and has megabytes of buffers: whoever fills it turns them into delay. The receiver
//! reports how much has come; the sender keeps in flight what makes the round trip [`QUEUE`] longer than the shortest one seen. Each
//! round trip the window goes half the way to (shortest + QUEUE) / measured of itself, as in FAST TCP (Wei, Jin, Low, Hegde: IEEE/ACM
//! Transactions on Networking 14(6), 2006); until there is a first queue it doubles. There is no largest window but what fits no machine.
//!
//! The shortest round trip is looked for anew every `FRESH` by a short pause of the queue, as BBR does (draft-cardwell-iccrg-bbr-
//! congestion-control, section 4.3.4). It must not know what is sent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The delay that our own queue may add. Sharing a bottleneck with other traffic needs some, and so do the bursts in which proxies work.
pub const QUEUE: Duration = Duration::from_millis(12);

/// The smallest window, in bytes: small enough for 10 Mbit/s, and more than any receiver keeps unreported.
pub const FLOOR: usize = 8 << 10;

/// The window before anything is known.
const INITIAL: usize = 64 << 10;
/// No machine has more in its buffers.
const CEILING: usize = 1 << 30;

/// How long the shortest round trip is believed without being seen again.
const FRESH: Duration = Duration::from_secs(10);
/// What counts as seen again: this much longer, and an eighth.
const NEARLY: Duration = Duration::from_millis(1);

/// For how long a piece sent at once may keep the path busy, and after how long a report is asked for: each report lets a burst of that
/// length go.
const SHARE: Duration = Duration::from_millis(3);
/// Bounds of what that makes, in bytes: of a report's interval, and of a piece.
const REPORT_EVERY: (usize, usize) = (2 << 10, 256 << 10);
const PIECE: (usize, usize) = (1_500, 65_535);

/// Positions whose time of sending is known at once.
const MARKS: usize = 64;

/// The window of one direction of a stream.
///
/// Tell it what was [`Window::sent`] and what the receiver [reported](Window::received); send while there is [`Window::room`].
#[derive(Debug)]
pub struct Window {
    size: usize,
    /// There has been no queue yet: the window doubles each round trip.
    starting: bool,
    /// Round trips whose measurements are of another window, or of one that is being filled again.
    stale: u8,
    sent: u64,
    received: u64,
    marks: VecDeque<Mark>,
    round: Round,
    base: Option<Base>,
    pause: Option<Pause>,
}

/// When the stream's byte number `position` was sent.
#[derive(Clone, Copy, Debug)]
struct Mark {
    position: u64,
    at: Instant,
}

/// One round trip: until what was sent last when it began has arrived.
#[derive(Debug, Default)]
struct Round {
    end: u64,
    /// What its marks took: the shortest, all together, and how many.
    shortest: Option<Duration>,
    sum: Duration,
    count: u32,
    /// Whether more would have been sent with a larger window.
    limited: bool,
}

/// The round trip of an empty stream.
#[derive(Clone, Copy, Debug)]
struct Base {
    rtt: Duration,
    seen: Instant,
}

/// The queue is let out, to see the stream empty.
#[derive(Debug)]
struct Pause {
    /// The window to go back to.
    size: usize,
    /// Whether the queue from before is out.
    empty: bool,
}

impl Window {
    /// A window for what is sent after the stream's first `position` bytes.
    pub fn new(position: u64) -> Self {
        Self {
            size: INITIAL,
            starting: true,
            stale: 0,
            sent: position,
            received: position,
            marks: VecDeque::new(),
            round: Round::default(),
            base: None,
            pause: None,
        }
    }

    /// Bytes that may be sent now.
    pub fn room(&self) -> usize {
        self.size.saturating_sub(self.in_flight())
    }

    /// The window, in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// How long the longest piece sent at once is to be, in bytes: what waits behind it waits that long.
    pub fn piece(&self) -> usize {
        self.share().clamp(PIECE.0, PIECE.1)
    }

    /// After how many bytes the receiver is to report. Always less than [`FLOOR`] / 2 when the window is that small, so
    /// that what the receiver keeps unreported never fills the window.
    pub fn report_every(&self) -> usize {
        self.share().clamp(REPORT_EVERY.0, REPORT_EVERY.1)
    }

    /// What the path moves in the time of a [`SHARE`], if the window fills it.
    fn share(&self) -> usize {
        let rtt = self.base.map_or(Duration::ZERO, |base| base.rtt) + QUEUE;
        let share = self.size as u128 * SHARE.as_nanos() / rtt.as_nanos();
        usize::try_from(share).unwrap_or(self.size)
    }

    /// So many more bytes were handed to the stream; beyond the room too, if they had to be.
    pub fn sent(&mut self, bytes: usize, now: Instant) {
        self.sent += bytes as u64;
        if self.in_flight() >= self.size {
            self.round.limited = true;
        }
        let spacing = (self.size / (MARKS / 2)) as u64;
        let last = self
            .marks
            .back()
            .map_or(self.received, |mark| mark.position);
        if self.marks.is_empty() || (self.sent - last >= spacing && self.marks.len() < MARKS) {
            self.marks.push_back(Mark {
                position: self.sent,
                at: now,
            });
        }
    }

    /// The receiver reports how many bytes have come in all. What cannot be is ignored.
    pub fn received(&mut self, total: u64, now: Instant) {
        if total <= self.received || total > self.sent {
            return;
        }
        self.received = total;
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.position <= total) {
            self.measured(now.saturating_duration_since(mark.at), now);
        }
        if total >= self.round.end {
            self.end_round(now);
        }
    }

    fn in_flight(&self) -> usize {
        usize::try_from(self.sent - self.received).unwrap_or(usize::MAX)
    }

    fn measured(&mut self, rtt: Duration, now: Instant) {
        // A clock that stands still would make every round trip infinitely faster than any other.
        let rtt = rtt.max(Duration::from_micros(1));
        self.round.shortest = Some(
            self.round
                .shortest
                .map_or(rtt, |shortest| shortest.min(rtt)),
        );
        self.round.sum += rtt;
        self.round.count += 1;
        match &mut self.base {
            Some(base) if rtt > base.rtt + base.rtt / 8 + NEARLY => {}
            Some(base) => {
                *base = Base {
                    rtt: base.rtt.min(rtt),
                    seen: now,
                }
            }
            None => self.base = Some(Base { rtt, seen: now }),
        }
    }

    fn end_round(&mut self, now: Instant) {
        if let (Some(shortest), Some(base)) = (self.round.shortest, self.base) {
            // Whoever sends in bursts has a queue at the end of each and none at its beginning.
            let rtt = self.round.sum / self.round.count;
            if self.pause.is_some() {
                self.go_on_pausing(shortest, now);
            } else if now.saturating_duration_since(base.seen) >= FRESH {
                self.begin_pause(base.rtt);
            } else {
                self.adapt(rtt, base.rtt);
            }
        }
        self.round = Round {
            end: self.sent,
            limited: self.in_flight() >= self.size,
            ..Round::default()
        };
    }

    fn adapt(&mut self, rtt: Duration, base: Duration) {
        let aim = (base + QUEUE).as_nanos();
        let wanted = self.size as u128 * aim / rtt.as_nanos();
        let wanted = usize::try_from(wanted)
            .unwrap_or(CEILING)
            .min(self.size * 2);
        if self.stale > 0 {
            self.stale -= 1;
            return;
        }
        if wanted > self.size && !self.round.limited {
            return;
        }
        let empty = rtt < base + QUEUE / 4;
        self.starting &= rtt < base + (QUEUE / 2).max(base / 8);
        let next = if self.starting {
            self.size * 2
        } else if empty {
            // On a long path the ratio says little.
            usize::midpoint(self.size, wanted).max(self.size + self.size / 8)
        } else if rtt > base + QUEUE * 4 {
            self.stale = 1;
            wanted
        } else {
            // The measurement is of a round trip ago: full steps would swing for ever.
            usize::midpoint(self.size, wanted)
        };
        self.size = next.clamp(FLOOR, CEILING);
    }

    /// A queue of [`QUEUE`] is out after a round trip with half of what the path itself holds.
    fn begin_pause(&mut self, base: Duration) {
        let aim = (base + QUEUE).as_nanos();
        let path = self.size as u128 * base.as_nanos() / aim;
        self.pause = Some(Pause {
            size: self.size,
            empty: false,
        });
        self.size = usize::try_from(path / 2).unwrap_or(FLOOR).max(FLOOR);
    }

    /// The first round of a pause lets the queue out, the second measures.
    fn go_on_pausing(&mut self, rtt: Duration, now: Instant) {
        let Some(pause) = &mut self.pause else { return };
        if !pause.empty {
            pause.empty = true;
            return;
        }
        self.size = pause.size;
        self.pause = None;
        self.stale = 2;
        self.base = Some(Base { rtt, seen: now });
    }
}

#[cfg(test)]
mod tests;
