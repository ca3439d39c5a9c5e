//! What an acknowledgement says: what arrived, what is lost, how much more may go out.

use super::{Recovery, Sender};
use crate::clock::Time;
use crate::memory::Memory;
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
    /// The peer told of something that came twice.
    duplicate: bool,
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
        let (before, flight) = (self.una, self.board.flight());
        let news = self.take_news(segment, ack, memory, now);
        let duplicate = segment.is_bare() && ack == before && !news.advanced && !moved;
        if let Some(sent) = news.sent {
            self.round_trip.sample(now.since(sent), now);
        }
        self.end_tail_probe(ack, &news, duplicate);
        self.find_losses(ack, &news, duplicate, now);
        self.end_recovery(ack);
        self.adjust_window(&news, before, flight, now);
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
            news.delivered += span.end.since(span.start);
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
                    news.duplicate = true;
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
        if news.duplicate {
            self.rack.duplicate(self.una, self.nxt);
        }
        news
    }

    /// A tail loss probe that repeated something, and was needed, is a loss that recovery did not see (RFC 8985 section 7.4).
    fn end_tail_probe(&mut self, ack: Seq, news: &News, duplicate: bool) {
        let Some((end, again)) = self.tail_probe else {
            return;
        };
        if ack.is_before(end) {
            return;
        }
        let needed = again && !news.duplicate && ack.is_after(end);
        if needed && self.recovery.is_none() {
            self.cubic.lost();
            self.cubic.recovered();
        }
        if !again || needed || news.duplicate || duplicate || self.board.is_empty() {
            self.tail_probe = None;
        }
    }

    fn find_losses(&mut self, ack: Seq, news: &News, duplicate: bool, now: Time) {
        if !self.sack {
            return self.count_duplicates(ack, news, duplicate);
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
        let (lost, wait) = self
            .rack
            .judge(&mut self.board, recovering, self.mss, trips, now);
        self.reorder_at = wait.map(|wait| now.plus(wait.max(1)));
        if lost > 0 {
            self.recover();
        }
    }

    /// Without selective acknowledgements (RFC 6582).
    fn count_duplicates(&mut self, ack: Seq, news: &News, duplicate: bool) {
        if news.advanced {
            self.duplicates = 0;
            let partial = self
                .recovery
                .as_ref()
                .is_some_and(|recovery| ack.is_before(recovery.until));
            if partial {
                self.board.lose_first(self.mss);
            }
        } else if duplicate {
            self.duplicates += 1;
            if self.duplicates == DUPLICATES && self.recovery.is_none() {
                self.board.lose_first(self.mss);
                self.recover();
            }
        }
    }

    fn recover(&mut self) {
        if self.recovery.is_none() {
            self.cubic.lost();
            self.recovery = Some(Recovery::new(self.nxt, self.board.flight(), false));
            self.tail_probe = None;
        }
    }

    fn end_recovery(&mut self, ack: Seq) {
        let over = |recovery: &mut Recovery| !ack.is_before(recovery.until);
        let Some(recovery) = self.recovery.take_if(over) else {
            return;
        };
        if !recovery.by_timeout {
            self.cubic.recovered();
        }
        self.rack.recovered();
        self.duplicates = 0;
    }

    fn adjust_window(&mut self, news: &News, before: Seq, flight: u32, now: Time) {
        let delivered = news.delivered;
        if delivered == 0 {
            return;
        }
        let (pipe, threshold, mss) = (self.board.pipe(), self.cubic.threshold(), self.mss);
        match &mut self.recovery {
            Some(recovery) if !recovery.by_timeout => {
                let window = recovery.window(delivered, pipe, threshold, mss);
                self.cubic.set_window(window);
            }
            Some(_) => self.cubic.acknowledged(delivered, 0, now),
            None => {
                let held = self.held_back_at.is_some_and(|at| !before.is_after(at));
                let used = self.cubic.in_slow_start()
                    && 2 * u64::from(flight) >= u64::from(self.cubic.window());
                if held || used {
                    let trip = self.round_trip.smoothed().unwrap_or(0);
                    self.cubic.acknowledged(delivered, trip, now);
                }
            }
        }
    }
}
