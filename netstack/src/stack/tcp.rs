//! What the stack does with TCP flows: opening, refusing, moving bytes, ending. Packets of theirs come from `inbound.rs`.

use std::net::SocketAddr;
use std::time::Instant;

use kvpn_wire::packet::Ip;

use super::{BREATH, Netstack};
use crate::event::{Event, FlowId, Full, Refusal};
use crate::flows::{Kind, Protocol, Tuple};
use crate::outbox::Outbox;
use crate::tcp::{Arrival, Context, Departure, Fate, Numbers, Segment, TcpFlow, headers};

/// Where source ports are chosen from (RFC 6335 section 6: dynamic ports).
pub const EPHEMERAL: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// TCP.
impl Netstack {
    /// Answers the SYN of a flow that [`Event::TcpOpening`] told of; [`Event::TcpConnected`] follows.
    pub fn tcp_accept(&mut self, flow: FlowId, now: Instant) {
        self.set_now(now);
        let seed = self.seeds.draw();
        let Some(Parts {
            tcp,
            tuple,
            context,
            ..
        }) = self.parts(flow)
        else {
            return;
        };
        if tcp.accept(&tuple, seed, &context) {
            self.stir(flow);
            self.settle(flow);
        } else {
            self.end(flow, Some(Event::TcpReset { flow }));
        }
    }

    /// Refuses a flow whose SYN is held; a flow that was accepted is aborted. The flow is gone, without an event.
    pub fn tcp_refuse(&mut self, flow: FlowId, refusal: Refusal, now: Instant) {
        self.set_now(now);
        let Some(tcp) = self.flows.tcp(flow) else {
            return;
        };
        match tcp.syn() {
            Some(syn) => self.outbox.refuse(syn, refusal),
            None => return self.tcp_abort(flow, now),
        }
        self.end(flow, None);
    }

    /// Opens a flow; [`Event::TcpConnected`] or [`Event::TcpReset`] follows. Source port 0 means any.
    pub fn tcp_connect(
        &mut self,
        src: SocketAddr,
        dst: SocketAddr,
        now: Instant,
    ) -> Result<FlowId, Full> {
        self.set_now(now);
        let tuple = self.free_tuple(Kind::Tcp, src, dst)?;
        if self.flows.is_full() {
            return Err(Full::Flows);
        }
        self.lingering.forget(&tuple);
        let seed = self.seeds.draw();
        let tcp = TcpFlow::connecting(&tuple, seed, &self.context(tuple.own.is_ipv4()));
        let flow = self.insert_tcp(tuple, tcp, true)?;
        self.stir(flow);
        Ok(flow)
    }

    /// Queues bytes to send; returns how many were taken: fewer than given when the buffer is full, 0 before
    /// the flow is connected and after it was finished.
    pub fn tcp_send(&mut self, flow: FlowId, data: &[u8], now: Instant) -> usize {
        let mut sent = 0;
        while sent < data.len() {
            let rest = &data[sent..];
            let taken = self.tcp_send_with(flow, now, |free| {
                let len = free.len().min(rest.len());
                free[..len].copy_from_slice(&rest[..len]);
                len
            });
            if taken == 0 {
                break;
            }
            sent += taken;
        }
        sent
    }

    /// Lets `write` put bytes to send straight into the flow's buffer: it gets the free space that lies in one piece (none,
    /// when the buffer is full), and returns how much it used.
    pub fn tcp_send_with(
        &mut self,
        flow: FlowId,
        now: Instant,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        self.set_now(now);
        let Some(mut parts) = self.parts(flow) else {
            return 0;
        };
        let sent = parts.tcp.send_with(&mut parts.context, write);
        if sent > 0 {
            self.stir(flow);
        }
        sent
    }

    /// Takes received bytes; returns how many, 0 when none wait. Opens the window for more.
    pub fn tcp_recv(&mut self, flow: FlowId, buf: &mut [u8], now: Instant) -> usize {
        let mut received = 0;
        while received < buf.len() {
            let rest = &mut buf[received..];
            let taken = self.tcp_recv_with(flow, now, |ready| {
                let len = ready.len().min(rest.len());
                rest[..len].copy_from_slice(&ready[..len]);
                len
            });
            if taken == 0 {
                break;
            }
            received += taken;
        }
        received
    }

    /// Lets `read` take received bytes straight from the flow's buffer: it gets those that lie in one piece, and
    /// returns how many it took. Call it until `read` sees nothing, or takes less than it sees.
    pub fn tcp_recv_with(
        &mut self,
        flow: FlowId,
        now: Instant,
        read: impl FnOnce(&[u8]) -> usize,
    ) -> usize {
        self.set_now(now);
        let Some(tcp) = self.flows.tcp_mut(flow) else {
            return 0;
        };
        let (taken, news) = tcp.recv_with(&mut self.memory, read);
        if news {
            self.stir(flow);
        }
        if taken > 0 {
            self.settle(flow);
        }
        taken
    }

    /// Bytes that `tcp_send` would take now.
    pub fn tcp_send_queue_free(&self, flow: FlowId) -> usize {
        let buffer = self.buffer();
        self.flows.tcp(flow).map_or(0, |tcp| tcp.send_free(buffer))
    }

    /// Bytes that wait for `tcp_recv`.
    pub fn tcp_recv_ready(&self, flow: FlowId) -> usize {
        self.flows.tcp(flow).map_or(0, TcpFlow::recv_ready)
    }

    /// Sends FIN behind all that was queued; the other direction stays open.
    pub fn tcp_finish(&mut self, flow: FlowId, now: Instant) {
        self.set_now(now);
        let now = self.time;
        let Some(tcp) = self.flows.tcp_mut(flow) else {
            return;
        };
        tcp.finish(now);
        self.stir(flow);
        self.settle(flow);
    }

    /// Ends the flow with a RST; it is gone, without an event.
    pub fn tcp_abort(&mut self, flow: FlowId, now: Instant) {
        self.set_now(now);
        let Some(Parts {
            tcp, tuple, outbox, ..
        }) = self.parts(flow)
        else {
            return;
        };
        tcp.abort(&tuple, outbox);
        self.end(flow, None);
    }

    /// The tuple of a flow that is opened from here, with a port of its own.
    pub(super) fn free_tuple(
        &mut self,
        kind: Kind,
        own: SocketAddr,
        peer: SocketAddr,
    ) -> Result<Tuple, Full> {
        let [own, peer] = [own, peer].map(|end| SocketAddr::new(end.ip(), end.port()));
        let mut tuple = Tuple { kind, own, peer };
        if !tuple.is_addressable() {
            return Err(Full::Unaddressable);
        }
        if own.port() != 0 {
            return if self.flows.find(&tuple).is_none() {
                Ok(tuple)
            } else {
                Err(Full::Ports)
            };
        }
        let count = EPHEMERAL.end() - EPHEMERAL.start();
        let first = (self.seeds.draw() % u64::from(count)) as u16;
        for step in 0..=count {
            let offset = (u32::from(first) + u32::from(step)) % (u32::from(count) + 1);
            tuple.own.set_port(EPHEMERAL.start() + offset as u16);
            if self.flows.find(&tuple).is_none() && self.lingering.find(&tuple, self.now).is_none()
            {
                return Ok(tuple);
            }
        }
        Err(Full::Ports)
    }
}

/// One flow, and what of the stack it works with.
struct Parts<'a> {
    tcp: &'a mut TcpFlow,
    tuple: Tuple,
    context: Context<'a>,
    outbox: &'a mut Outbox,
}

/// Inside.
impl Netstack {
    /// Bytes that each buffer of a flow may hold.
    fn buffer(&self) -> u32 {
        self.config.tcp_buffer as u32
    }

    fn context(&mut self, v4: bool) -> Context<'_> {
        Context {
            now: self.time,
            mss: self.config.mtu as u32 - headers(v4),
            buffer: self.config.tcp_buffer as u32,
            memory: &mut self.memory,
        }
    }

    fn parts(&mut self, id: FlowId) -> Option<Parts<'_>> {
        let entry = self.flows.get_mut(id)?;
        let Protocol::Tcp(tcp) = &mut entry.protocol else {
            return None;
        };
        let context = Context {
            now: self.time,
            mss: self.config.mtu as u32 - headers(entry.tuple.own.is_ipv4()),
            buffer: self.config.tcp_buffer as u32,
            memory: &mut self.memory,
        };
        Some(Parts {
            tcp,
            tuple: entry.tuple,
            context,
            outbox: &mut self.outbox,
        })
    }

    /// A segment to a known flow.
    pub(super) fn segment_of(&mut self, id: FlowId, segment: &Segment, ip: &Ip<'_>) {
        let Some(mut parts) = self.parts(id) else {
            return;
        };
        let payload = &ip.payload()[ip.payload().len() - segment.len as usize..];
        match parts
            .tcp
            .take_in(ip.bytes(), segment, payload, &mut parts.context)
        {
            None => return self.end(id, Some(Event::TcpReset { flow: id })),
            Some(Arrival::Taken) => {}
            Some(Arrival::Stray) => parts.outbox.reset(ip.bytes()),
            Some(Arrival::NoMemory) => self.drops.memory_full += 1,
        }
        self.stir(id);
        self.settle(id);
    }

    /// A segment to no flow: a new one, an echo of a former one, or nonsense.
    pub(super) fn segment_of_none(&mut self, tuple: Tuple, segment: &Segment, packet: &[u8]) {
        if let Some(numbers) = self.lingering.find(&tuple, self.now)
            && !self.outlives(&tuple, numbers, segment)
        {
            return;
        }
        if segment.opens() {
            self.hold(tuple, segment, packet);
        } else if segment.rst {
            self.drops.unknown += 1;
        } else {
            self.outbox.reset(packet);
        }
    }

    /// A segment to a flow that ended a short while ago. True when it begins a new life of the tuple.
    fn outlives(&mut self, tuple: &Tuple, numbers: Numbers, segment: &Segment) -> bool {
        let outlives = segment.opens() && numbers.is_outlived_by(segment.seq);
        let says_something = segment.syn || segment.fin || segment.len > 0;
        if outlives || (segment.rst && numbers.is_expected(segment.seq)) {
            // The RST is the answer to our acknowledgement of a SYN whose sequence number was too old.
            self.lingering.forget(tuple);
        } else if says_something && !segment.rst {
            numbers.acknowledge(tuple, &mut self.outbox);
        }
        outlives
    }

    /// Keeps a SYN until the caller decides.
    fn hold(&mut self, tuple: Tuple, segment: &Segment, packet: &[u8]) {
        if self.flows.is_full() {
            self.drops.flows_full += 1;
            return;
        }
        if self.half_open > self.config.max_flows / 2 {
            self.drops.half_open_full += 1;
            return;
        }
        let tcp = TcpFlow::held(packet, *segment, self.time);
        let Ok(flow) = self.insert_tcp(tuple, tcp, false) else {
            return;
        };
        self.events.push_back(Event::TcpOpening {
            flow,
            src: tuple.peer,
            dst: tuple.own,
        });
        self.settle(flow);
    }

    fn insert_tcp(&mut self, tuple: Tuple, tcp: TcpFlow, announced: bool) -> Result<FlowId, Full> {
        let flow = self
            .flows
            .insert(tuple, Protocol::Tcp(Box::new(tcp)), announced)?;
        self.half_open += 1;
        Ok(flow)
    }

    /// The next thing that a flow sends; flows have turns. `most`: bytes of payload, but at least one segment's.
    pub(super) fn next_departure(&mut self, most: usize) -> Option<(FlowId, Departure)> {
        while let Some(id) = self.stirred.pop_front() {
            let Some(flow) = self.flows.get_mut(id) else {
                continue;
            };
            flow.stirred = false;
            let Some(mut parts) = self.parts(id) else {
                continue;
            };
            if let Some(departure) = parts.tcp.depart(most, &mut parts.context) {
                self.stir(id);
                return Some((id, departure));
            }
            self.settle(id);
        }
        self.memory.watch(self.time);
        None
    }

    /// Its deadline came.
    pub(super) fn wake_tcp(&mut self, id: FlowId) {
        let now = self.time;
        let Some(parts) = self.parts(id) else {
            return;
        };
        if !parts.tcp.handle_timeout(now) {
            parts.tcp.abort(&parts.tuple, parts.outbox);
            return self.end(id, Some(Event::TcpReset { flow: id }));
        }
        self.stir(id);
        self.settle(id);
    }

    /// Draws the consequences of whatever was done with a flow: events, its end, its next deadline.
    fn settle(&mut self, id: FlowId) {
        let buffer = self.buffer();
        let Some(entry) = self.flows.get_mut(id) else {
            return;
        };
        let Protocol::Tcp(tcp) = &mut entry.protocol else {
            return;
        };
        let was_opening = tcp.is_opening();
        let fate = tcp.settle(id, &mut self.events, buffer);
        self.half_open -= usize::from(was_opening && !tcp.is_opening());
        match fate {
            Fate::Lives => {
                if let Some(at) = tcp.wake_at(entry.stirred) {
                    let at = self.clock.instant(at);
                    let at = if at <= self.now {
                        self.now + BREATH
                    } else {
                        at
                    };
                    self.deadlines.wake_by(id, &mut entry.wake, at);
                }
            }
            Fate::Reset => self.end(id, Some(Event::TcpReset { flow: id })),
            Fate::Closed => self.complete(id, Event::TcpClosed { flow: id }),
            Fate::Lingers(numbers) => {
                self.lingering.insert(entry.tuple, numbers, self.now);
                self.complete(id, Event::TcpClosed { flow: id });
            }
        }
    }
}
