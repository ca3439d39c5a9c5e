//! What was sent and not acknowledged, when, and what is known of it (RFC 2018, RFC 6675; the times for RFC 8985). It keeps count;
//! what follows from it is decided in `rack.rs` and `sender.rs`.

use std::collections::VecDeque;

use super::delivery::Snapshot;
use super::sequence::Seq;
use crate::clock::Time;

/// Entries that an empty scoreboard may keep.
const KEPT_ENTRIES: usize = 8;

/// What is known of a stretch of the sequence space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// On its way, as far as anybody knows.
    Flying,
    /// It arrived, behind something that did not.
    Arrived,
    /// To be sent again.
    Lost,
}

/// A stretch of which the same is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: Seq,
    pub(super) end: Seq,
    /// When it was sent last.
    pub(super) sent: Time,
    pub(super) state: State,
    /// It was sent more than once.
    pub(super) again: bool,
    /// What was known of the path when it was sent last.
    pub(super) snapshot: Snapshot,
}

impl Span {
    /// Bytes in it.
    pub(super) fn len(&self) -> u32 {
        self.end.since(self.start)
    }
}

/// Everything from SND.UNA to SND.NXT.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    spans: VecDeque<Span>,
    arrived: u32,
    lost: u32,
}

impl Scoreboard {
    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes that are in the network (RFC 6675: the pipe).
    pub(super) fn pipe(&self) -> u32 {
        self.flight() - self.arrived - self.lost
    }

    /// Bytes from SND.UNA to SND.NXT.
    pub(super) fn flight(&self) -> u32 {
        match (self.spans.front(), self.spans.back()) {
            (Some(first), Some(last)) => last.end.since(first.start),
            _ => 0,
        }
    }

    /// Bytes that arrived behind a gap.
    pub(super) fn arrived(&self) -> u32 {
        self.arrived
    }

    /// Whether something arrived behind a gap, or is to be sent again.
    pub(super) fn has_gaps(&self) -> bool {
        self.arrived > 0 || self.lost > 0
    }

    /// Takes note of what is sent for the first time; `start` is SND.NXT.
    pub(super) fn sent(&mut self, start: Seq, end: Seq, snapshot: Snapshot, now: Time) {
        if let Some(last) = self.spans.back_mut()
            && last.sent == now
            && last.state == State::Flying
            && !last.again
        {
            last.end = end;
            last.snapshot.in_flight = snapshot.in_flight;
            return;
        }
        self.spans.push_back(Span {
            start,
            end,
            sent: now,
            state: State::Flying,
            again: false,
            snapshot,
        });
    }

    /// All before `upto` arrived. `seen` gets what was not known to have.
    pub(super) fn acknowledge(&mut self, upto: Seq, mut seen: impl FnMut(Span)) {
        while let Some(first) = self.spans.front_mut() {
            if !upto.is_after(first.start) {
                break;
            }
            let gone = Span {
                end: first.end.min(upto),
                ..*first
            };
            let len = gone.end.since(gone.start);
            match gone.state {
                State::Flying => {}
                State::Arrived => self.arrived -= len,
                State::Lost => self.lost -= len,
            }
            if gone.state != State::Arrived {
                seen(gone);
            }
            if gone.end == first.end {
                self.spans.pop_front();
            } else {
                first.start = upto;
            }
        }
        if self.spans.is_empty() && self.spans.capacity() > KEPT_ENTRIES {
            self.spans = VecDeque::new();
        }
    }

    /// What is between these arrived. `seen` gets what was not known to have. True when anything was news.
    pub(super) fn arrive(&mut self, start: Seq, end: Seq, mut seen: impl FnMut(Span)) -> bool {
        let (Some(first), Some(last)) = (self.spans.front(), self.spans.back()) else {
            return false;
        };
        let (start, end) = (start.max(first.start), end.min(last.end));
        if !end.is_after(start) {
            return false;
        }
        let mut index = self.spans.partition_point(|span| !span.end.is_after(start));
        let mut news = false;
        while index < self.spans.len() && self.spans[index].start.is_before(end) {
            if self.spans[index].state != State::Arrived {
                index = self.cut(index, start, end);
                let span = self.spans[index];
                seen(span);
                self.set_state(index, State::Arrived);
                news = true;
                index = self.join_arrived(index);
            }
            index += 1;
        }
        news
    }

    /// Cuts what is between `start` and `end` out of a span, and returns where it is.
    fn cut(&mut self, mut index: usize, start: Seq, end: Seq) -> usize {
        let span = self.spans[index];
        if span.start.is_before(start) {
            self.spans[index].end = start;
            index += 1;
            self.spans.insert(index, Span { start, ..span });
        }
        if span.end.is_after(end) {
            self.spans[index].end = end;
            self.spans.insert(index + 1, Span { start: end, ..span });
        }
        index
    }

    fn set_state(&mut self, index: usize, state: State) {
        let span = &mut self.spans[index];
        let len = span.end.since(span.start);
        for (known, count) in [
            (State::Arrived, &mut self.arrived),
            (State::Lost, &mut self.lost),
        ] {
            *count -= if span.state == known { len } else { 0 };
            *count += if state == known { len } else { 0 };
        }
        span.state = state;
    }

    /// Joins a span that arrived with its neighbours that did; returns where it is then.
    fn join_arrived(&mut self, mut index: usize) -> usize {
        let arrived = |span: Option<&Span>| span.is_some_and(|span| span.state == State::Arrived);
        if arrived(self.spans.get(index + 1)) {
            self.spans[index].end = self.spans[index + 1].end;
            self.spans.remove(index + 1);
        }
        if index > 0 && arrived(self.spans.get(index - 1)) {
            index -= 1;
            self.spans[index].end = self.spans[index + 1].end;
            self.spans.remove(index + 1);
        }
        index
    }

    /// Asks of each span that is flying whether it is lost; returns how many bytes are.
    pub(super) fn judge(&mut self, mut is_lost: impl FnMut(&Span) -> bool) -> u32 {
        let before = self.lost;
        for index in 0..self.spans.len() {
            if self.spans[index].state == State::Flying && is_lost(&self.spans[index]) {
                self.set_state(index, State::Lost);
            }
        }
        self.lost - before
    }

    /// The first `len` bytes are lost, for all that is known without selective acknowledgements.
    pub(super) fn lose_first(&mut self, len: u32, mut lost: impl FnMut(&Span)) {
        let Some(first) = self.spans.front() else {
            return;
        };
        if first.state == State::Flying {
            let end = first.end.min(first.start.plus(len));
            self.cut(0, first.start, end);
            self.set_state(0, State::Lost);
            lost(&self.spans[0]);
        }
    }

    /// All that is not known to have arrived is lost; `lost` gets what was not known to be.
    pub(super) fn lose_all(&mut self, mut lost: impl FnMut(&Span)) {
        // The peer threw away what it had (RFC 2018 section 8): what is first can never have arrived out of order.
        if self
            .spans
            .front()
            .is_some_and(|first| first.state == State::Arrived)
        {
            for index in 0..self.spans.len() {
                self.set_state(index, State::Lost);
            }
        }
        self.judge(|span| {
            lost(span);
            true
        });
    }

    /// The first bytes to send again.
    pub(super) fn first_lost(&self) -> Option<(Seq, Seq)> {
        if self.lost == 0 {
            return None;
        }
        let lost = self.spans.iter().find(|span| span.state == State::Lost)?;
        Some((lost.start, lost.end))
    }

    /// The last bytes that were sent, unless they arrived: at most `len`.
    pub(super) fn last(&self, len: u32) -> Option<(Seq, Seq)> {
        let last = self
            .spans
            .back()
            .filter(|last| last.state == State::Flying)?;
        Some((last.start.max(last.end.minus(len)), last.end))
    }

    /// Takes note of what is sent again: all of it in one span, as [`Scoreboard::first_lost`] and [`Scoreboard::last`] give it.
    pub(super) fn sent_again(&mut self, start: Seq, end: Seq, snapshot: Snapshot, now: Time) {
        let index = self.spans.partition_point(|span| !span.end.is_after(start));
        if index >= self.spans.len() {
            return;
        }
        let index = self.cut(index, start, end);
        self.set_state(index, State::Flying);
        let span = &mut self.spans[index];
        (span.sent, span.again, span.snapshot) = (now, true, snapshot);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn board(lens: &[u32]) -> Scoreboard {
        let mut board = Scoreboard::default();
        let mut at = Seq(0);
        for (index, &len) in lens.iter().enumerate() {
            board.sent(
                at,
                at.plus(len),
                Snapshot::default(),
                Time::default().plus(index as u64),
            );
            at = at.plus(len);
        }
        board
    }

    fn states(board: &Scoreboard) -> Vec<(u32, u32, State)> {
        let spans = board.spans.iter();
        spans
            .map(|span| (span.start.0, span.end.0, span.state))
            .collect()
    }

    #[test]
    fn one_batch_is_one_span() {
        let mut board = Scoreboard::default();
        let now = Time::default();
        board.sent(Seq(0), Seq(10), Snapshot::default(), now);
        board.sent(Seq(10), Seq(30), Snapshot::default(), now);
        board.sent(Seq(30), Seq(40), Snapshot::default(), now.plus(1));
        assert_eq!(
            states(&board),
            [(0, 30, State::Flying), (30, 40, State::Flying)]
        );
        let mut seen = Vec::new();
        board.acknowledge(Seq(35), |span| seen.push((span.start.0, span.end.0)));
        assert_eq!(seen, [(0, 30), (30, 35)]);
        assert_eq!((board.flight(), board.pipe()), (5, 5));
    }

    #[test]
    fn gaps_are_lost_and_sent_again() {
        let mut board = board(&[100]);
        assert!(board.arrive(Seq(40), Seq(60), |_| {}));
        assert!(board.arrive(Seq(50), Seq(80), |_| {}));
        assert!(!board.arrive(Seq(40), Seq(80), |_| {}));
        assert_eq!((board.arrived(), board.pipe()), (40, 60));
        assert_eq!(board.judge(|span| span.start.0 < 40), 40);
        assert_eq!(board.first_lost(), Some((Seq(0), Seq(40))));
        board.sent_again(
            Seq(0),
            Seq(10),
            Snapshot::default(),
            Time::default().plus(9),
        );
        assert_eq!(board.first_lost(), Some((Seq(10), Seq(40))));
        assert_eq!((board.pipe(), board.flight()), (30, 100));
        let mut seen = Vec::new();
        board.acknowledge(Seq(90), |span| {
            seen.push((span.start.0, span.end.0, span.again))
        });
        assert_eq!(seen, [(0, 10, true), (10, 40, false), (80, 90, false)]);
        assert_eq!(
            (board.pipe(), board.arrived(), board.has_gaps()),
            (10, 0, false)
        );
    }

    #[test]
    fn a_peer_that_threw_away_what_it_had() {
        let mut board = board(&[10, 10, 10]);
        board.arrive(Seq(10), Seq(20), |_| {});
        board.lose_all(|_| {});
        assert_eq!((board.arrived(), board.pipe()), (10, 0));
        board.acknowledge(Seq(10), |_| {});
        board.lose_all(|_| {});
        assert_eq!(
            (board.arrived(), board.first_lost()),
            (0, Some((Seq(10), Seq(20))))
        );
    }

    #[test]
    fn the_last_segment() {
        let mut board = board(&[100, 50]);
        assert_eq!(board.last(20), Some((Seq(130), Seq(150))));
        assert_eq!(board.last(80), Some((Seq(100), Seq(150))));
        board.arrive(Seq(140), Seq(150), |_| {});
        assert_eq!(board.last(20), None);
    }

    proptest! {
        /// Counts are those of a plain list of bytes, whatever arrives, is lost, is sent again.
        #[test]
        fn like_a_list_of_bytes(steps in prop::collection::vec((0..4_u8, 0..120_u32, 1..40_u32), 0..60)) {
            let mut board = board(&[30, 30, 30, 30]);
            let (mut bytes, mut una) = ([State::Flying; 120], 0_usize);
            for (step, (kind, start, len)) in steps.into_iter().enumerate() {
                let (from, to) = (start as usize, (start + len).min(120) as usize);
                match kind {
                    0 => {
                        board.arrive(Seq(start), Seq(start + len), |_| {});
                        bytes[from.max(una)..to.max(una)].fill(State::Arrived);
                    }
                    1 => {
                        board.acknowledge(Seq(start), |_| {});
                        una = una.max(from);
                    }
                    2 => {
                        board.judge(|span| span.start.0 >= start);
                        // A span is judged as a whole, so is what it stands for.
                        for span in &board.spans {
                            if span.state == State::Lost {
                                bytes[span.start.0 as usize..span.end.0 as usize].fill(State::Lost);
                            }
                        }
                    }
                    _ => {
                        if let Some((first, end)) = board.first_lost() {
                            let end = end.min(first.plus(len));
                            board.sent_again(first, end, Snapshot::default(), Time::default().plus(step as u64));
                            bytes[first.0 as usize..end.0 as usize].fill(State::Flying);
                        }
                    }
                }
                let count = |state| bytes[una..].iter().filter(|&&byte| byte == state).count() as u32;
                prop_assert_eq!(board.arrived(), count(State::Arrived));
                prop_assert_eq!(board.pipe(), count(State::Flying));
                prop_assert_eq!(board.flight(), 120 - una as u32);
                let found: Vec<State> = board.spans.iter()
                    .flat_map(|span| (span.start.0..span.end.0).map(|_| span.state)).collect();
                prop_assert_eq!(&found[..], &bytes[una..]);
            }
        }
    }
}
