//! What an acknowledgement says: what arrived, what is lost, how much more may go out.

use super::{Recovery, Sender};
use crate::clock::Time;
use crate::memory::Memory;
use crate::tcp::delivery::Sample;
use crate::tcp::scoreboard::Span;
use crate::tcp::segment::Segment;
use crate::tcp::sequence::Seq;

/// Duplicates that mean a loss where the peer has no selective acknowledgements (RFC 5681 section 3.2).
const DUPLICATES: u32 = 3;

/// What arrived with one acknowledgement.
#[derive(Debug, Default)]
struct News {
    /// Bytes that were not known to have arrived.
    delivered: u32,
    /// SND.UNA moved.
    advanced: bool,
    /// The latest sending time of what was sent once.
    sent: Option<Time>,
    /// What of it was sent last.
    latest: Option<Span>,
    /// Bytes that the peer says came twice (RFC 2883).
    twice: u32,
}

impl Sender {
    /// Takes an acknowledgement in. False when it acknowledges what was never sent.
    pub(in crate::tcp) fn acknowledged(
        &mut self,
        segment: &Segment,
        ack: Seq,
        memory: &mut Memory,
        now: Time,
    ) -> bool {
        if ack.is_after(self.nxt) {
            return false;
        }
        let moved = self.learn_window(segment, ack);
        if self.board.is_empty() {
            return true;
        }
        let before = self.una;
        let news = self.take_news(segment, ack, memory, now);
        let duplicate = segment.is_bare() && ack == before && !news.advanced && !moved;
        if let Some(sent) = news.sent {
            self.round_trip.sample(now.since(sent), now);
        }
        self.end_tail_probe(ack, &news, duplicate);
        self.find_losses(ack, &news, duplicate, now);
        self.end_recovery(ack);
        self.tell_bbr(&news, before, now);
        true
    }

    /// True when the peer has room for more, or for less, than it had.
    fn learn_window(&mut self, segment: &Segment, ack: Seq) -> bool {
        let (seq, latest) = self.learnt;
        let newer = segment.seq.is_after(seq) || (segment.seq == seq && !ack.is_before(latest));
        if !newer || ack.is_before(self.una) {
            return false;
        }
        self.learnt = (segment.seq, ack);
        let window = u32::from(segment.window) << self.shift;
        let edge = ack.plus(window);
        let before = std::mem::replace(&mut self.edge, edge);
        self.largest = self.largest.max(window);
        if edge.is_after(before) {
            self.persist_at = None;
            if self.board.is_empty() {
                self.round_trip.answered();
            }
        }
        edge != before
    }

    fn take_news(&mut self, segment: &Segment, ack: Seq, memory: &mut Memory, now: Time) -> News {
        let mut news = News::default();
        let shortest = self.round_trip.shortest();
        let Self { board, rack, .. } = self;
        let mut seen = |span: Span| {
            news.delivered += span.len();
            news.latest = news
                .latest
                .filter(|latest| latest.sent > span.sent)
                .or(Some(span));
            if !span.again {
                news.sent = news.sent.max(Some(span.sent));
            }
            rack.arrived(&span, shortest, now);
        };
        if ack.is_after(self.una) {
            board.acknowledge(ack, &mut seen);
        }
        if self.sack {
            for &(start, end) in segment.options.blocks.iter().flatten() {
                let ahead = start.is_after(ack) && !end.is_after(self.nxt) && end.is_after(start);
                if ahead {
                    board.arrive(start, end, &mut seen);
                } else if !end.is_after(ack) {
                    news.twice += end.distance(start).max(0).cast_unsigned();
                }
            }
        }
        if ack.is_after(self.una) {
            news.advanced = true;
            self.outgoing.acknowledge(ack.since(self.una), memory);
            self.una = ack;
            self.fin_acknowledged |= self.fin.is_some_and(|fin| ack.is_after(fin));
            self.progress_at = now;
            self.round_trip.answered();
        }
        if news.delivered > 0 {
            self.active_at = now;
        }
        if news.twice > 0 {
            self.rack.duplicate(self.una, self.nxt);
            self.came_twice(news.twice);
        }
        news
    }

    /// When all that was sent again came twice, nothing was lost.
    fn came_twice(&mut self, bytes: u32) {
        if self.repeated > 0 {
            self.repeated = self.repeated.saturating_sub(bytes);
            if self.repeated == 0 {
                self.bbr.lost_nothing();
            }
        }
    }

    /// A tail loss probe that repeated something, and was needed, is a loss that recovery did not see (RFC 8985 section 7.4).
    fn end_tail_probe(&mut self, ack: Seq, news: &News, duplicate: bool) {
        let Some((end, again)) = self.tail_probe else {
            return;
        };
        if ack.is_before(end) {
            return;
        }
        let needed = again && news.twice == 0 && ack.is_after(end);
        if needed && self.recovery.is_none() {
            self.bbr.lost_unseen();
        }
        if !again || needed || news.twice > 0 || duplicate || self.board.is_empty() {
            self.tail_probe = None;
        }
    }

    fn find_losses(&mut self, ack: Seq, news: &News, duplicate: bool, now: Time) {
        if !self.sack {
            return self.count_duplicates(ack, news, duplicate, now);
        }
        if self.board.has_gaps() || self.recovery.is_some() {
            self.judge(now);
        } else {
            self.reorder_at = None;
        }
    }

    /// Lets RACK look for losses.
    pub(super) fn judge(&mut self, now: Time) {
        let shortest = self.round_trip.shortest();
        let trips = (shortest, self.round_trip.smoothed().unwrap_or(shortest));
        let recovering = self.recovery.is_some();
        let Self {
            rack, board, bbr, ..
        } = self;
        let (lost, wait) = rack.judge(board, recovering, self.mss, trips, now, |span| {
            bbr.lost(span.len(), &span.snapshot, now);
        });
        self.reorder_at = wait.map(|wait| now.plus(wait.max(1)));
        if lost > 0 {
            self.recover();
        }
    }

    /// Without selective acknowledgements (RFC 6582).
    fn count_duplicates(&mut self, ack: Seq, news: &News, duplicate: bool, now: Time) {
        if news.advanced {
            self.duplicates = 0;
            let partial = self
                .recovery
                .as_ref()
                .is_some_and(|recovery| ack.is_before(recovery.until));
            if partial {
                self.lose_first(now);
            }
        } else if duplicate {
            self.duplicates += 1;
            if self.duplicates == DUPLICATES && self.recovery.is_none() {
                self.lose_first(now);
                self.recover();
            }
        }
    }

    fn lose_first(&mut self, now: Time) {
        let Self { board, bbr, .. } = self;
        board.lose_first(self.mss, |span| {
            bbr.lost(span.len(), &span.snapshot, now);
        });
    }

    fn recover(&mut self) {
        if self.recovery.is_none() {
            self.recovery = Some(Recovery::new(self.nxt, false));
            self.repeated = 0;
            self.tail_probe = None;
        }
    }

    fn end_recovery(&mut self, ack: Seq) {
        let over = |recovery: &mut Recovery| !ack.is_before(recovery.until);
        if self.recovery.take_if(over).is_none() {
            return;
        }
        self.bbr.recovered();
        self.rack.recovered();
        self.duplicates = 0;
    }

    fn tell_bbr(&mut self, news: &News, before: Seq, now: Time) {
        let Some(latest) = &news.latest else {
            return;
        };
        let sample = Sample {
            pipe: self.board.pipe(),
            round_trip: news.sent.map(|sent| now.since(sent)),
            window_limited: self.held_back_at.is_some_and(|at| !before.is_after(at)),
            recovering: self.recovery.is_some(),
            ..self.bbr.sample(news.delivered, latest, now)
        };
        self.bbr.acknowledged(&sample, now);
    }
}
