//! One TCP connection (RFC 9293): handshake, the two halves, their ends. What comes in is in `connection/arrive.rs`, what goes out in
//! `connection/depart.rs`. It tells nobody anything: `tcp.rs` makes events of what it is asked.

mod arrive;
mod depart;

pub(crate) use arrive::Arrival;

use super::numbers::Numbers;
use super::receiver::{Receiver, Settled, shift_for};
use super::rto::RoundTrip;
use super::segment::Segment;
use super::sender::{Agreed, Sender};
use super::sequence::Seq;
use crate::clock::Time;
use crate::memory::Memory;

/// What a peer takes that does not say (RFC 9293 section 3.7.1).
const DEFAULT_MSS: u16 = 536;
/// Peers that say less are not believed.
const MIN_MSS: u16 = 48;
/// Answers to segments that are not acceptable, a second (RFC 5961 section 7).
const CHALLENGES: u8 = 10;
/// Microseconds.
const SECOND: u64 = 1_000_000;

/// What a connection works with.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) memory: &'a mut Memory,
    pub(crate) now: Time,
    /// Bytes of payload that the link takes in a segment without options.
    pub(crate) mss: u32,
    /// Bytes that each buffer may hold.
    pub(crate) buffer: u32,
}

/// Where it stands. FIN-WAIT, CLOSE-WAIT and so on are read off the two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    SynSent,
    SynReceived,
    Open,
    /// Both sides finished and know it.
    Finished,
    Reset,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stage: Stage,
    v4: bool,
    /// Our initial sequence number.
    iss: Seq,
    /// Where the flow's further numbers come from: what the initial sequence number does not show.
    seed: u64,
    /// A SYN is to go out.
    syn_due: bool,
    syns: u32,
    syn_at: Time,
    sender: Sender,
    receiver: Receiver,
    /// The peer finished before we did.
    passive: bool,
    /// The peer is to be asked whether it is still there.
    asking: bool,
    /// The window field that was sent last.
    told_window: u16,
    challenges: u8,
    challenges_since: Time,
}

impl Connection {
    /// Will answer `syn`.
    pub(super) fn passive(syn: &Segment, v4: bool, seed: u64, context: &Context<'_>) -> Self {
        let mut connection = Self::new(Stage::SynReceived, v4, seed, context);
        connection.agree(syn, context);
        connection
    }

    /// Will send a SYN.
    pub(super) fn active(v4: bool, seed: u64, context: &Context<'_>) -> Self {
        Self::new(Stage::SynSent, v4, seed, context)
    }

    fn new(stage: Stage, v4: bool, seed: u64, context: &Context<'_>) -> Self {
        let (iss, seed) = (Seq(seed as u32), seed >> 32);
        let (agreed, settled) = Self::terms(iss, seed, None, context);
        Self {
            stage,
            v4,
            iss,
            seed,
            syn_due: true,
            syns: 0,
            syn_at: context.now,
            sender: Sender::new(&agreed, RoundTrip::default(), context.now),
            receiver: Receiver::new(&settled, context.now),
            passive: false,
            asking: false,
            told_window: 0,
            challenges: CHALLENGES,
            challenges_since: context.now,
        }
    }

    /// What both sides' SYNs lead to.
    fn terms(
        iss: Seq,
        seed: u64,
        syn: Option<&Segment>,
        context: &Context<'_>,
    ) -> (Agreed, Settled) {
        let options = syn.map(|syn| syn.options).unwrap_or_default();
        let irs = syn.map_or(Seq(0), |syn| syn.seq);
        let agreed = Agreed {
            iss,
            irs,
            peer_mss: u32::from(options.mss.unwrap_or(DEFAULT_MSS).max(MIN_MSS)),
            mss: context.mss,
            shift: options.shift.unwrap_or(0),
            sack: options.sack,
            window: syn.map_or(0, |syn| u32::from(syn.window)),
            buffer: context.buffer,
            seed,
        };
        let settled = Settled {
            first: irs.plus(1),
            shift: options.shift.map(|_| shift_for(context.buffer)),
            sack: options.sack,
            mss: context.mss,
            most: context.buffer,
            told: 0,
        };
        (agreed, settled)
    }

    /// Takes note of the peer's SYN.
    fn agree(&mut self, syn: &Segment, context: &Context<'_>) {
        let (agreed, mut settled) = Self::terms(self.iss, self.seed, Some(syn), context);
        settled.told = if self.syns > 0 {
            u32::from(self.told_window)
        } else {
            0
        };
        let trip = std::mem::take(&mut self.sender.round_trip);
        let finishing = self.sender.is_finishing();
        self.sender = Sender::new(&agreed, trip, context.now);
        if finishing {
            self.sender.finish();
        }
        self.receiver = Receiver::new(&settled, context.now);
    }

    /// The handshake is over.
    pub(super) fn is_connected(&self) -> bool {
        match self.stage {
            Stage::Open | Stage::Finished => true,
            Stage::SynSent | Stage::SynReceived | Stage::Reset => false,
        }
    }

    pub(super) fn is_reset(&self) -> bool {
        self.stage == Stage::Reset
    }

    /// Both sides finished, and the peer knows.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Finished
    }

    /// Both sides finished, the peer may not know (TIME-WAIT).
    pub(super) fn is_waiting(&self) -> bool {
        self.stage == Stage::Open
            && self.sender.fin_acknowledged()
            && self.receiver.is_finished()
            && !self.receiver.owes()
    }

    /// The peer's FIN came, and everything before it.
    pub(super) fn peer_finished(&self) -> bool {
        self.receiver.is_finished()
    }

    /// We finished, or cannot send any more for another reason.
    pub(super) fn has_finished(&self) -> bool {
        self.sender.is_finishing() || matches!(self.stage, Stage::Finished | Stage::Reset)
    }

    /// The peer owes us an acknowledgement.
    pub(super) fn is_unacknowledged(&self) -> bool {
        self.sender.is_unfinished()
            || (self.sender.is_finishing() && !self.sender.fin_acknowledged())
    }

    pub(super) fn numbers(&self) -> Numbers {
        Numbers {
            next: self.sender.nxt(),
            expected: self.receiver.nxt(),
            window: self.told_window,
        }
    }

    /// Bytes that can be read.
    pub(super) fn unread(&self) -> usize {
        self.receiver.incoming.ready_len()
    }

    /// Lets `read` take received bytes, as many as lie in one piece.
    pub(super) fn read(&mut self, memory: &mut Memory, read: impl FnOnce(&[u8]) -> usize) -> usize {
        self.receiver.read(memory, read)
    }

    /// Whether the reader made so much room that the peer should hear of it.
    pub(super) fn has_window_news(&self, memory: &Memory) -> bool {
        self.stage == Stage::Open && self.receiver.has_news(memory)
    }

    /// Whether something is to go out for what came in.
    pub(super) fn owes(&self) -> bool {
        self.receiver.owes()
    }

    /// Bytes that may be queued now.
    pub(super) fn room(&self, buffer: u32) -> usize {
        if self.stage == Stage::Open {
            self.sender.room(buffer)
        } else {
            0
        }
    }

    /// Bytes that may be queued when nothing is.
    pub(super) fn queue_limit(&self, buffer: u32) -> usize {
        self.sender.limit(buffer)
    }

    /// Lets `write` queue bytes; `None` when there is no memory.
    pub(super) fn write(
        &mut self,
        most: usize,
        memory: &mut Memory,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        self.sender.outgoing.write_with(most, memory, write)
    }

    /// No more is queued; FIN goes out behind what is.
    pub(super) fn finish(&mut self) {
        self.sender.finish();
    }

    /// The peer is to be asked whether it is still there.
    pub(super) fn ask(&mut self) {
        self.asking = true;
    }

    /// When [`Connection::handle_timeout`] is to be called.
    pub(super) fn wake_at(&self) -> Option<Time> {
        match self.stage {
            Stage::SynSent | Stage::SynReceived if self.syn_due => None,
            Stage::SynSent | Stage::SynReceived => {
                Some(self.syn_at.plus(self.sender.round_trip.timeout()))
            }
            Stage::Open => self.sender.wake_at(),
            Stage::Finished | Stage::Reset => None,
        }
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        match self.stage {
            Stage::SynSent | Stage::SynReceived => {
                if self.wake_at().is_some_and(|at| at <= now) {
                    self.syn_due = true;
                    self.sender.round_trip.back_off();
                }
            }
            Stage::Open => self.sender.handle_timeout(now),
            Stage::Finished | Stage::Reset => {}
        }
    }

    /// Gives all its memory back.
    pub(super) fn release(&mut self, memory: &mut Memory) {
        self.sender.outgoing.clear(memory);
        self.receiver.incoming.clear(memory);
    }
}
