//! One TCP flow: a SYN that is held until the caller decides, then a connection. It turns smoltcp's states into events, and
//! gives up on peers that are silent. It does not know other flows, nor who calls.

mod connection;
mod numbers;
mod scoreboard;
mod sender;
mod shown;
mod track;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

pub(crate) use connection::{Connection, Making};
pub(crate) use numbers::Numbers;
pub(crate) use track::Track;

use crate::event::{Event, FlowId};
use crate::flows::Tuple;
use crate::outbox::Outbox;

/// A SYN is held this long: as long as Linux repeats its own.
const HELD: Duration = Duration::from_secs(130);
/// A handshake may take this long once begun.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// Data or FIN may stay unacknowledged this long (RFC 9293 section 3.8.3: at least 100 s; Linux: about 15 min).
const UNACKNOWLEDGED: Duration = Duration::from_secs(15 * 60);
/// An idle peer may leave four questions of the keep-alive unanswered.
const IDLE: Duration = Duration::from_secs(135 * 60);
/// Segments with data that are taken in before one acknowledgement is made in any case; a batch that ends earlier is
/// acknowledged at its end.
const ACKNOWLEDGE_EVERY: u8 = 4;

/// The parts of a received segment that decide about flows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) syn: bool,
    pub(crate) ack: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    /// Bytes.
    pub(crate) payload: usize,
    pub(crate) acknowledgement: u32,
    /// The window field.
    pub(crate) window: u16,
    /// Of a SYN: by how much later window fields are scaled.
    pub(crate) window_scale: u8,
    /// Of a SYN: the most bytes a segment to the peer may carry.
    pub(crate) mss: u16,
    /// What arrived behind the acknowledged bytes: selective acknowledgements (RFC 2018).
    pub(crate) arrived: [Option<(u32, u32)>; 3],
}

impl Segment {
    /// A SYN that asks for a new flow.
    pub(crate) fn opens(&self) -> bool {
        self.syn && !self.ack && !self.rst && !self.fin
    }

    /// An acknowledgement and nothing else.
    pub(crate) fn is_bare(&self) -> bool {
        self.ack && self.payload == 0 && !self.syn && !self.fin && !self.rst
    }
}

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
    heard: Instant,
    told_connected: bool,
    told_finished: bool,
    wants_readable: bool,
    wants_writable: bool,
    /// The caller finished; the FIN waits for the handshake.
    finishing: bool,
    /// The peer acknowledged our FIN after its own.
    finished: bool,
    unacknowledged: u8,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "held SYNs are few and short-lived"
)]
enum Phase {
    Held { syn: Vec<u8>, segment: Segment },
    Open(Connection),
}

impl TcpFlow {
    pub(crate) fn held(syn: &[u8], segment: Segment, now: Instant) -> Self {
        Self::new(
            Phase::Held {
                syn: syn.to_vec(),
                segment,
            },
            now,
        )
    }

    pub(crate) fn open(connection: Connection, now: Instant) -> Self {
        Self::new(Phase::Open(connection), now)
    }

    fn new(phase: Phase, now: Instant) -> Self {
        Self {
            phase,
            heard: now,
            told_connected: false,
            told_finished: false,
            wants_readable: true,
            wants_writable: false,
            finishing: false,
            finished: false,
            unacknowledged: 0,
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
    pub(crate) fn accept(
        &mut self,
        tuple: &Tuple,
        making: Making,
        outbox: &mut Outbox,
        now: Instant,
    ) -> bool {
        let Phase::Held { syn, segment } = &self.phase else {
            return true;
        };
        let Some(mut connection) = Connection::listening(tuple, making, outbox, now) else {
            return false;
        };
        connection.take_in(syn, segment, outbox, now);
        let begun = connection.state() == State::SynReceived;
        self.phase = Phase::Open(connection);
        self.heard = now;
        begun
    }

    /// Takes a packet of this flow in. False when it says that the peer gave the held SYN up.
    pub(crate) fn take_in(
        &mut self,
        packet: &[u8],
        segment: Segment,
        tuple: &Tuple,
        outbox: &mut Outbox,
        now: Instant,
    ) -> bool {
        match &mut self.phase {
            Phase::Held { syn, segment: held } if segment.opens() => {
                *held = segment;
                packet.clone_into(syn);
                true
            }
            Phase::Held { segment: held, .. } => {
                !(segment.rst && segment.sequence.wrapping_sub(held.sequence) <= 1)
            }
            Phase::Open(connection) => {
                self.heard = now;
                let before = connection.state();
                if is_stray_syn(before, segment) {
                    connection.numbers().acknowledge(tuple, outbox);
                    return true;
                }
                // A RST then says only that the peer, which has everything, forgot the flow before its last word came through.
                let only_fin = before == State::LastAck && connection.socket().send_queue() == 0;
                connection.take_in(packet, &segment, outbox, now);
                let ends_well = only_fin || (before == State::LastAck && !segment.rst);
                self.finished |= ends_well && connection.state() == State::Closed;
                self.unacknowledged = self
                    .unacknowledged
                    .saturating_add(u8::from(segment.payload > 0));
                true
            }
        }
    }

    /// Whether so much came in that an acknowledgement must not wait for the end of the batch.
    pub(crate) fn owes_acknowledgement(&self) -> bool {
        self.unacknowledged >= ACKNOWLEDGE_EVERY
    }

    /// Makes at most `max` packets; true when there may be more to make.
    pub(crate) fn emit(&mut self, max: usize, outbox: &mut Outbox, now: Instant) -> bool {
        let Phase::Open(connection) = &mut self.phase else {
            return false;
        };
        self.unacknowledged = 0;
        connection.emit(max, outbox, now)
    }

    /// Ends it with a RST.
    pub(crate) fn abort(&mut self, outbox: &mut Outbox, now: Instant) {
        if let Phase::Open(connection) = &mut self.phase {
            connection.abort(outbox, now);
        }
    }

    /// Tells what changed since the last time, and what has become of the flow.
    pub(crate) fn settle(
        &mut self,
        flow: FlowId,
        events: &mut VecDeque<Event>,
        now: Instant,
    ) -> Fate {
        let Phase::Open(connection) = &mut self.phase else {
            return Fate::Lives;
        };
        let state = connection.state();
        let socket = connection.socket_mut();
        if self.finishing && matches!(state, State::Established | State::CloseWait) {
            self.finishing = false;
            socket.close();
        }
        if !self.told_connected && is_connected(state) {
            self.told_connected = true;
            events.push_back(Event::TcpConnected { flow });
        }
        if self.wants_readable && socket.can_recv() && is_connected(state) {
            self.wants_readable = false;
            events.push_back(Event::TcpReadable { flow });
        }
        if !self.told_finished && !socket.can_recv() && (self.finished || is_finished(state)) {
            self.told_finished = true;
            events.push_back(Event::TcpPeerFinished { flow });
        }
        let free = socket.send_capacity() - socket.send_queue();
        if self.wants_writable && socket.may_send() && free >= socket.send_capacity() / 4 {
            self.wants_writable = false;
            events.push_back(Event::TcpWritable { flow });
        }
        self.fate(now)
    }

    fn fate(&mut self, now: Instant) -> Fate {
        let Phase::Open(connection) = &mut self.phase else {
            return Fate::Lives;
        };
        let unread = connection.socket().can_recv();
        match connection.state() {
            State::Closed if self.finished && unread => Fate::Lives,
            State::Closed if self.finished => Fate::Closed,
            State::Closed | State::Listen => Fate::Reset,
            State::TimeWait if unread || connection.poll_at(now).is_some() => Fate::Lives,
            State::TimeWait => Fate::Lingers(connection.numbers()),
            State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => Fate::Lives,
        }
    }

    /// Whether the handshake is not over.
    pub(crate) fn is_opening(&self) -> bool {
        !self.told_connected
    }

    /// When the flow has to be looked at again; one that is `stirred` will be, as soon as there is room for its segments.
    pub(crate) fn wake_at(&mut self, now: Instant, stirred: bool) -> Option<Instant> {
        let give_up = self.give_up_at();
        let Phase::Open(connection) = &mut self.phase else {
            return give_up;
        };
        if stirred {
            return give_up;
        }
        match (connection.poll_at(now), give_up) {
            (Some(poll), Some(give_up)) => Some(poll.min(give_up)),
            (poll, give_up) => poll.or(give_up),
        }
    }

    /// Whether the peer was silent for longer than anybody waits.
    pub(crate) fn is_hopeless(&self, now: Instant) -> bool {
        self.give_up_at().is_some_and(|at| at <= now)
    }

    fn give_up_at(&self) -> Option<Instant> {
        let Phase::Open(connection) = &self.phase else {
            return Some(self.heard + HELD);
        };
        let unsent = connection.socket().send_queue() > 0;
        let patience = match connection.state() {
            State::Closed | State::TimeWait => return None,
            State::Listen | State::SynSent | State::SynReceived => HANDSHAKE,
            State::FinWait1 | State::Closing | State::LastAck => UNACKNOWLEDGED,
            State::Established | State::CloseWait if unsent => UNACKNOWLEDGED,
            State::Established | State::CloseWait | State::FinWait2 => IDLE,
        };
        Some(self.heard + patience)
    }
}

/// What the caller does with a flow's bytes.
impl TcpFlow {
    /// Lets `write` fill free space of the send buffer, in one piece; returns what it says it wrote.
    pub(crate) fn send_with(
        &mut self,
        now: Instant,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        let finishing = self.finishing;
        let Phase::Open(connection) = &mut self.phase else {
            self.wants_writable = true;
            return 0;
        };
        let socket = connection.socket_mut();
        if socket.send_queue() == 0 {
            self.heard = now;
        }
        let sent = match finishing {
            true => 0,
            false => socket
                .send(|free| capped(free.len(), write(free)))
                .unwrap_or(0),
        };
        self.wants_writable |= !socket.can_send();
        sent
    }

    /// Lets `read` take received bytes, as many as lie in one piece; returns what it says it took.
    pub(crate) fn recv_with(&mut self, read: impl FnOnce(&[u8]) -> usize) -> usize {
        let Phase::Open(connection) = &mut self.phase else {
            return 0;
        };
        let taken = connection.recv_with(read);
        self.wants_readable |= !connection.socket().can_recv();
        taken
    }

    pub(crate) fn send_free(&self) -> usize {
        match &self.phase {
            Phase::Open(connection) if connection.socket().may_send() && !self.finishing => {
                connection.socket().send_capacity() - connection.socket().send_queue()
            }
            Phase::Open(_) | Phase::Held { .. } => 0,
        }
    }

    pub(crate) fn recv_ready(&self) -> usize {
        match &self.phase {
            Phase::Open(connection) if is_connected(connection.state()) || self.finished => {
                connection.socket().recv_queue()
            }
            Phase::Open(_) | Phase::Held { .. } => 0,
        }
    }

    /// No more will be sent; the FIN goes out behind what was.
    pub(crate) fn finish(&mut self, now: Instant) {
        self.finishing |= !self.is_half_closed();
        self.heard = now;
    }

    fn is_half_closed(&self) -> bool {
        match &self.phase {
            Phase::Open(connection) => match connection.state() {
                State::FinWait1
                | State::FinWait2
                | State::Closing
                | State::LastAck
                | State::TimeWait
                | State::Closed => true,
                State::Listen
                | State::SynSent
                | State::SynReceived
                | State::Established
                | State::CloseWait => false,
            },
            Phase::Held { .. } => false,
        }
    }
}

/// smoltcp's closures say twice how much: to smoltcp and to us.
fn capped(len: usize, claimed: usize) -> (usize, usize) {
    let used = claimed.min(len);
    (used, used)
}

/// A SYN in the middle of a connection: the peer lost its state, or it is an old duplicate. smoltcp would be silent, and the peer would
/// not find out which (RFC 5961 section 4).
fn is_stray_syn(state: State, segment: Segment) -> bool {
    segment.opens() && is_connected(state)
}

/// The handshake is over.
fn is_connected(state: State) -> bool {
    match state {
        State::Closed | State::Listen | State::SynSent | State::SynReceived => false,
        State::Established
        | State::FinWait1
        | State::FinWait2
        | State::CloseWait
        | State::Closing
        | State::LastAck
        | State::TimeWait => true,
    }
}

/// The peer's FIN came, and everything before it.
fn is_finished(state: State) -> bool {
    match state {
        State::CloseWait | State::Closing | State::LastAck | State::TimeWait => true,
        State::Closed
        | State::Listen
        | State::SynSent
        | State::SynReceived
        | State::Established
        | State::FinWait1
        | State::FinWait2 => false,
    }
}
