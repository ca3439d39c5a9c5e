//! Congestion control and loss recovery for smoltcp's sender, from outside.
//!
//! smoltcp repairs one loss a window and waits at least a second for every other; its window grows with the number of
//! acknowledgements, of which there is one a batch here. So smoltcp runs without congestion control, and this file decides:
//!
//! - how large a window smoltcp is shown in each acknowledgement;
//! - when smoltcp is rewound, so that it makes everything again from the first missing byte on;
//! - which of that really goes out: not what selective acknowledgements say has arrived.
//!
//! It handles numbers only; `connection.rs` and `track.rs` apply what it says.

use smoltcp::time::{Duration, Instant};

use super::Segment;
use super::numbers::{Sent, is_after};
use super::scoreboard::Scoreboard;

/// Segments that may be sent before the first acknowledgement (RFC 6928), and at once after a loss.
const INITIAL_WINDOW: u32 = 10;
/// Duplicates that mean a loss (RFC 5681 section 3.2), and as many segments that arrived behind it (RFC 6675 section 5).
const DUPLICATES: u32 = 3;
/// What is left of the window after a loss, in tenths (RFC 9438 section 4.6).
const BACKOFF_TENTHS: u32 = 7;
/// How long to wait as long as no round trip was timed (RFC 6298 section 2.1).
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest pause between two attempts (RFC 6298 section 2.5).
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a peer may hold an acknowledgement back that waits for a second segment.
const DELAYED_ACKNOWLEDGEMENT: Duration = Duration::from_millis(50);
/// The least that a probe waits for beyond two round trips: timers are not finer.
const PROBE_MARGIN: Duration = Duration::from_millis(10);

/// The sending side of one flow. Of no use before [`Sender::set_limits`].
#[derive(Debug, Default)]
pub(super) struct Sender {
    /// Bytes of a full segment.
    mss: u32,
    /// The congestion window, in bytes.
    window: u32,
    /// The window at which exponential growth ends, in bytes; none before the first loss.
    threshold: Option<u32>,
    /// The most that the window is of use for, in bytes.
    most: u32,
    /// Where the round trip ends that is under way, and the most bytes that were unacknowledged in it and in the one before:
    /// a window that was not used does not grow.
    round_end: u32,
    used: [u32; 2],
    /// SND.UNA, once there is one.
    first: Option<u32>,
    /// The window field of the latest acknowledgement.
    window_field: u16,
    duplicates: u32,
    /// What has arrived behind the first missing byte.
    arrived: Scoreboard,
    recovery: Option<Recovery>,
    /// smoltcp is to be rewound.
    rewinding: bool,
    round_trip: RoundTrip,
    /// The end of a segment that is timed, and when it was sent.
    timed: Option<(u32, Instant)>,
    syn_sent: bool,
    /// When to do something about it that nothing is acknowledged.
    probe_at: Option<Instant>,
    probes: u32,
}

/// What is known while something is missing (RFC 6675, in its words: what is lost, what was retransmitted, the pipe).
#[derive(Debug, Default)]
struct Recovery {
    /// SND.NXT when it began: it ends when that is acknowledged.
    until: u32,
    /// All before this is lost that did not arrive.
    lost_before: u32,
    /// What arrived, or was sent again.
    dealt_with: Scoreboard,
    /// What was sent again, and SND.NXT then: where more arrives that was sent later, the repetition is lost too.
    repeated: Vec<(u32, u32)>,
    /// Bytes that may go out because as many arrived (RFC 6937).
    credit: u32,
    /// smoltcp is not rewound again before: it costs as much as sending the whole window does.
    rested_at: Option<Instant>,
}

/// Smoothed round-trip time (RFC 6298 section 2).
#[derive(Debug, Clone, Copy, Default)]
struct RoundTrip {
    smoothed: Option<Duration>,
    variation: Duration,
}

impl Recovery {
    /// Notices that the first missing segment was sent again in vain: all before `sure` has arrived or is lost.
    fn forget_lost_repetition(&mut self, first: u32, sure: Option<u32>) {
        self.repeated
            .retain(|&(sequence, _)| !is_after(first, sequence));
        let lost = |&(sequence, next): &(u32, u32)| {
            sequence == first && sure.is_some_and(|sure| is_after(sure, next))
        };
        if let Some(at) = self.repeated.iter().position(lost) {
            self.repeated.remove(at);
            self.dealt_with.remove_first(first);
            self.rested_at = None;
        }
    }
}

/// What comes in.
impl Sender {
    /// Learns how long the peer's segments may be, and how much is of use: `mss` and `most` in bytes.
    pub(super) fn set_limits(&mut self, mss: u32, most: u32) {
        self.mss = mss;
        self.window = INITIAL_WINDOW * mss;
        self.most = most.max(self.window);
    }

    /// Takes note of an acknowledgement; `next` is SND.NXT.
    pub(super) fn acknowledged(&mut self, segment: &Segment, next: u32, now: Instant) {
        let number = segment.acknowledgement;
        let first = *self.first.get_or_insert(number);
        if is_after(number, next) || is_after(first, number) {
            return;
        }
        let field = std::mem::replace(&mut self.window_field, segment.window);
        self.sample(number, now);
        let mut news = number.wrapping_sub(first);
        if news > 0 {
            self.progress(number, next);
        }
        news = news.saturating_sub(self.arrived.advance(number));
        for &block in segment.arrived.iter().flatten() {
            news += self.arrived.add(block, number, next);
        }
        let duplicate = segment.is_bare() && number == first && is_after(next, number);
        self.duplicates += u32::from(duplicate && (field == segment.window || news > 0));
        if news > 0 {
            self.probes = 0;
            self.arm_probe(next.wrapping_sub(number), now);
        }
        self.look_for_losses(news, next, now);
        self.grow(news);
    }

    fn progress(&mut self, number: u32, next: u32) {
        self.first = Some(number);
        self.duplicates = 0;
        if !is_after(self.round_end, number) {
            self.round_end = next;
            self.used = [next.wrapping_sub(number), self.used[0]];
        }
        if self
            .recovery
            .as_ref()
            .is_some_and(|recovery| !is_after(recovery.until, number))
        {
            self.recovery = None;
            self.window = self.threshold.unwrap_or(self.window);
        }
    }

    /// Concludes what is lost from what arrived: `news` bytes of it just now.
    fn look_for_losses(&mut self, news: u32, next: u32, now: Instant) {
        let Some(first) = self.first else {
            return;
        };
        let sure = self
            .arrived
            .end()
            .map(|end| end.wrapping_sub(DUPLICATES * self.mss));
        let sure = sure.filter(|&edge| is_after(edge, first));
        let blind =
            self.arrived.bytes() == 0 && (self.duplicates >= DUPLICATES || self.recovery.is_some());
        let edge = sure.or_else(|| blind.then(|| first.wrapping_add(self.mss)));
        if let (None, Some(_)) = (&self.recovery, edge) {
            self.lose(next);
        }
        let Some(recovery) = &mut self.recovery else {
            return;
        };
        let edge =
            edge.filter(|&edge| is_after(edge, recovery.lost_before) && !is_after(edge, next));
        recovery.lost_before = edge.unwrap_or(recovery.lost_before);
        recovery.dealt_with.advance(first);
        recovery.forget_lost_repetition(first, sure);
        for &range in self.arrived.ranges() {
            recovery.dealt_with.add(range, first, next);
        }
        recovery.credit = recovery
            .credit
            .saturating_add(news + self.mss)
            .min(self.most);
        self.rewind_if_worth_it(next, now);
    }

    fn rewind_if_worth_it(&mut self, next: u32, now: Instant) {
        let (missing, may) = (self.missing(), self.may_send(next) > 0);
        let pause = self.round_trip.smoothed.unwrap_or_default() / 4;
        if let Some(recovery) = &mut self.recovery
            && missing > 0
            && may
            && recovery.rested_at.is_none_or(|at| at <= now)
        {
            recovery.rested_at = Some(now + pause);
            self.rewinding = true;
        }
    }

    /// Appropriate byte counting (RFC 3465): one acknowledgement of many segments counts for all of them. In recovery the
    /// window stays.
    fn grow(&mut self, bytes: u32) {
        let [now, before] = self.used;
        let used = now.max(before).saturating_mul(2) >= self.window;
        if bytes == 0 || !used || self.recovery.is_some() {
            return;
        }
        let slow = self
            .threshold
            .is_some_and(|threshold| self.window >= threshold);
        let step = match slow {
            true => (u64::from(self.mss) * u64::from(bytes) / u64::from(self.window)) as u32,
            false => bytes,
        };
        self.window = self.window.saturating_add(step.max(1)).min(self.most);
    }

    fn sample(&mut self, number: u32, now: Instant) {
        if let Some((end, sent)) = self.timed
            && !is_after(end, number)
        {
            self.timed = None;
            self.round_trip.sample(now - sent);
        }
    }
}

/// What goes out.
impl Sender {
    /// The window that smoltcp is shown, in bytes from the first unacknowledged one on. It reaches to SND.NXT in any case, so that
    /// smoltcp, once rewound, comes by all that is missing; [`Sender::sent`] decides what of it goes out. Behind that there is room
    /// for whole segments only.
    pub(super) fn allowed(&self, next: u32) -> u32 {
        let whole = self.may_send(next) / self.mss.max(1) * self.mss;
        self.flight(next).saturating_add(whole)
    }

    /// SND.UNA; `None` before anything was acknowledged.
    pub(super) fn first(&self) -> Option<u32> {
        self.first
    }

    /// Whether smoltcp is to be rewound; asked once.
    pub(super) fn take_rewinding(&mut self) -> bool {
        std::mem::take(&mut self.rewinding)
    }

    /// Takes note of a SYN that goes out, for the first time or again.
    pub(super) fn sent_syn(&mut self, end: u32, now: Instant) {
        let first_time = !std::mem::replace(&mut self.syn_sent, true);
        self.timed = first_time.then_some((end, now));
    }

    /// Takes note of data or FIN that smoltcp sends; false when it must not go out.
    pub(super) fn sent(&mut self, sent: &Sent, now: Instant) -> bool {
        let first = self.first.unwrap_or(sent.sequence);
        // smoltcp may cut what it sends again differently, and go on with news in the same segment.
        let repeated = is_after(sent.before, sent.sequence);
        let news = is_after(sent.end, sent.before);
        if !news && !self.repeats(sent, first) {
            return false;
        }
        self.used[0] = self.used[0].max(sent.end.wrapping_sub(first));
        if self.probe_at.is_none() {
            self.arm_probe(sent.end.wrapping_sub(first), now);
        }
        if let Some(recovery) = &mut self.recovery {
            let bytes = sent.end.wrapping_sub(sent.sequence);
            recovery.credit = recovery.credit.saturating_sub(bytes);
        }
        if repeated || self.recovery.is_some() {
            // What is acknowledged may be either copy (RFC 6298 section 3), or wait for what is missing before it.
            self.timed = None;
        } else {
            self.timed.get_or_insert((sent.end, now));
        }
        true
    }

    /// Whether a segment is worth repeating now; the first one always is.
    fn repeats(&mut self, sent: &Sent, first: u32) -> bool {
        let may = sent.sequence == first || self.may_send(sent.before) > 0;
        let Some(recovery) = &mut self.recovery else {
            // Nothing is known to be lost: somebody rewound smoltcp to probe.
            return may && sent.sequence == first;
        };
        let lost = is_after(recovery.lost_before, sent.sequence);
        if !may || !lost || recovery.dealt_with.covers(sent.sequence, sent.end) {
            return false;
        }
        recovery.repeated.push((sent.sequence, sent.before));
        recovery
            .dealt_with
            .add((sent.sequence, sent.end), first, sent.before);
        true
    }

    fn flight(&self, next: u32) -> u32 {
        next.wrapping_sub(self.first.unwrap_or(next))
    }

    /// Bytes that are lost and were not sent again.
    fn missing(&self) -> u32 {
        let (Some(recovery), Some(first)) = (&self.recovery, self.first) else {
            return 0;
        };
        if !is_after(recovery.lost_before, first) {
            return 0;
        }
        let span = recovery.lost_before.wrapping_sub(first);
        span.saturating_sub(recovery.dealt_with.bytes_before(recovery.lost_before))
    }

    /// Bytes that may go out now, new ones or again.
    fn may_send(&self, next: u32) -> u32 {
        let gone = self.arrived.bytes() + self.missing();
        let pipe = self.flight(next).saturating_sub(gone);
        let room = self.window.saturating_sub(pipe);
        match &self.recovery {
            Some(recovery) => room.min(recovery.credit),
            None => room,
        }
    }

    /// smoltcp sends everything again, because its timer ran out: what seemed to have arrived may have been thrown away (RFC
    /// 2018 section 8).
    pub(super) fn timed_out(&mut self, next: u32) {
        self.arrived.clear();
        self.lose_all(next, self.mss);
        self.rewinding = false;
    }

    /// Something is missing: less is sent.
    fn lose(&mut self, next: u32) {
        // What is lost in recovery is a repetition: the window was still too large.
        let from = match (&self.recovery, self.threshold) {
            (Some(_), Some(threshold)) => threshold,
            (Some(_) | None, _) => self.window.min(self.used[0].max(self.used[1])),
        };
        let kept = (from / 10 * BACKOFF_TENTHS).max(2 * self.mss);
        self.threshold = Some(kept);
        self.window = kept;
        self.timed = None;
        self.recovery = Some(Recovery {
            until: next,
            lost_before: self.first.unwrap_or(next),
            ..Recovery::default()
        });
    }

    /// All that did not arrive is lost.
    fn lose_all(&mut self, next: u32, credit: u32) {
        self.lose(next);
        let first = self.first.unwrap_or(next);
        if let Some(recovery) = &mut self.recovery {
            recovery.lost_before = next;
            recovery.credit = credit;
            for &range in self.arrived.ranges() {
                recovery.dealt_with.add(range, first, next);
            }
        }
        self.rewinding = true;
    }

    /// Does what is due when nothing is heard: the last segments may be lost, and nothing would tell (RFC 8985 section 7).
    /// `next` is SND.NXT.
    pub(super) fn probe(&mut self, next: u32, now: Instant) {
        if self.probe_at.is_none_or(|at| at > now) {
            return;
        }
        self.probe_at = None;
        let flight = self.flight(next);
        if flight == 0 || flight > 1 << 31 {
            return;
        }
        self.probes += 1;
        if self.probes == 1 && self.recovery.is_none() {
            // It is too early to conclude anything; perhaps the peer is only slow to answer.
            self.rewinding = true;
        } else {
            self.lose_all(next, self.mss);
        }
        self.arm_probe(flight, now);
    }

    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.probe_at
    }

    /// `flight` in bytes.
    fn arm_probe(&mut self, flight: u32, now: Instant) {
        self.probe_at = None;
        if flight == 0 {
            return;
        }
        let margin = match flight <= self.mss {
            true => DELAYED_ACKNOWLEDGEMENT,
            false => PROBE_MARGIN,
        };
        let RoundTrip {
            smoothed,
            variation,
        } = self.round_trip;
        let wait = smoothed.map_or(FIRST_WAIT, |smoothed| smoothed * 2 + variation * 2 + margin);
        self.probe_at = Some(now + (wait * (1 << self.probes.min(16))).min(LONGEST_WAIT));
    }
}

impl RoundTrip {
    fn sample(&mut self, taken: Duration) {
        let Some(smoothed) = self.smoothed else {
            self.smoothed = Some(taken);
            self.variation = taken / 2;
            return;
        };
        let off = smoothed.max(taken) - smoothed.min(taken);
        self.variation = (self.variation * 3 + off) / 4;
        self.smoothed = Some((smoothed * 7 + taken) / 8);
    }
}
