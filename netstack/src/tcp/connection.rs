//! One TCP connection in smoltcp: an interface that has one address and one socket. The only file that drives smoltcp; what kvpn
//! must know and smoltcp does not tell is kept in [`TcpFlow`](super::TcpFlow).

use std::time::Instant;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::{Duration as StackDuration, Instant as StackInstant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use super::numbers::is_after;
use super::track::Track;
use super::{Numbers, Segment, is_connected, is_finished, shown};
use crate::clock::Clock;
use crate::flows::Tuple;
use crate::link::Link;
use crate::outbox::Outbox;

/// Silence after which the peer is asked whether it is still there.
const KEEP_ALIVE: StackDuration = StackDuration::from_secs(30 * 60);

/// smoltcp's retransmission timer runs for at most 60 s.
const LONGEST_TIMER: StackDuration = StackDuration::from_secs(61);

/// What a connection is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Making {
    pub(crate) clock: Clock,
    /// Bytes each way.
    pub(crate) buffer: usize,
    /// Where its initial sequence number comes from.
    pub(crate) seed: u64,
}

/// One smoltcp interface and socket.
pub(crate) struct Connection {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    clock: Clock,
    tuple: Tuple,
    track: Track,
    /// The sequence number of the peer's first byte.
    peer_start: u32,
    /// Bytes that were read, modulo 2^32.
    read: u32,
    /// The window field that smoltcp was shown last.
    shown: u16,
    /// What time smoltcp was told when it was rewound last: its timer runs from there.
    rewound_at: Option<StackInstant>,
    /// When TIME-WAIT began. For smoltcp time stands still from there on: it would end TIME-WAIT by forgetting what
    /// was not read yet.
    stopped: Option<StackInstant>,
}

impl Connection {
    /// Waits for the SYN, which has to be taken in next.
    pub(crate) fn listening(
        tuple: &Tuple,
        making: Making,
        outbox: &mut Outbox,
        now: Instant,
    ) -> Option<Self> {
        let mut connection = Self::new(tuple, making, outbox, now);
        connection
            .socket_mut()
            .listen(IpEndpoint::from(tuple.own))
            .ok()?;
        Some(connection)
    }

    /// Sends a SYN at the next occasion.
    pub(crate) fn connecting(
        tuple: &Tuple,
        making: Making,
        outbox: &mut Outbox,
        now: Instant,
    ) -> Option<Self> {
        let mut connection = Self::new(tuple, making, outbox, now);
        let (own, peer) = (IpEndpoint::from(tuple.own), IpEndpoint::from(tuple.peer));
        let socket = connection.sockets.get_mut::<Socket<'_>>(connection.handle);
        socket
            .connect(connection.interface.context(), peer, own)
            .ok()?;
        Some(connection)
    }

    /// Both addresses of `tuple` must be unicast: smoltcp panics otherwise.
    fn new(tuple: &Tuple, making: Making, outbox: &mut Outbox, now: Instant) -> Self {
        let Making {
            clock,
            buffer,
            seed,
        } = making;
        let mut track = Track::new(*tuple);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut link = Link {
            inbound: None,
            outbox,
            track: &mut track,
            now: clock.to_stack(now),
            urgent: false,
        };
        let mut interface = Interface::new(config, &mut link, clock.to_stack(now));
        interface.update_ip_addrs(|addresses| {
            let bits = if tuple.own.is_ipv4() { 32 } else { 128 };
            let address = IpCidr::new(IpAddress::from(tuple.own.ip()), bits);
            addresses
                .push(address)
                .expect("smoltcp has room for one address");
        });
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket(buffer));
        Self {
            interface,
            sockets,
            handle,
            clock,
            tuple: *tuple,
            track,
            peer_start: 0,
            read: 0,
            shown: 0,
            rewound_at: None,
            stopped: None,
        }
    }

    /// Takes a packet in. An answer that must not wait goes to the outbox.
    pub(crate) fn take_in(
        &mut self,
        packet: &[u8],
        segment: &Segment,
        outbox: &mut Outbox,
        now: Instant,
    ) {
        let now = self.time(now);
        if segment.syn && matches!(self.state(), State::Listen | State::SynSent) {
            self.take_note_of_syn(segment, outbox.mtu());
        } else if self.track.numbers.exceeds_opening(segment) {
            return;
        }
        // smoltcp takes three of these for a loss, resends nothing because no data is left, and forgets its timer: the FIN would
        // never be repeated. Without them the timer does it.
        if segment.is_bare() && self.lacks_only_fin(segment.acknowledgement) {
            self.track.numbers.heard(segment);
            return;
        }
        if self.is_credible(segment) {
            let (old, shown) = (self.is_old(segment), self.shown);
            self.show_acknowledgement(packet, segment, outbox, now);
            if old {
                self.shown = shown;
                // smoltcp does not look at what else it says (RFC 9293 section 3.10.7.4 lets it), and the peer may not say it again.
                self.show_window(outbox, now);
            }
        } else {
            self.show(packet, outbox, now);
        }
        if self.state() == State::TimeWait {
            self.stopped.get_or_insert(now);
        }
    }

    /// Whether the acknowledgement in a segment counts. In the handshake there is only one that is right.
    fn is_credible(&self, segment: &Segment) -> bool {
        let right = segment.acknowledgement == self.track.numbers.next();
        segment.ack && !segment.rst && (right || is_connected(self.state()))
    }

    /// Whether a segment repeats what was received before.
    fn is_old(&self, segment: &Segment) -> bool {
        let expected = self.expected();
        let end = segment
            .sequence
            .wrapping_add(segment.payload as u32)
            .wrapping_add(u32::from(segment.fin));
        is_connected(self.state())
            && is_after(expected, segment.sequence)
            && !is_after(end, expected)
    }

    fn take_note_of_syn(&mut self, segment: &Segment, mtu: usize) {
        let headers = if self.tuple.own.is_ipv4() { 40 } else { 60 };
        let mss = u32::from(segment.mss).min((mtu - headers) as u32);
        let most = self.socket().send_capacity() as u32;
        self.track.sender.set_limits(mss, most);
        self.track.numbers.heard_syn(segment);
        self.peer_start = segment.sequence.wrapping_add(1);
    }

    /// Shows smoltcp a packet, with a smaller window where congestion asks for it.
    fn show_acknowledgement(
        &mut self,
        packet: &[u8],
        segment: &Segment,
        outbox: &mut Outbox,
        now: StackInstant,
    ) {
        let field = self.track.acknowledged(segment, now);
        let field = self.told_apart(field, segment.is_bare());
        self.shown = field;
        if field == segment.window {
            return self.show(packet, outbox, now);
        }
        let mut copy = std::mem::take(&mut outbox.scratch);
        packet.clone_into(&mut copy);
        shown::set_window(&mut copy, field);
        self.show(&copy, outbox, now);
        outbox.scratch = copy;
    }

    /// Shows smoltcp the window that it may use now, with an acknowledgement of nothing new.
    fn show_window(&mut self, outbox: &mut Outbox, now: StackInstant) {
        let Some(acknowledgement) = self.track.sender.first() else {
            return;
        };
        if self.lacks_only_fin(acknowledgement) {
            return;
        }
        let (sequence, field) = (
            self.expected(),
            self.told_apart(self.track.allowed_field(), true),
        );
        self.shown = field;
        let mut bare = std::mem::take(&mut outbox.scratch);
        shown::acknowledgement(&self.tuple, sequence, acknowledgement, field, &mut bare);
        self.show(&bare, outbox, now);
        outbox.scratch = bare;
    }

    /// Whether this acknowledges all data and not the FIN behind it.
    fn lacks_only_fin(&self, acknowledgement: u32) -> bool {
        self.socket().send_queue() == 0 && self.track.numbers.fin() == Some(acknowledgement)
    }

    /// smoltcp counts bare acknowledgements with the same window as duplicates. They are counted here already.
    fn told_apart(&self, field: u16, bare: bool) -> u16 {
        let same = bare && field == self.shown && field > 1;
        field - u16::from(same)
    }

    fn show(&mut self, packet: &[u8], outbox: &mut Outbox, now: StackInstant) {
        let track = &mut self.track;
        let mut link = Link {
            inbound: Some(packet),
            outbox,
            track,
            now,
            urgent: false,
        };
        self.interface
            .poll_ingress_single(now, &mut link, &mut self.sockets);
    }

    /// RCV.NXT.
    fn expected(&self) -> u32 {
        let fin = u32::from(is_finished(self.state()));
        let received = self.read.wrapping_add(self.socket().recv_queue() as u32);
        self.peer_start.wrapping_add(received).wrapping_add(fin)
    }

    /// Makes at most `max` packets, as long as the outbox has room. True when there may be more to make.
    pub(crate) fn emit(&mut self, max: usize, outbox: &mut Outbox, now: Instant) -> bool {
        let now = self.time(now);
        self.track.sender.probe(self.track.numbers.next(), now);
        if self.track.sender.take_rewinding() {
            self.rewind(outbox, now);
        }
        for _ in 0..max {
            if self.make_one(now, false, outbox, now) == PollResult::None {
                return !outbox.has_room();
            }
            if std::mem::take(&mut self.track.timed_out) {
                self.show_window(outbox, now);
            }
        }
        true
    }

    /// Makes smoltcp begin again with the first byte that is missing: its retransmission timer is made to run out.
    fn rewind(&mut self, outbox: &mut Outbox, now: StackInstant) {
        if !is_connected(self.state()) {
            return;
        }
        self.show_window(outbox, now);
        self.track.rewinding = true;
        let late = self.rewound_at.map_or(now, |at| at.max(now)) + LONGEST_TIMER;
        self.rewound_at = Some(late);
        self.make_one(late, false, outbox, now);
        self.track.rewinding = false;
    }

    /// Ends it with a RST, at once.
    pub(crate) fn abort(&mut self, outbox: &mut Outbox, now: Instant) {
        self.socket_mut().abort();
        let now = self.time(now);
        self.make_one(now, true, outbox, now);
    }

    /// Lets smoltcp make a packet; it is told that it is `told` o'clock.
    fn make_one(
        &mut self,
        told: StackInstant,
        urgent: bool,
        outbox: &mut Outbox,
        now: StackInstant,
    ) -> PollResult {
        let track = &mut self.track;
        let mut link = Link {
            inbound: None,
            outbox,
            track,
            now,
            urgent,
        };
        self.interface
            .poll_egress(told, &mut link, &mut self.sockets)
    }

    /// When smoltcp wants to make a packet; an instant that has passed means now.
    pub(crate) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let at = self.interface.poll_at(self.time(now), &self.sockets);
        let at = at.into_iter().chain(self.track.sender.probe_at()).min()?;
        match self.stopped {
            Some(stopped) if at > stopped => None,
            Some(_) | None => Some(self.clock.to_caller(at)),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.socket().state()
    }

    pub(crate) fn numbers(&self) -> Numbers {
        self.track.numbers
    }

    /// Lets `read` take received bytes, as many as lie in one piece.
    pub(crate) fn recv_with(&mut self, read: impl FnOnce(&[u8]) -> usize) -> usize {
        let taken = self.socket_mut().recv(|ready| {
            let taken = read(ready).min(ready.len());
            (taken, taken)
        });
        let taken = taken.unwrap_or(0);
        self.read = self.read.wrapping_add(taken as u32);
        taken
    }

    pub(crate) fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(crate) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn time(&self, now: Instant) -> StackInstant {
        self.stopped.unwrap_or_else(|| self.clock.to_stack(now))
    }
}

/// Zeroed buffers of this size come from the operating system untouched: they cost memory as they fill.
fn socket(buffer: usize) -> Socket<'static> {
    let buffers = || SocketBuffer::new(vec![0; buffer]);
    let mut socket = Socket::new(buffers(), buffers());
    socket.set_nagle_enabled(false);
    // The stack makes packets once a batch, so acknowledgements are gathered without a delay.
    socket.set_ack_delay(None);
    // `sender.rs` does it.
    socket.set_congestion_control(CongestionControl::None);
    socket.set_keep_alive(Some(KEEP_ALIVE));
    socket
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let socket = self.socket();
        f.debug_struct("Connection")
            .field("state", &socket.state())
            .field("send_queue", &socket.send_queue())
            .field("recv_queue", &socket.recv_queue())
            .finish_non_exhaustive()
    }
}
