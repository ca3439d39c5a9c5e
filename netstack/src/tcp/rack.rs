//! RACK: what was sent before something that arrived, and long enough before it, is lost (RFC 8985 sections 6 and 7.4). Times in
//! microseconds.

use super::scoreboard::{Scoreboard, Span};
use super::sequence::Seq;
use crate::clock::Time;

/// Segments that arrived behind a gap, from which on it is no reordering, as long as none was seen (RFC 8985 section 6.2).
const DUPLICATES: u32 = 3;
/// Recoveries for which a wider reordering window stays (RFC 8985 section 6.2).
const KEEP_WIDE: u8 = 16;

/// What is known of the latest segment that arrived.
#[derive(Debug, Default)]
pub(super) struct Rack {
    sent: Time,
    end: Seq,
    /// How long it took.
    round_trip: u64,
    known: bool,
    /// The highest sequence number that arrived.
    highest: Option<Seq>,
    reordering: bool,
    /// Quarters of the shortest round trip that segments may be late.
    quarters: u64,
    recoveries_left: u8,
    /// Duplicates were told of since; until when they count as one news.
    duplicate_until: Option<Seq>,
}

impl Rack {
    /// A span arrived (RFC 8985 section 6.2, steps 1 to 3).
    pub(super) fn arrived(&mut self, span: &Span, shortest: u64, now: Time) {
        let highest = *self.highest.get_or_insert(span.end);
        if span.end.is_after(highest) {
            self.highest = Some(span.end);
        } else if span.end.is_before(highest) && !span.again {
            self.reordering = true;
        }
        let round_trip = now.since(span.sent);
        // Too soon: that was the one sent before.
        if span.again && round_trip < shortest {
            return;
        }
        if !self.known || is_later(span.sent, span.end, self.sent, self.end) {
            self.known = true;
            (self.sent, self.end, self.round_trip) = (span.sent, span.end, round_trip);
        }
    }

    /// The peer says that a segment came twice: what was sent again was not lost, but late (step 4).
    pub(super) fn duplicate(&mut self, una: Seq, nxt: Seq) {
        if self
            .duplicate_until
            .is_none_or(|until| !una.is_before(until))
        {
            self.duplicate_until = Some(nxt);
            self.quarters = (self.quarters.max(1) + 1).min(64);
            self.recoveries_left = KEEP_WIDE;
        }
    }

    /// A recovery ended.
    pub(super) fn recovered(&mut self) {
        self.recoveries_left = self.recoveries_left.saturating_sub(1);
        if self.recoveries_left == 0 {
            self.quarters = 1;
        }
    }

    /// Marks what is lost and gives it to `seen`; returns how many bytes, and how long until more may be (step 5).
    pub(super) fn judge(
        &self,
        board: &mut Scoreboard,
        recovering: bool,
        mss: u32,
        (shortest, smoothed): (u64, u64),
        now: Time,
        mut seen: impl FnMut(&Span),
    ) -> (u32, Option<u64>) {
        if !self.known {
            return (0, None);
        }
        let late = self.lateness(board, recovering, mss, shortest, smoothed);
        let allowed = self.round_trip + late;
        let mut wait = None;
        let lost = board.judge(|span| {
            if !is_later(self.sent, self.end, span.sent, span.end) {
                return false;
            }
            let elapsed = now.since(span.sent);
            if elapsed >= allowed {
                seen(span);
                return true;
            }
            wait = wait.max(Some(allowed - elapsed));
            false
        });
        (lost, wait)
    }

    fn lateness(
        &self,
        board: &Scoreboard,
        recovering: bool,
        mss: u32,
        shortest: u64,
        smoothed: u64,
    ) -> u64 {
        if !self.reordering && (recovering || board.arrived() >= DUPLICATES * mss) {
            return 0;
        }
        (self.quarters.max(1) * shortest / 4).min(smoothed)
    }
}

/// Whether a segment was sent after another; of those sent at once the order in the stream decides.
fn is_later(sent: Time, end: Seq, other_sent: Time, other_end: Seq) -> bool {
    sent > other_sent || (sent == other_sent && end.is_after(other_end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::delivery::Snapshot;
    use crate::tcp::scoreboard::State;

    const MSS: u32 = 100;

    /// Ten segments at once, and ten a millisecond later.
    fn sent() -> Scoreboard {
        let mut board = Scoreboard::default();
        board.sent(Seq(0), Seq(1000), Snapshot::default(), Time::default());
        board.sent(Seq(1000), Seq(2000), Snapshot::default(), at(1));
        board
    }

    fn at(millis: u64) -> Time {
        Time::default().plus(millis * 1000)
    }

    fn arrive(rack: &mut Rack, board: &mut Scoreboard, start: u32, end: u32, now: Time) {
        board.arrive(Seq(start), Seq(end), |span| {
            rack.arrived(&span, 10_000, now)
        });
    }

    fn judge(rack: &Rack, board: &mut Scoreboard, now: Time) -> (u32, Option<u64>) {
        rack.judge(board, false, MSS, (10_000, 10_000), now, |_| {})
    }

    #[test]
    fn three_behind_a_gap_show_a_loss() {
        let (mut rack, mut board) = (Rack::default(), sent());
        arrive(&mut rack, &mut board, 100, 200, at(10));
        assert_eq!(judge(&rack, &mut board, at(10)), (0, Some(2500)));
        arrive(&mut rack, &mut board, 200, 400, at(10));
        assert_eq!(judge(&rack, &mut board, at(10)), (100, None));
        assert_eq!(board.first_lost(), Some((Seq(0), Seq(100))));
    }

    #[test]
    fn time_shows_a_loss_where_too_little_follows() {
        let (mut rack, mut board) = (Rack::default(), sent());
        arrive(&mut rack, &mut board, 100, 200, at(10));
        assert_eq!(judge(&rack, &mut board, at(12)), (0, Some(500)));
        assert_eq!(judge(&rack, &mut board, at(13)), (100, None));
    }

    #[test]
    fn after_reordering_it_waits() {
        let (mut rack, mut board) = (Rack::default(), sent());
        arrive(&mut rack, &mut board, 500, 600, at(10));
        arrive(&mut rack, &mut board, 100, 200, at(10));
        arrive(&mut rack, &mut board, 600, 900, at(10));
        assert!(rack.reordering);
        assert_eq!(judge(&rack, &mut board, at(10)), (0, Some(2500)));
        rack.duplicate(Seq(0), Seq(2000));
        rack.duplicate(Seq(0), Seq(2000));
        assert_eq!(judge(&rack, &mut board, at(10)).1, Some(5000));
        (0..KEEP_WIDE).for_each(|_| rack.recovered());
        assert_eq!(judge(&rack, &mut board, at(10)).1, Some(2500));
    }

    /// What was sent again and is lost again shows when something arrives that was sent after it.
    #[test]
    fn a_lost_repetition() {
        let (mut rack, mut board) = (Rack::default(), sent());
        arrive(&mut rack, &mut board, 100, 1000, at(10));
        assert_eq!(judge(&rack, &mut board, at(10)).0, 100);
        board.sent_again(Seq(0), Seq(100), Snapshot::default(), at(10));
        arrive(&mut rack, &mut board, 1000, 2000, at(11));
        assert_eq!(judge(&rack, &mut board, at(11)).0, 0);
        board.sent(Seq(2000), Seq(2100), Snapshot::default(), at(11));
        arrive(&mut rack, &mut board, 2000, 2100, at(21));
        assert_eq!(judge(&rack, &mut board, at(21)).0, 100);
        assert!(board.judge(|span| span.state == State::Flying) == 0);
    }
}
