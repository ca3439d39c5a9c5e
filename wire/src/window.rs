//! How many bytes may be on their way through a stream, so that it is busy and yet nearly empty.
//!
//! A stream through proxies hides loss and has megabytes of buffers: whoever fills it turns them into delay. The receiver
//! reports how much has come; the sender keeps in flight what makes the round trip [`QUEUE`] longer than the shortest one seen.
//!
//! A lost segment of the TCP below holds back everything after it for a round trip, and then all of it comes at once. That is no
//! queue: nothing waits before the bottleneck. So a round is judged by its shortest round trip, which a queue lengthens and a loss
//! does not. From there the window goes to (shortest + QUEUE) / measured of itself, as in FAST TCP (Wei, Jin, Low, Hegde: IEEE/ACM
//! Transactions on Networking 14(6), 2006), half the way; faster after two rounds with a queue, and by a quarter where there
//! is none, as BBR probes (draft-ietf-ccwg-bbr). Until there is a first queue it doubles. There is no largest window but what
//! fits no machine.
//!
//! The shortest round trip is looked for anew by a short pause of the queue, as BBR does: every `FRESH`, and when a smaller window does
//! not make the round trip shorter. It must not know what is sent.

mod round;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::round::{Found, Mark, Round, scaled};

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
/// After how many rounds of shrinking without effect it is no longer believed either.
const PATIENCE: u8 = 4;
/// For how many rounds it is looked for.
const PAUSE: u8 = 5;
/// What counts as seen again: this much longer, and an eighth.
const NEARLY: Duration = Duration::from_millis(1);

/// For how long a piece sent at once may keep the path busy, and after how long a report is asked for: each report lets a burst of that
/// length go.
const SHARE: Duration = Duration::from_millis(3);
/// Bounds of what that makes, in bytes: of a report's interval, and of a piece.
const REPORT_EVERY: (usize, usize) = (2 << 10, 256 << 10);
const PIECE: (usize, usize) = (1_500, 65_535);

/// Whoever has had room for so long and did not use it has nothing to send.
const IDLE: Duration = Duration::from_millis(2);

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
    /// Rounds in which the window is filled again: what they measure at first is the empty path.
    refilling: u8,
    /// Rounds that may have waited for what was lost below.
    stalled: u8,
    /// The window before it began to shrink, and for how many rounds it has.
    shrinking: Option<Shrinking>,
    sent: u64,
    received: u64,
    /// When the last report came, and since when the next one could.
    heard: Instant,
    expected: Instant,
    marks: VecDeque<Mark>,
    round: Round,
    /// What the round before found.
    before: Option<Found>,
    base: Option<Base>,
    pause: Option<Pause>,
}

/// A row of rounds that each found a queue.
#[derive(Clone, Copy, Debug)]
struct Shrinking {
    from: usize,
    rounds: u8,
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
    /// Rounds so far, and the shortest round trip of all but the first.
    rounds: u8,
    shortest: Option<Duration>,
}

impl Window {
    /// A window for what is sent after the stream's first `position` bytes.
    pub fn new(position: u64, now: Instant) -> Self {
        Self {
            heard: now,
            expected: now,
            size: INITIAL,
            starting: true,
            refilling: 0,
            stalled: 0,
            shrinking: None,
            sent: position,
            received: position,
            marks: VecDeque::new(),
            round: Round::new(0, false, now),
            before: None,
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
        scaled(self.size, SHARE, rtt)
    }

    /// So many more bytes were handed to the stream; beyond the room too, if they had to be.
    pub fn sent(&mut self, bytes: usize, now: Instant) {
        // The receiver may keep that much unreported.
        if self.in_flight() < self.size / 4 {
            self.expected = now + self.base.map_or(Duration::ZERO, |base| base.rtt);
        }
        let idle = now.saturating_duration_since(self.heard) >= IDLE;
        if idle && self.stalled == 0 && self.in_flight() < self.size / 2 {
            self.refilling = 2;
        }
        self.sent += bytes as u64;
        if self.in_flight() >= self.size {
            self.round.limited = true;
        }
        if self.marks.len() < MARKS && self.marks.back().is_none_or(|last| self.is_far(last, now)) {
            self.marks.push_back(Mark {
                position: self.sent,
                at: now,
                size: self.size,
                flight: self.in_flight(),
            });
        }
    }

    /// Whether what is sent now deserves a mark of its own: all of them last for two windows, or two round trips.
    fn is_far(&self, last: &Mark, now: Instant) -> bool {
        let time = self.base.map_or(QUEUE, |base| base.rtt + QUEUE);
        self.sent - last.position >= (self.size / (MARKS / 2)) as u64
            || now.saturating_duration_since(last.at) >= time / (MARKS as u32 / 2)
    }

    /// The receiver reports how many bytes have come in all. What cannot be is ignored.
    pub fn received(&mut self, total: u64, now: Instant) {
        if total <= self.received || total > self.sent {
            return;
        }
        self.received = total;
        self.note_stall(now);
        // What came before it may have waited for a report to be worth it.
        let last =
            std::iter::from_fn(|| self.marks.pop_front_if(|mark| mark.position <= total)).last();
        if let Some(mark) = last {
            self.measured(mark, now);
        }
        if total >= self.round.end || self.round_is_long(now) {
            self.end_round(now);
        }
    }

    /// A queue lets its bytes out one after the other; behind a loss nothing comes for a round trip.
    fn note_stall(&mut self, now: Instant) {
        let usual = self.base.map_or(QUEUE, |base| QUEUE.max(base.rtt / 2));
        if now.saturating_duration_since(self.expected) > usual {
            self.stalled = 2;
            self.refilling = 0;
        }
        self.heard = now;
        self.expected = now;
    }

    fn in_flight(&self) -> usize {
        usize::try_from(self.sent - self.received).unwrap_or(usize::MAX)
    }

    fn measured(&mut self, mark: Mark, now: Instant) {
        // A clock that stands still would make every round trip infinitely faster than any other.
        let rtt = now
            .saturating_duration_since(mark.at)
            .max(Duration::from_micros(1));
        self.round.measured(mark, rtt);
        match &mut self.base {
            Some(base) if rtt > base.nearly() => {}
            Some(base) => {
                *base = Base {
                    rtt: base.rtt.min(rtt),
                    seen: now,
                }
            }
            None => self.base = Some(Base { rtt, seen: now }),
        }
    }

    /// Whether the round has to end though not all of it has come: its beginning was faster than it is now. A pause has all the time.
    fn round_is_long(&self, now: Instant) -> bool {
        self.pause.is_none()
            && (self.base)
                .is_some_and(|base| self.round.is_longer_than((base.rtt + QUEUE) * 2, now))
    }

    fn end_round(&mut self, now: Instant) {
        if let (Some(found), Some(base)) = (self.round.found(), self.base) {
            self.judge(found, base, now);
            self.refilling = self.refilling.saturating_sub(1);
            self.stalled = self.stalled.saturating_sub(1);
            self.before = Some(found);
        }
        let limited = self.in_flight() >= self.size;
        self.round = Round::new(self.sent, limited, now);
    }

    fn judge(&mut self, found: Found, base: Base, now: Instant) {
        let stale = now.saturating_duration_since(base.seen) >= FRESH;
        if self.pause.is_some() {
            self.go_on_pausing(found.shortest, base, now);
        } else if stale && !self.round.limited {
            // Nothing of ours was in the way.
            self.rebase(found.shortest, base.rtt, now);
        } else if stale || self.shrinks_in_vain() {
            let emptying = base.rtt.saturating_sub(QUEUE).max(base.rtt / 2);
            self.begin_pause(found.in_time(emptying));
        } else if self.round.limited {
            self.adapt(found, base.rtt);
        } else {
            self.curb(found, base.rtt + QUEUE);
        }
    }

    /// The window was full: it is made larger or smaller.
    fn adapt(&mut self, found: Found, base: Duration) {
        let aim = base + QUEUE;
        let queued = aim + QUEUE / 4;
        if found.shortest <= queued {
            self.shrinking = None;
        }
        if found.shortest <= aim {
            self.use_what_is_left(found, base);
        } else if let Some(before) = self
            .before
            .filter(|before| before.shortest.min(found.shortest) > queued)
        {
            self.shrink(found.in_time(aim).max(before.in_time(aim)));
        } else {
            self.end_start(found.size);
            if found.shortest < aim + QUEUE {
                self.go_down(found.in_time(aim));
            }
        }
    }

    fn use_what_is_left(&mut self, found: Found, base: Duration) {
        let aim = base + QUEUE;
        if self.refilling == 0 {
            self.grow(found.size, found.shortest, base);
        } else if self.starting && found.longest <= base + aim / 2 {
            // What begins to fill a window meets an empty path: its last byte knows more than its first.
            self.size = (self.size * 2).min(CEILING);
        } else if found.longest <= aim {
            self.grow(found.size, found.longest, base);
        } else {
            self.end_start(found.size);
            self.curb(found, aim);
        }
    }

    /// Bursts that hardly fill the window, if at all, make a queue of their own.
    fn curb(&mut self, found: Found, aim: Duration) {
        let long = |it: &Found| it.longest > aim + QUEUE;
        // Of a few bytes the rate of the path cannot be told.
        let much = found.flight >= self.size / 4;
        if much && self.stalled == 0 && long(&found) && self.before.as_ref().is_some_and(long) {
            self.starting = false;
            self.go_down(scaled(found.flight, aim, found.longest));
        }
    }

    /// Half the way to a smaller window.
    fn go_down(&mut self, wanted: usize) {
        self.size = usize::midpoint(self.size, wanted.min(self.size)).max(FLOOR);
    }

    /// There is a first queue: the last doubling was one too many.
    fn end_start(&mut self, size: usize) {
        if self.starting {
            self.starting = false;
            self.size = self.size.min(size);
        }
    }

    fn grow(&mut self, size: usize, rtt: Duration, base: Duration) {
        if rtt >= base + (QUEUE / 2).max(base / 8) {
            self.end_start(size);
        }
        let wanted = scaled(size, base + QUEUE, rtt);
        let next = if self.starting {
            self.size * 2
        } else if rtt < base + QUEUE / 4 {
            // On a long path the ratio says little.
            usize::midpoint(size, wanted).max(size + size / 4)
        } else {
            // The measurement is of a round trip ago: full steps would swing for ever.
            usize::midpoint(self.size, wanted)
        };
        self.size = next.clamp(self.size, self.size * 2).min(CEILING);
    }

    /// Goes towards `wanted`, what the path moves while it has the queue that it should have; by half at most.
    fn shrink(&mut self, wanted: usize) {
        let row = self.shrinking.get_or_insert(Shrinking {
            from: self.size,
            rounds: 0,
        });
        row.rounds += 1;
        self.starting = false;
        self.size = wanted.clamp(self.size / 2, self.size).max(FLOOR);
    }

    /// Whether the round trip stays long however small the window becomes: the path itself may have become longer.
    fn shrinks_in_vain(&self) -> bool {
        self.shrinking.is_some_and(|row| row.rounds >= PATIENCE)
    }

    /// A queue is out after a round trip with a window smaller than what the path itself holds.
    fn begin_pause(&mut self, size: usize) {
        self.pause = Some(Pause {
            size: self.size,
            rounds: 0,
            shortest: None,
        });
        self.size = size.min(self.size).max(FLOOR);
    }

    /// The first round of a pause lets the queue out, the others measure until the shortest round trip is seen again.
    fn go_on_pausing(&mut self, rtt: Duration, base: Base, now: Instant) {
        let Some(pause) = &mut self.pause else { return };
        pause.rounds += 1;
        if pause.rounds == 1 {
            return;
        }
        let rtt = pause.shortest.map_or(rtt, |shortest| shortest.min(rtt));
        pause.shortest = Some(rtt);
        if base.seen == now || rtt <= base.nearly() || pause.rounds > PAUSE {
            self.size = pause.size;
            self.pause = None;
            self.refilling = 3;
            self.rebase(rtt, base.rtt, now);
        } else {
            // What is left now was no queue, or it will be gone.
            self.size = (self.size / 2).max(FLOOR);
        }
    }

    fn rebase(&mut self, rtt: Duration, before: Duration, now: Instant) {
        if let Some(row) = self.shrinking.take()
            && rtt > before + QUEUE
        {
            // There was no queue to get rid of, and nothing is known of the new path.
            self.size = row.from;
            self.starting = true;
        }
        self.base = Some(Base { rtt, seen: now });
    }
}

impl Base {
    /// What counts as seen again.
    fn nearly(&self) -> Duration {
        self.rtt + self.rtt / 8 + NEARLY
    }
}

#[cfg(test)]
mod tests;
