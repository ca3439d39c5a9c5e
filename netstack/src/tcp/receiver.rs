//! The receiving half of one flow: what arrived, what of it is acknowledged, and how much more the peer may send. The window
//! grows while the caller keeps up, within the stack's memory, and its edge never moves back.

use super::incoming::{Incoming, Placed};
use super::options::Blocks;
use super::segment::Segment;
use super::sequence::Seq;
use crate::clock::Time;
use crate::memory::{FLOOR, Memory, PIECE};

/// The window that a flow begins with, in bytes: what a SYN can say.
const FIRST_WINDOW: u32 = 65_535;
/// A window that takes longer than this and several round trips to fill is large enough: microseconds.
const SLOW: u64 = 50_000;
/// Round trips in which a window is filled that should grow.
const SLOW_TRIPS: u64 = 4;

/// The receiving half of one flow.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) incoming: Incoming,
    nxt: Seq,
    /// The first sequence number that the peer may not send: as it was told.
    edge: Seq,
    shift: u8,
    scaled: bool,
    sack: bool,
    /// Bytes the peer may send ahead of the reader, and the most it may ever.
    window: u32,
    most: u32,
    /// Segments are this long, or longer when several come in one.
    mss: u32,
    round: Round,
    /// Acknowledgements that are due: more than one tell a peer without SACK how many segments came.
    owed: u8,
    /// What came twice.
    again: Option<(Seq, Seq)>,
    /// The sequence number of the peer's FIN, once it came, though not what is before it.
    fin: Option<Seq>,
    finished: bool,
}

/// Half a window's worth of bytes, and how the reader fared meanwhile.
#[derive(Debug)]
struct Round {
    began: Time,
    end: Seq,
    /// The fewest bytes that waited.
    backlog: u32,
}

/// What the handshake settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    /// The peer's first sequence number behind the SYN.
    pub(super) first: Seq,
    /// By how much our window fields are scaled; `None` when the peer does not scale.
    pub(super) shift: Option<u8>,
    pub(super) sack: bool,
    pub(super) mss: u32,
    /// Bytes that the window may grow to.
    pub(super) most: u32,
    /// The window that our SYN said, in bytes.
    pub(super) told: u32,
}

/// By how much window fields are scaled so that they can say `most` bytes.
pub(super) fn shift_for(most: u32) -> u8 {
    (0..14).find(|shift| most >> shift <= 65_535).unwrap_or(14)
}

impl Receiver {
    pub(super) fn new(settled: &Settled, now: Time) -> Self {
        let shift = settled.shift.unwrap_or(0);
        let most = settled.most.min(65_535 << shift);
        let window = FIRST_WINDOW.min(most);
        Self {
            incoming: Incoming::default(),
            nxt: settled.first,
            edge: settled.first.plus(settled.told),
            shift,
            scaled: settled.shift.is_some(),
            sack: settled.sack,
            window,
            most,
            mss: settled.mss,
            round: Round {
                began: now,
                end: settled.first.plus(window / 2),
                backlog: 0,
            },
            owed: 0,
            again: None,
            fin: None,
            finished: false,
        }
    }

    /// RCV.NXT.
    pub(super) fn nxt(&self) -> Seq {
        self.nxt
    }

    /// The peer's FIN came, and everything before it.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(super) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// An acknowledgement is due.
    pub(super) fn owe(&mut self) {
        self.owed = self.owed.max(1);
    }

    /// One acknowledgement goes out.
    pub(super) fn acknowledged(&mut self) {
        self.owed = if self.sack {
            0
        } else {
            self.owed.saturating_sub(1)
        };
        self.again = None;
    }

    /// Whether a segment touches the window (RFC 9293 section 3.10.7.4).
    pub(super) fn accepts(&self, segment: &Segment) -> bool {
        let end = segment.end();
        let window = self.edge.distance(self.nxt);
        let at = |seq: Seq| (0..window.max(1)).contains(&seq.distance(self.nxt));
        if segment.len == 0 && !segment.fin {
            return at(segment.seq) || segment.seq == self.edge;
        }
        (window > 0 && (at(segment.seq) || at(end.minus(1)))) || self.surrounds(segment.seq, end)
    }

    fn surrounds(&self, start: Seq, end: Seq) -> bool {
        start.is_before(self.nxt) && end.is_after(self.nxt) && self.edge.is_after(self.nxt)
    }

    /// Takes an acceptable segment's payload and FIN in; false when there was no memory for it.
    pub(super) fn receive(
        &mut self,
        segment: &Segment,
        payload: &[u8],
        memory: &mut Memory,
    ) -> bool {
        let end = segment.seq.plus(segment.len);
        let known = self
            .nxt
            .distance(segment.seq)
            .max(0)
            .cast_unsigned()
            .min(segment.len);
        let beyond = end
            .distance(self.edge)
            .max(0)
            .cast_unsigned()
            .min(segment.len - known);
        let (known, beyond) = (known as usize, beyond as usize);
        if known > 0 {
            self.again = Some((segment.seq, segment.seq.plus(known as u32)));
        }
        let data = &payload[known..payload.len() - beyond];
        let fin = segment.fin && beyond == 0;
        self.owe();
        if fin && !self.finished {
            self.fin = Some(end);
        }
        let kept = self.finished
            || data.is_empty()
            || self.place(segment.seq.plus(known as u32), data, memory);
        if self.fin == Some(self.nxt) && !self.finished {
            self.finished = true;
            self.nxt = self.nxt.plus(1);
        }
        kept
    }

    fn place(&mut self, start: Seq, data: &[u8], memory: &mut Memory) -> bool {
        let bulk = data.len() >= self.mss as usize;
        let distance = start.since(self.nxt);
        match self.incoming.place(distance, data, bulk, memory) {
            Placed::Kept(count) => {
                self.nxt = self.nxt.plus(count as u32);
                if count == 0 {
                    self.owed = self.owed.saturating_add(1).min(16);
                }
                true
            }
            Placed::Known => {
                self.again = Some((start, start.plus(data.len() as u32)));
                true
            }
            Placed::Dropped => false,
        }
    }

    /// A segment came whose bytes were all there.
    pub(super) fn came_again(&mut self, segment: &Segment) {
        self.again = Some((segment.seq, segment.seq.plus(segment.len)));
        self.owe();
    }

    /// The window that our SYN says, which is not scaled; what it says is kept to.
    pub(super) fn syn_window(&mut self) -> u16 {
        let window = self.window.min(65_535);
        self.edge = self.edge.max(self.nxt.plus(window));
        window as u16
    }

    /// Both ends scale windows.
    pub(super) fn scaled(&self) -> bool {
        self.scaled
    }

    /// Lets `read` take bytes that lie in one piece.
    pub(super) fn read(&mut self, memory: &mut Memory, read: impl FnOnce(&[u8]) -> usize) -> usize {
        let ready = self.incoming.ready();
        let taken = read(ready).min(ready.len());
        if taken > 0 {
            self.incoming.consume(taken, memory);
            self.round.backlog = self.round.backlog.min(self.incoming.ready_len() as u32);
        }
        taken
    }

    /// Makes the window larger when the last one was filled fast and the reader kept up: as Linux's dynamic right-sizing, but without timing round
    /// trips, which a receiver cannot well.
    pub(super) fn tune(&mut self, trip: Option<u64>, now: Time) {
        if self.nxt.is_before(self.round.end) {
            return;
        }
        let fast = now.since(self.round.began) <= (SLOW_TRIPS * trip.unwrap_or(0)).max(SLOW);
        if fast && self.round.backlog <= self.window / 4 {
            self.window = self.window.saturating_mul(2).min(self.most);
        }
        self.round = Round {
            began: now,
            end: self.nxt.plus(self.window / 2),
            backlog: self.incoming.ready_len() as u32,
        };
    }

    /// The first sequence number that the peer should not send yet.
    fn wanted_edge(&self, memory: &Memory) -> Seq {
        let share = u32::try_from(memory.free() / 2).unwrap_or(u32::MAX);
        let window = self.window.min(share.max(FLOOR as u32));
        self.nxt
            .plus(window.saturating_sub(self.incoming.ready_len() as u32))
    }

    /// Whether the reader made so much room that the peer should hear of it.
    pub(super) fn has_news(&self, memory: &Memory) -> bool {
        let gained = self.wanted_edge(memory).distance(self.edge);
        let open = self.edge.distance(self.nxt).max(0);
        !self.finished
            && gained > 0
            && gained.cast_unsigned() >= (self.window / 2).min(4 * self.mss).max(1)
            && (open as u32) < self.window / 2
    }

    /// The window field to send; what it says is kept to.
    pub(super) fn window_field(&mut self, memory: &Memory) -> u16 {
        let wanted = self.wanted_edge(memory);
        // A window that opens by crumbs makes the peer send crumbs (RFC 9293 section 3.8.6.2.2).
        let crumb = self.mss.min(self.window / 2).cast_signed();
        if wanted.distance(self.edge) >= crumb.max(1) {
            self.edge = wanted;
        }
        let open = self.edge.distance(self.nxt).max(0).cast_unsigned();
        // The edge must not move back, so the field is rounded up, unless the reader stopped and it would creep on for ever.
        let full = self.incoming.ready_len() > self.most as usize + PIECE;
        let unit = (1 << self.shift) - 1;
        let field = (open + if full { 0 } else { unit }) >> self.shift;
        let field = field.min(65_535);
        self.edge = self.edge.max(self.nxt.plus(field << self.shift));
        field as u16
    }

    /// Selective acknowledgements to send: what came twice (RFC 2883), then what arrived behind the gap.
    pub(super) fn blocks(&self) -> Blocks {
        let mut blocks = Blocks::default();
        if !self.sack || (self.again.is_none() && !self.incoming.has_gap()) {
            return blocks;
        }
        let nxt = self.nxt;
        let ahead = self
            .incoming
            .ahead()
            .map(|(start, end)| (nxt.plus(start), nxt.plus(end)));
        for (slot, block) in blocks.iter_mut().zip(self.again.into_iter().chain(ahead)) {
            *slot = Some(block);
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::options::Options;

    fn receiver(most: u32) -> Receiver {
        let settled = Settled {
            first: Seq(0),
            shift: Some(shift_for(most)),
            sack: true,
            mss: 1000,
            most,
            told: FIRST_WINDOW.min(most),
        };
        Receiver::new(&settled, Time::default())
    }

    fn segment(seq: u32, len: u32) -> Segment {
        Segment {
            seq: Seq(seq),
            ack: Some(Seq(0)),
            syn: false,
            fin: false,
            rst: false,
            window: 0,
            len,
            options: Options::default(),
        }
    }

    #[test]
    fn shifts() {
        assert_eq!(
            [65_535, 65_536, 4 << 20, 512 << 20].map(shift_for),
            [0, 1, 7, 14]
        );
    }

    /// However the reader reads, no acknowledgement takes back what an earlier one promised.
    #[test]
    fn the_edge_never_moves_back() {
        let mut memory = Memory::new(1 << 20);
        let mut receiver = receiver(4 << 20);
        let mut edge = receiver.edge;
        let mut now = Time::default();
        for step in 0..20_000_u32 {
            let len =
                (step * 7919 % 1400).min(receiver.edge.distance(receiver.nxt).cast_unsigned());
            let arrived = segment(receiver.nxt.0, len);
            receiver.receive(&arrived, &vec![0; len as usize], &mut memory);
            if step % 3000 > 1000 {
                while receiver.read(&mut memory, |ready| ready.len().min(900)) > 0 {}
            }
            now = now.plus(100);
            receiver.tune(None, now);
            let field = receiver.window_field(&memory);
            let told = receiver.nxt.plus(u32::from(field) << receiver.shift);
            assert!(!told.is_before(edge), "step {step}");
            edge = told;
            assert!(memory.used() <= (1 << 20) + (4 << 20));
        }
        assert!(receiver.window > FIRST_WINDOW);
    }

    #[test]
    fn the_window_grows_for_fast_peers_and_readers_only() {
        let fill = |millis: u64, read: bool| {
            let mut memory = Memory::new(64 << 20);
            let mut receiver = receiver(4 << 20);
            let mut now = Time::default();
            for _ in 0..10_000 {
                let open = receiver.edge.distance(receiver.nxt).cast_unsigned();
                receiver.receive(
                    &segment(receiver.nxt.0, open.min(1000)),
                    &[0; 1000][..open.min(1000) as usize],
                    &mut memory,
                );
                while read && receiver.read(&mut memory, <[u8]>::len) > 0 {}
                receiver.tune(Some(1000), now);
                receiver.window_field(&memory);
                now = now.plus(millis * 1000);
            }
            receiver.window
        };
        assert_eq!(fill(0, true), 4 << 20);
        assert_eq!(fill(10, true), FIRST_WINDOW);
        assert!(fill(0, false) <= 2 * FIRST_WINDOW);
    }

    #[test]
    fn what_came_twice_is_told_first() {
        let mut memory = Memory::new(1 << 20);
        let mut receiver = receiver(1 << 20);
        for seq in [0, 2000, 4000, 2000] {
            receiver.receive(&segment(seq, 1000), &[0; 1000], &mut memory);
        }
        let block = |start, end| Some((Seq(start), Seq(end)));
        assert_eq!(
            receiver.blocks()[..3],
            [block(2000, 3000), block(4000, 5000), block(2000, 3000)]
        );
        receiver.acknowledged();
        receiver.receive(&segment(500, 1000), &[0; 1000], &mut memory);
        assert_eq!(receiver.blocks()[0], block(500, 1000));
        assert_eq!(receiver.nxt, Seq(1500));
    }

    #[test]
    fn a_fin_waits_for_what_is_before_it() {
        let mut memory = Memory::new(1 << 20);
        let mut receiver = receiver(1 << 20);
        let last = Segment {
            fin: true,
            ..segment(1000, 1000)
        };
        receiver.receive(&last, &[0; 1000], &mut memory);
        assert!(!receiver.is_finished());
        receiver.receive(&segment(0, 1000), &[0; 1000], &mut memory);
        assert!(receiver.is_finished());
        assert_eq!(receiver.nxt, Seq(2001));
    }
}
