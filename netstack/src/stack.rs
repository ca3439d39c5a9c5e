//! The stack itself: sorts packets to flows, keeps their deadlines, hands out events and packets. What the kinds of flow do is
//! in the files below; how a flow works inside is in `tcp.rs` and `datagram.rs`.

mod datagram;
mod inbound;
mod tcp;

pub use tcp::EPHEMERAL;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kvpn_wire::offload::Segmentation;

use crate::clock::{Clock, Time};
use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::drops::Drops;
use crate::emitted::Emitted;
use crate::event::{Event, FlowCounts, FlowId};
use crate::flows::{Flow, Flows, Keyed, Protocol};
use crate::lingering::Lingering;
use crate::memory::Memory;
use crate::outbox::Outbox;
use crate::reassembly::Reassembly;
use crate::seeds::Seeds;
use crate::tcp::MAX_HEADER;

/// Bounds of [`Config::mtu`].
const MTU: std::ops::RangeInclusive<usize> = kvpn_wire::pmtud::MIN..=65_535;
/// Bounds of [`Config::tcp_buffer`].
const TCP_BUFFER: std::ops::RangeInclusive<usize> = 4096..=512 << 20;
/// Longest that an idle echo flow stays.
const ECHO_IDLE: Duration = Duration::from_secs(30);
/// A flow that wants to be woken at once and could not act is looked at again after this.
const BREATH: Duration = Duration::from_millis(1);

/// Flows terminated in userspace. The [crate]'s documentation has the loop around it.
#[derive(Debug)]
pub struct Netstack {
    config: Config,
    clock: Clock,
    seeds: Seeds,
    flows: Flows,
    /// TCP flows whose SYN is held or whose handshake runs.
    half_open: usize,
    lingering: Lingering,
    deadlines: Deadlines,
    /// Flows that may have segments to make, in turn.
    stirred: VecDeque<FlowId>,
    outbox: Outbox,
    memory: Memory,
    /// The headers of what was handed out last.
    header: [u8; MAX_HEADER],
    reassembly: Reassembly,
    /// Where datagrams are built that have to be cut up, and segments that are handed out as packets.
    long: Vec<u8>,
    /// The packet at hand needs no checksums.
    authentic: bool,
    events: VecDeque<Event>,
    drops: Drops,
    /// The latest `now` that a caller gave: segments are made by calls that have none.
    now: Instant,
    time: Time,
}

impl Netstack {
    /// An empty stack. All `now`s given later count from this one.
    pub fn new(mut config: Config, now: Instant) -> Self {
        config.mtu = config.mtu.clamp(*MTU.start(), *MTU.end());
        config.tcp_buffer = config
            .tcp_buffer
            .clamp(*TCP_BUFFER.start(), *TCP_BUFFER.end());
        let mut seeds = Seeds::new(config.seed);
        let keyed = Keyed::new(seeds.draw());
        Self {
            clock: Clock::new(now),
            flows: Flows::new(config.max_flows, keyed.clone()),
            half_open: 0,
            lingering: Lingering::new(keyed),
            deadlines: Deadlines::default(),
            stirred: VecDeque::new(),
            outbox: Outbox::new(config.mtu),
            memory: Memory::new(config.memory),
            header: [0; MAX_HEADER],
            reassembly: Reassembly::default(),
            long: Vec::new(),
            authentic: false,
            events: VecDeque::new(),
            drops: Drops::default(),
            now,
            time: Time::default(),
            seeds,
            config,
        }
    }

    /// Takes an IP packet in. What is wrong with it is counted, never returned.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.set_now(now);
        self.sort(packet);
        self.drops.output_full = self.outbox.refused();
    }

    /// Takes a TCP super-packet in as one long segment. Its checksums mean nothing: whoever hands it in has authenticated it.
    pub fn handle_super_packet(&mut self, packet: &[u8], now: Instant) {
        self.authentic = true;
        self.handle_packet(packet, now);
        self.authentic = false;
    }

    /// Does what is due: retransmissions, probes, idle ends.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.set_now(now);
        self.memory.trim(self.time);
        while let Some(id) = self.deadlines.pop(self.now) {
            let Some(flow) = self.flows.get_mut(id) else {
                continue;
            };
            flow.wake = None;
            match flow.protocol {
                Protocol::Tcp(_) => self.wake_tcp(id),
                Protocol::Udp(_) | Protocol::Echo(_) => self.wake_datagram(id),
            }
        }
        self.drops.output_full = self.outbox.refused();
    }

    /// When [`Netstack::handle_timeout`] is to be called next, and what for. May be earlier than there is something to do.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let flow = self.deadlines.next().map(|at| (at, "netstack flow"));
        let trim = self.memory.trim_at();
        let trim = trim.map(|at| (self.clock.instant(at), "netstack memory"));
        flow.into_iter().chain(trim).min()
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Some(flow) = self.flows.get_mut(event.flow()) {
            flow.announced = true;
        }
        Some(event)
    }

    /// The next packet, or super-packet with at most `most` bytes of payload (but at least one segment, and up to 65,535 bytes in all), to send towards the peers. Segments are made here, with the latest `now` that
    /// any call gave; what is not asked for stays in the flows' buffers.
    pub fn poll_packet(&mut self, most: usize) -> Option<Emitted<'_>> {
        if !self.outbox.is_empty() {
            return self.outbox.pop().map(Emitted::whole);
        }
        let (id, departure) = self.next_departure(most)?;
        let flow = self.flows.get(id)?;
        let len = departure.write(&flow.tuple, &mut self.header);
        let header = &self.header[..len];
        let (Protocol::Tcp(tcp), true) = (&flow.protocol, departure.payload_len() > 0) else {
            return Some(Emitted::whole(header));
        };
        Some(Emitted {
            header,
            payload: tcp.payload(&departure),
            segmentation: Segmentation::Tcp {
                size: departure.size(),
            },
        })
    }

    /// Like [`Netstack::poll_packet`], but one ordinary packet at a time, complete and in one piece: for those who send little.
    pub fn poll_segment(&mut self) -> Option<&[u8]> {
        if !self.outbox.is_empty() {
            return self.outbox.pop();
        }
        let (id, departure) = self.next_departure(0)?;
        let flow = self.flows.get(id)?;
        let Protocol::Tcp(tcp) = &flow.protocol else {
            return None;
        };
        let payload = tcp.payload(&departure);
        let len = departure.write_whole(&flow.tuple, payload, &mut self.long);
        Some(&self.long[..len])
    }

    /// [`Config::memory`] as it is now.
    pub fn memory(&self) -> usize {
        self.memory.budget()
    }

    /// Changes [`Config::memory`]; what the buffers hold already stays until it is read or acknowledged.
    pub fn set_memory(&mut self, bytes: usize) {
        self.memory.set_budget(bytes);
    }

    /// Bytes in the buffers of all TCP flows, and kept for them.
    pub fn memory_used(&self) -> usize {
        self.memory.used()
    }

    /// Later packets are at most so long: bounds as of [`Config::mtu`].
    pub fn set_mtu(&mut self, mtu: usize) {
        self.config.mtu = mtu.clamp(*MTU.start(), *MTU.end());
        self.outbox.set_mtu(self.config.mtu);
    }

    /// How many flows there are.
    pub fn flows(&self) -> FlowCounts {
        self.flows.counts()
    }

    /// What was dropped since the start.
    pub fn dropped(&self) -> &Drops {
        &self.drops
    }

    /// `now` never goes back.
    fn set_now(&mut self, now: Instant) {
        if now > self.now {
            self.now = now;
            self.time = self.clock.time(now);
        }
    }

    /// Puts a flow into the queue of those that may have segments to make.
    fn stir(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(id)
            && !flow.stirred
        {
            flow.stirred = true;
            self.stirred.push_back(id);
        }
    }

    /// Ends a flow that came to its natural end; what was told of it before still counts.
    fn complete(&mut self, id: FlowId, last: Event) {
        if self.forget(id).is_some() {
            self.events.push_back(last);
        }
    }

    /// Ends a flow before its time: nothing else is told of it, but the last event, if the caller knows of it.
    fn end(&mut self, id: FlowId, last: Option<Event>) {
        let Some(flow) = self.forget(id) else {
            return;
        };
        self.events.retain(|event| event.flow() != id);
        if flow.announced {
            self.events.extend(last);
        }
    }

    fn forget(&mut self, id: FlowId) -> Option<Flow> {
        let mut flow = self.flows.remove(id)?;
        self.deadlines.cancel(id, &mut flow.wake);
        if let Protocol::Tcp(tcp) = &mut flow.protocol {
            self.half_open -= usize::from(tcp.is_opening());
            tcp.release(&mut self.memory);
        }
        if self.flows.counts().tcp == 0 {
            self.memory.forget_spare();
        }
        Some(flow)
    }
}
