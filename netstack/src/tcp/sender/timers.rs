//! What the sending half does when nothing is heard: tail loss probes (RFC 8985 section 7), retransmission timeouts (RFC 6298), probes of
//! a closed window (RFC 9293 section 3.8.6.1). Times are looked at when the flow is woken, and moved without telling anybody.

use super::{Recovery, Sender};
use crate::clock::Time;

/// How long a peer may hold an acknowledgement back that waits for a second segment, in microseconds.
const DELAYED_ACKNOWLEDGEMENT: u64 = 50_000;
/// What a tail loss probe waits for beyond two round trips, in microseconds: the machine may be busy.
const MARGIN: u64 = 10_000;

/// What is to go out although nothing new may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tcp) enum Probe {
    /// The last segment, or a new one beyond the congestion window.
    Tail,
    /// Something that makes the peer tell its window.
    Window,
}

impl Sender {
    /// When [`Sender::handle_timeout`] is to be called.
    pub(in crate::tcp) fn wake_at(&self) -> Option<Time> {
        let acknowledgement = (!self.board.is_empty()).then(|| {
            let timeout = self.timeout_at();
            self.tail_at().map_or(timeout, |tail| tail.min(timeout))
        });
        [
            acknowledgement,
            self.reorder_at,
            self.persist_at,
            self.paced_until,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn timeout_at(&self) -> Time {
        self.progress_at.plus(self.round_trip.timeout())
    }

    fn tail_at(&self) -> Option<Time> {
        let useful = self.sack
            && self.recovery.is_none()
            && self.tail_probe.is_none()
            && self.probe.is_none()
            && !self.board.has_gaps();
        let trip = self.round_trip.smoothed().filter(|_| useful)?;
        let lone = self.board.flight() <= self.mss;
        let delay = if lone {
            DELAYED_ACKNOWLEDGEMENT
        } else {
            MARGIN
        };
        Some(self.active_at.plus(2 * trip + delay))
    }

    /// Does what is due.
    pub(in crate::tcp) fn handle_timeout(&mut self, now: Time) {
        if self.reorder_at.is_some_and(|at| at <= now) {
            self.judge(now);
        }
        if self.persist_at.is_some_and(|at| at <= now) {
            self.persist_at = None;
            self.probe = Some(Probe::Window);
            self.round_trip.back_off();
        }
        if self.board.is_empty() {
            return;
        }
        if self.timeout_at() <= now {
            self.timed_out(now);
        } else if self.tail_at().is_some_and(|at| at <= now) {
            self.probe = Some(Probe::Tail);
        }
    }

    fn timed_out(&mut self, now: Time) {
        let first = !self
            .recovery
            .as_ref()
            .is_some_and(|recovery| recovery.by_timeout);
        if first {
            self.bbr.timed_out();
            self.repeated = 0;
        }
        let Self { board, bbr, .. } = self;
        board.lose_all(|span| bbr.lost(span.len(), &span.snapshot, now));
        self.recovery = Some(Recovery::new(self.nxt, true));
        self.round_trip.back_off();
        self.progress_at = now;
        (self.tail_probe, self.probe, self.reorder_at) = (None, None, None);
        self.duplicates = 0;
    }

    /// Called when nothing goes out: sees to it that a closed window is probed. True when a probe is due now.
    pub(in crate::tcp) fn persist(&mut self, now: Time) -> bool {
        let blocked = self.board.is_empty()
            && self.paced_until.is_none()
            && (self.waiting() > 0 || (self.finishing && self.fin.is_none()));
        if !blocked {
            self.probe = None;
            return false;
        }
        if self.probe.take().is_some() {
            return true;
        }
        if self.persist_at.is_none() {
            self.persist_at = Some(now.plus(self.round_trip.timeout()));
        }
        false
    }
}
