//! The sending half of one flow: what goes out next, and what acknowledgements say about it. Loss is found by RACK-TLP (RFC 8985),
//! or by duplicates where the peer has no selective acknowledgements (RFC 6582); how much goes out is BBR's, and the
//! pacer's. It makes no packets.

mod acknowledged;
mod timers;

use super::bbr::Bbr;
use super::delivery::Snapshot;
use super::outgoing::Outgoing;
use super::pacing::Pacer;
use super::rack::Rack;
use super::recovery::Recovery;
use super::rto::RoundTrip;
use super::scoreboard::Scoreboard;
use super::sequence::Seq;
use crate::clock::Time;

pub(super) use timers::Probe;

/// The least that a flow may queue.
const LEAST_QUEUE: usize = 128 * 1024;
/// What a flow may queue, in windows.
const QUEUED_WINDOWS: usize = 2;

/// A segment, or several in one, to go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outbound {
    pub(super) seq: Seq,
    /// Bytes of payload.
    pub(super) len: u32,
    pub(super) fin: bool,
    /// The queue is empty behind it.
    pub(super) push: bool,
}

/// The sending half of one flow. Of no use before the handshake is over.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) outgoing: Outgoing,
    una: Seq,
    nxt: Seq,
    /// The first sequence number that the peer has no room for.
    edge: Seq,
    /// The most room that the peer ever had.
    largest: u32,
    /// The segment that the peer's window was learnt from (RFC 9293 section 3.10.7.4: SND.WL1, SND.WL2).
    learnt: (Seq, Seq),
    shift: u8,
    /// What the peer takes in one segment, without options.
    peer_mss: u32,
    /// Bytes of payload in a segment, as last told.
    mss: u32,
    sack: bool,
    board: Scoreboard,
    rack: Rack,
    pub(super) round_trip: RoundTrip,
    bbr: Bbr,
    pacer: Pacer,
    /// When the pacer lets more out.
    paced_until: Option<Time>,
    recovery: Option<Recovery>,
    /// Bytes sent again since the last recovery began of which the peer did not say that they came twice.
    repeated: u32,
    duplicates: u32,
    /// The congestion window kept something from going out when SND.NXT was here.
    held_back_at: Option<Seq>,
    /// The caller finished.
    finishing: bool,
    /// The sequence number of our FIN, once it was sent.
    fin: Option<Seq>,
    fin_acknowledged: bool,
    /// When the peer last acknowledged something new, or the first of what is in flight was sent.
    progress_at: Time,
    /// When something was last sent or acknowledged.
    active_at: Time,
    /// When RACK wants to judge again.
    reorder_at: Option<Time>,
    /// A tail loss probe is out: SND.NXT when it was sent, and whether it repeated something.
    tail_probe: Option<(Seq, bool)>,
    /// A tail loss probe, or a probe of a closed window, is to go out.
    probe: Option<Probe>,
    persist_at: Option<Time>,
}

/// What the handshake settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreed {
    /// Our initial sequence number.
    pub(super) iss: Seq,
    /// The peer's first sequence number.
    pub(super) irs: Seq,
    pub(super) peer_mss: u32,
    /// Bytes of payload that the link takes.
    pub(super) mss: u32,
    pub(super) shift: u8,
    pub(super) sack: bool,
    /// The window of the segment that ended the handshake, in bytes.
    pub(super) window: u32,
    /// The most that may be queued, in bytes.
    pub(super) buffer: u32,
    /// Where chance comes from.
    pub(super) seed: u64,
}

impl Sender {
    pub(super) fn new(agreed: &Agreed, round_trip: RoundTrip, now: Time) -> Self {
        let first = agreed.iss.plus(1);
        let mss = agreed.mss.min(agreed.peer_mss);
        Self {
            outgoing: Outgoing::default(),
            una: first,
            nxt: first,
            edge: first.plus(agreed.window),
            largest: agreed.window,
            learnt: (agreed.irs, first),
            shift: agreed.shift,
            peer_mss: agreed.peer_mss,
            mss,
            sack: agreed.sack,
            board: Scoreboard::default(),
            rack: Rack::default(),
            round_trip,
            bbr: Bbr::new(mss, agreed.buffer, agreed.seed, now),
            pacer: Pacer::new(mss, now),
            paced_until: None,
            recovery: None,
            repeated: 0,
            duplicates: 0,
            held_back_at: None,
            finishing: false,
            fin: None,
            fin_acknowledged: false,
            progress_at: now,
            active_at: now,
            reorder_at: None,
            tail_probe: None,
            probe: None,
            persist_at: None,
        }
    }

    /// The handshake took so long.
    pub(super) fn timed(&mut self, micros: u64, now: Time) {
        self.round_trip.sample(micros, now);
        self.bbr.timed(micros, now);
    }

    /// SND.NXT.
    pub(super) fn nxt(&self) -> Seq {
        self.nxt
    }

    /// SND.UNA.
    pub(super) fn una(&self) -> Seq {
        self.una
    }

    /// Bytes that the peer has not acknowledged, sent or not; a FIN counts.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.outgoing.is_empty() || !self.board.is_empty()
    }

    pub(super) fn fin_sent(&self) -> bool {
        self.fin.is_some()
    }

    pub(super) fn fin_acknowledged(&self) -> bool {
        self.fin_acknowledged
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// No more is queued; FIN goes out behind what is.
    pub(super) fn finish(&mut self) {
        self.finishing = true;
    }

    /// Bytes that may be queued now: about two congestion windows, `most` at most. What arrived behind a gap takes memory, but does not
    /// count otherwise: a repetition that is lost as well would stop the flow for round trips.
    pub(super) fn room(&self, most: u32) -> usize {
        if self.finishing {
            return 0;
        }
        let queued = self.outgoing.len();
        let missing = queued.saturating_sub(self.board.arrived() as usize);
        let room = self.limit(most).saturating_sub(missing);
        room.min((most as usize).saturating_sub(queued))
    }

    /// Bytes that may be queued when nothing is.
    pub(super) fn limit(&self, most: u32) -> usize {
        let windows = self.bbr.window() as usize * QUEUED_WINDOWS;
        windows.max(LEAST_QUEUE).min(most as usize)
    }

    /// The peer understands selective acknowledgements.
    pub(super) fn has_sack(&self) -> bool {
        self.sack
    }

    /// Bytes of payload in a segment that carries `options` bytes of them, on a link that takes `mss`.
    pub(super) fn segment_size(&mut self, mss: u32, options: u32) -> u32 {
        let whole = mss.min(self.peer_mss);
        if whole != self.mss {
            self.mss = whole;
            self.bbr.set_mss(whole);
        }
        whole.saturating_sub(options).max(1)
    }

    /// What goes out next, in segments of `size`, `most` bytes at most: it counts as sent. What is lost comes first.
    pub(super) fn next(&mut self, size: u32, most: u32, now: Time) -> Option<Outbound> {
        let most = (most / size).max(1) * size;
        self.paced_until = None;
        let mut next = self.next_again(size, most, now);
        if next.is_none() && self.paced_until.is_none() {
            next = self.next_new(size, most, now);
        }
        if next.is_none() && self.waiting() == 0 {
            self.limited();
        }
        next
    }

    /// Takes note that there is less to send than may go out.
    fn limited(&mut self) {
        let pipe = self.board.pipe();
        if pipe < self.bbr.window() && self.board.first_lost().is_none() {
            self.bbr.delivery().limited(pipe);
        }
    }

    /// How many of the `wanted` bytes the pacer lets out: a portion of whole segments, or all.
    fn pace(&mut self, wanted: u32, size: u32, now: Time) -> u32 {
        let Some(rate) = self.bbr.pacing_rate() else {
            return wanted;
        };
        let allowed = self.pacer.allows(wanted, rate, self.mss, now);
        if allowed == wanted {
            return wanted;
        }
        self.paced_until = Some(self.pacer.ready_at(rate));
        allowed / size * size
    }

    fn next_again(&mut self, size: u32, most: u32, now: Time) -> Option<Outbound> {
        if let Some(Probe::Tail) = self.probe {
            self.probe = None;
            return self.tail(size, now);
        }
        let (start, end) = self.board.first_lost()?;
        let forced = self
            .recovery
            .as_ref()
            .is_some_and(|recovery| recovery.first_due);
        let room = self.bbr.window().saturating_sub(self.board.pipe());
        let room = if forced { room.max(size) } else { room };
        let whole = self.reach(start, end.since(start), size);
        let len = whole.min(most).min(if room < whole {
            room / size * size
        } else {
            room
        });
        let len = self.pace(len, size, now);
        if len == 0 {
            return None;
        }
        Some(self.send_again(start, start.plus(len), now))
    }

    fn send_again(&mut self, start: Seq, end: Seq, now: Time) -> Outbound {
        let snapshot = self.snapshot(end.since(start), now);
        self.board.sent_again(start, end, snapshot, now);
        self.repeated = self.repeated.saturating_add(end.since(start));
        self.active_at = now;
        if let Some(recovery) = &mut self.recovery {
            recovery.first_due = false;
        }
        self.outbound(start, end)
    }

    /// A tail loss probe (RFC 8985 section 7.3): something new if there is, or the last segment again.
    fn tail(&mut self, size: u32, now: Time) -> Option<Outbound> {
        let room = self.edge.distance(self.nxt).max(0).cast_unsigned();
        let waiting = self.waiting().min(size);
        if waiting > 0 && room >= waiting {
            let sent = self.send_new(waiting, now);
            self.tail_probe = Some((self.nxt, false));
            return Some(sent);
        }
        let (start, end) = self.board.last(size)?;
        self.tail_probe = Some((self.nxt, true));
        Some(self.send_again(start, end, now))
    }

    /// Bytes that were queued and never sent.
    fn waiting(&self) -> u32 {
        if self.fin.is_some() {
            return 0;
        }
        self.outgoing.len() as u32 - self.nxt.since(self.una)
    }

    fn next_new(&mut self, size: u32, most: u32, now: Time) -> Option<Outbound> {
        let waiting = self.waiting();
        let fin_due = self.finishing && self.fin.is_none();
        if waiting == 0 && !fin_due {
            return None;
        }
        self.restart_after_idle(now);
        let room = self.edge.distance(self.nxt).max(0).cast_unsigned();
        let allowed = self.bbr.window().saturating_sub(self.board.pipe());
        let whole = self.reach(self.nxt, waiting.min(most), size);
        let len = self.whole_segments(whole, room, allowed, size);
        if len < whole && allowed < whole {
            self.held_back_at = Some(self.nxt);
        }
        let len = self.pace(len, size, now);
        if len == 0 && !(fin_due && waiting == 0 && (room > 0 || self.board.is_empty())) {
            return None;
        }
        Some(self.send_new(len, now))
    }

    /// How much of `whole` bytes may go out. A short segment does not, unless it is the last or the peer's window is always that small (RFC
    /// 9293 section 3.8.6.2.1).
    fn whole_segments(&self, whole: u32, room: u32, allowed: u32, size: u32) -> u32 {
        let len = whole.min(room).min(allowed);
        if len == whole {
            return len;
        }
        match len / size * size {
            0 if len == room && len >= self.largest / 2 => len,
            0 if len == room && self.probe == Some(Probe::Window) => len,
            segments => segments,
        }
    }

    fn send_new(&mut self, len: u32, now: Time) -> Outbound {
        let start = self.nxt;
        let fin = self.finishing && len == self.waiting() && self.fin.is_none();
        if fin {
            self.fin = Some(start.plus(len));
        }
        let end = start.plus(len).plus(u32::from(fin));
        if self.board.is_empty() {
            self.progress_at = now;
        }
        let snapshot = self.snapshot(end.since(start), now);
        self.board.sent(start, end, snapshot, now);
        self.nxt = end;
        self.active_at = now;
        self.persist_at = None;
        if self.probe == Some(Probe::Window) {
            self.probe = None;
        }
        if let Some(recovery) = &mut self.recovery {
            recovery.first_due = false;
        }
        self.outbound(start, end)
    }

    /// What is known of the path now that so many bytes go out.
    fn snapshot(&mut self, len: u32, now: Time) -> Snapshot {
        self.pacer.spend(len);
        let pipe = self.board.pipe();
        self.bbr.delivery().sent(len, pipe, now)
    }

    fn outbound(&self, start: Seq, end: Seq) -> Outbound {
        let fin = self.fin.is_some_and(|fin| end.is_after(fin));
        Outbound {
            seq: start,
            len: end.since(start) - u32::from(fin),
            fin,
            push: end == self.nxt && self.waiting() == 0,
        }
    }

    /// How much of `len` sequence numbers can be handed out at once: what lies in two pieces, in whole segments.
    fn reach(&self, start: Seq, len: u32, size: u32) -> u32 {
        let offset = start.since(self.una);
        let data = (self.outgoing.len() as u32 - offset.min(self.outgoing.len() as u32)).min(len);
        let [one, two] = self.outgoing.slices(offset, data as usize);
        let found = (one.len() + two.len()) as u32;
        if found == data {
            return len;
        }
        if found < size {
            found
        } else {
            found / size * size
        }
    }

    /// The payload of what [`Sender::next`] gave.
    pub(super) fn payload(&self, seq: Seq, len: u32) -> [&[u8]; 2] {
        if len == 0 {
            return [&[], &[]];
        }
        self.outgoing.slices(seq.since(self.una), len as usize)
    }

    fn restart_after_idle(&mut self, now: Time) {
        if self.board.is_empty() {
            self.bbr.restarts(now);
            self.active_at = now;
        }
    }
}
