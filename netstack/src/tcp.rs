//! One TCP flow: a SYN that is held until the caller decides, then a connection. It turns what happens to the connection into events, and
//! gives up on peers that are silent. It does not know other flows, nor who calls.

mod bbr;
mod connection;
mod delivery;
mod header;
mod incoming;
mod numbers;
mod options;
mod outgoing;
mod pacing;
mod pieces;
mod rack;
mod ranges;
mod receiver;
mod recovery;
mod rto;
mod scoreboard;
mod segment;
mod sender;
mod sequence;

use std::collections::VecDeque;
use std::time::Duration;

pub(crate) use connection::{Arrival, Connection, Context};
pub(crate) use header::{Departure, MAX_HEADER, headers};
pub(crate) use numbers::Numbers;
pub(crate) use segment::Segment;

use crate::clock::Time;
use crate::event::{Event, FlowId};
use crate::flows::Tuple;
use crate::memory::Memory;
use crate::outbox::Outbox;

/// A SYN is held this long: as long as Linux repeats its own.
const HELD: Duration = Duration::from_secs(130);
/// A handshake may take this long once begun.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// Data or FIN may stay unacknowledged this long (RFC 9293 section 3.8.3: at least 100 s; Linux: about 15 min).
const UNACKNOWLEDGED: Duration = Duration::from_secs(15 * 60);
/// Silence after which the peer is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30 * 60);
/// An idle peer may leave four questions of the keep-alive unanswered.
const IDLE: Duration = Duration::from_secs(135 * 60);

/// What has become of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    /// Both sides finished, the peer's acknowledgement of it came.
    Closed,
    /// Both sides finished, the peer may not know yet (TIME-WAIT).
    Lingers(Numbers),
    Reset,
}

/// One TCP flow.
#[derive(Debug)]
pub(crate) struct TcpFlow {
    phase: Phase,
    /// The peer's last sign of life, or when we began to wait for one.
    heard: Time,
    /// When the peer was last asked whether it is still there.
    asked: Time,
    told_connected: bool,
    told_finished: bool,
    wants_readable: bool,
    wants_writable: bool,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "held SYNs are few and short-lived"
)]
enum Phase {
    Held {
        syn: Vec<u8>,
        segment: Segment,
        finishing: bool,
    },
    Open(Connection),
}

impl TcpFlow {
    pub(crate) fn held(syn: &[u8], segment: Segment, now: Time) -> Self {
        let syn = syn.to_vec();
        let finishing = false;
        let held = Phase::Held {
            syn,
            segment,
            finishing,
        };
        Self::new(held, now)
    }

    /// Opens from here.
    pub(crate) fn connecting(tuple: &Tuple, seed: u64, context: &Context<'_>) -> Self {
        let connection = Connection::active(tuple.own.is_ipv4(), seed, context);
        Self::new(Phase::Open(connection), context.now)
    }

    fn new(phase: Phase, now: Time) -> Self {
        Self {
            phase,
            heard: now,
            asked: now,
            told_connected: false,
            told_finished: false,
            wants_readable: true,
            wants_writable: false,
        }
    }

    /// The SYN, as long as nothing was decided.
    pub(crate) fn syn(&self) -> Option<&[u8]> {
        match &self.phase {
            Phase::Held { syn, .. } => Some(syn),
            Phase::Open(_) => None,
        }
    }

    /// Begins the handshake with the SYN that was held. False when that is impossible.
    pub(crate) fn accept(&mut self, tuple: &Tuple, seed: u64, context: &Context<'_>) -> bool {
        let Phase::Held {
            segment, finishing, ..
        } = &self.phase
        else {
            return true;
        };
        let mut connection = Connection::passive(segment, tuple.own.is_ipv4(), seed, context);
        if *finishing {
            connection.finish();
        }
        self.phase = Phase::Open(connection);
        self.heard = context.now;
        tuple.own.port() != 0
    }

    /// Takes a segment of this flow in; `packet` is all of it. `None` when it says that the peer gave the held SYN up.
    pub(crate) fn take_in(
        &mut self,
        packet: &[u8],
        segment: &Segment,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Option<Arrival> {
        match &mut self.phase {
            Phase::Held {
                syn, segment: held, ..
            } if segment.opens() => {
                *held = *segment;
                packet.clone_into(syn);
                Some(Arrival::Taken)
            }
            Phase::Held { segment: held, .. } => {
                let given_up = segment.rst && segment.seq.since(held.seq) <= 1;
                (!given_up).then_some(Arrival::Taken)
            }
            Phase::Open(connection) => {
                self.heard = context.now;
                Some(connection.arrive(segment, payload, context))
            }
        }
    }

    /// The next segment, or several in one, to send: at most `most` bytes of payload, but at least one segment's.
    pub(crate) fn depart(&mut self, most: usize, context: &mut Context<'_>) -> Option<Departure> {
        match &mut self.phase {
            Phase::Open(connection) => connection.depart(most, context),
            Phase::Held { .. } => None,
        }
    }

    /// The payload of what [`TcpFlow::depart`] gave.
    pub(crate) fn payload(&self, departure: &Departure) -> [&[u8]; 2] {
        match &self.phase {
            Phase::Open(connection) => connection.payload(departure),
            Phase::Held { .. } => [&[], &[]],
        }
    }

    /// Ends it with a RST.
    pub(crate) fn abort(&mut self, tuple: &Tuple, outbox: &mut Outbox) {
        if let Phase::Open(connection) = &mut self.phase {
            connection.abort(tuple, outbox);
        }
    }

    /// Gives all its memory back.
    pub(crate) fn release(&mut self, memory: &mut Memory) {
        if let Phase::Open(connection) = &mut self.phase {
            connection.release(memory);
        }
    }

    /// Tells what changed since the last time, and what has become of the flow.
    pub(crate) fn settle(
        &mut self,
        flow: FlowId,
        events: &mut VecDeque<Event>,
        buffer: u32,
    ) -> Fate {
        let Phase::Open(connection) = &mut self.phase else {
            return Fate::Lives;
        };
        let (connected, unread) = (connection.is_connected(), connection.unread());
        if !self.told_connected && connected {
            self.told_connected = true;
            events.push_back(Event::TcpConnected { flow });
        }
        if self.wants_readable && unread > 0 && connected {
            self.wants_readable = false;
            events.push_back(Event::TcpReadable { flow });
        }
        if !self.told_finished && connected && unread == 0 && connection.peer_finished() {
            self.told_finished = true;
            events.push_back(Event::TcpPeerFinished { flow });
        }
        if self.wants_writable {
            let room = connection.room(buffer);
            if room > 0 && room >= connection.queue_limit(buffer) / 4 {
                self.wants_writable = false;
                events.push_back(Event::TcpWritable { flow });
            }
        }
        fate(connection)
    }

    /// Whether the handshake is not over.
    pub(crate) fn is_opening(&self) -> bool {
        !self.told_connected
    }

    /// When the flow has to be looked at again; one that is `stirred` will be, as soon as there is room for its segments.
    pub(crate) fn wake_at(&self, stirred: bool) -> Option<Time> {
        let Phase::Open(connection) = &self.phase else {
            return self.give_up_at();
        };
        let own = if stirred { None } else { connection.wake_at() };
        let ask = self.asks().then(|| self.ask_at());
        [self.give_up_at(), own, ask].into_iter().flatten().min()
    }

    /// Does what is due. False when the peer was silent for longer than anybody waits.
    pub(crate) fn handle_timeout(&mut self, now: Time) -> bool {
        if self.give_up_at().is_some_and(|at| at <= now) {
            return false;
        }
        let ask = self.asks() && self.ask_at() <= now;
        if let Phase::Open(connection) = &mut self.phase {
            connection.handle_timeout(now);
            if ask {
                self.asked = now;
                connection.ask();
            }
        }
        true
    }

    fn asks(&self) -> bool {
        match &self.phase {
            Phase::Open(connection) => connection.is_connected() && !connection.is_over(),
            Phase::Held { .. } => false,
        }
    }

    fn ask_at(&self) -> Time {
        self.heard.max(self.asked).plus(micros(KEEP_ALIVE))
    }

    fn give_up_at(&self) -> Option<Time> {
        let patience = match &self.phase {
            Phase::Held { .. } => HELD,
            Phase::Open(connection) if connection.is_over() || connection.is_waiting() => {
                return None;
            }
            Phase::Open(connection) if !connection.is_connected() => HANDSHAKE,
            Phase::Open(connection) if connection.is_unacknowledged() => UNACKNOWLEDGED,
            Phase::Open(_) => IDLE,
        };
        Some(self.heard.plus(micros(patience)))
    }
}

fn fate(connection: &Connection) -> Fate {
    let unread = connection.unread() > 0;
    if connection.is_reset() {
        Fate::Reset
    } else if unread || connection.owes() {
        Fate::Lives
    } else if connection.is_over() {
        Fate::Closed
    } else if connection.is_waiting() {
        Fate::Lingers(connection.numbers())
    } else {
        Fate::Lives
    }
}

/// What the caller does with a flow's bytes.
impl TcpFlow {
    /// Lets `write` fill free space of the send buffer, in one piece; returns what it says it wrote.
    pub(crate) fn send_with(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        let Phase::Open(connection) = &mut self.phase else {
            self.wants_writable = true;
            return 0;
        };
        if !connection.is_unacknowledged() {
            self.heard = context.now;
        }
        let room = connection.room(context.buffer);
        if room == 0 {
            self.wants_writable = true;
            return 0;
        }
        let written = connection.write(room, context.memory, write);
        self.wants_writable |= written.is_none_or(|written| written == room);
        written.unwrap_or(0)
    }

    /// Lets `read` take received bytes, as many as lie in one piece; returns what it says it took, and whether the peer should hear of it.
    pub(crate) fn recv_with(
        &mut self,
        memory: &mut Memory,
        read: impl FnOnce(&[u8]) -> usize,
    ) -> (usize, bool) {
        let Phase::Open(connection) = &mut self.phase else {
            return (0, false);
        };
        let taken = connection.read(memory, read);
        self.wants_readable |= connection.unread() == 0;
        (taken, taken > 0 && connection.has_window_news(memory))
    }

    pub(crate) fn send_free(&self, buffer: u32) -> usize {
        match &self.phase {
            Phase::Open(connection) => connection.room(buffer),
            Phase::Held { .. } => 0,
        }
    }

    pub(crate) fn recv_ready(&self) -> usize {
        match &self.phase {
            Phase::Open(connection) if connection.is_connected() => connection.unread(),
            Phase::Open(_) | Phase::Held { .. } => 0,
        }
    }

    /// No more will be sent; the FIN goes out behind what was.
    pub(crate) fn finish(&mut self, now: Time) {
        match &mut self.phase {
            Phase::Open(connection) if !connection.has_finished() => {
                self.heard = now;
                connection.finish();
            }
            Phase::Open(_) => {}
            Phase::Held { finishing, .. } => *finishing = true,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
