//! The stack itself: sorts packets to flows, keeps their deadlines, hands out events and packets. What the kinds of flow do is
//! in the files below; how a flow works inside is in `tcp.rs` and `datagram.rs`.

mod datagram;
mod inbound;
mod tcp;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::drops::Drops;
use crate::event::{Event, FlowCounts, FlowId};
use crate::flows::{Flow, Flows, Keyed, Protocol};
use crate::lingering::Lingering;
use crate::outbox::Outbox;
use crate::reassembly::Reassembly;
use crate::seeds::Seeds;

/// Bounds of [`Config::mtu`].
const MTU: std::ops::RangeInclusive<usize> = 1280..=65_535;
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
    reassembly: Reassembly,
    /// Where datagrams are built that have to be cut up.
    long: Vec<u8>,
    events: VecDeque<Event>,
    drops: Drops,
    /// The latest `now` that a caller gave: segments are made by calls that have none.
    now: Instant,
}

impl Netstack {
    /// An empty stack. All `now`s given later count from this one.
    pub fn new(mut config: Config, now: Instant) -> Self {
        config.mtu = config.mtu.clamp(*MTU.start(), *MTU.end());
        config.tcp_buffer = config
            .tcp_buffer
            .clamp(*TCP_BUFFER.start(), *TCP_BUFFER.end());
        let mut seeds = Seeds::new(config.seed);
        let keyed = Keyed(seeds.draw());
        Self {
            clock: Clock::new(now),
            flows: Flows::new(config.max_flows, keyed),
            half_open: 0,
            lingering: Lingering::new(keyed),
            deadlines: Deadlines::default(),
            stirred: VecDeque::new(),
            outbox: Outbox::new(config.mtu),
            reassembly: Reassembly::default(),
            long: Vec::new(),
            events: VecDeque::new(),
            drops: Drops::default(),
            now,
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

    /// Does what is due: retransmissions, probes, idle ends.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.set_now(now);
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
        Some((self.deadlines.next()?, "netstack flow"))
    }

    /// What happened, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Some(flow) = self.flows.get_mut(event.flow()) {
            flow.announced = true;
        }
        Some(event)
    }

    /// The next IP packet to send towards the peers. Segments are made here, with the latest `now` that any call gave.
    pub fn poll_packet(&mut self) -> Option<&[u8]> {
        if self.outbox.is_empty() {
            self.make_segments();
        }
        self.outbox.pop()
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
        self.now = self.now.max(now);
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
        if let Protocol::Tcp(tcp) = &flow.protocol {
            self.half_open -= usize::from(tcp.is_opening());
        }
        Some(flow)
    }
}
