//! The loop that owns one part of the gateway's state and that part's packet sockets. It moves bytes and decides nothing.
//!
//! mio is edge-triggered: whoever stops before a socket said "would block" remembers that it is still ready, and
//! the loop comes back to it without waiting (`unfinished`). Each turn of a socket is bounded, so that none starves the others.

mod api;
mod echo;
mod elsewhere;
mod fairness;
mod flows;
mod obey;
mod parts;
mod refusal;
mod steering;
mod tcp;
mod tun;
mod udp;
mod udp_flow;

pub(crate) use api::Handover;
pub(crate) use echo::ping_permitted;
pub(crate) use parts::{Opening, Parts};

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kvpn_gateway_core::{Config, Elsewhere, Event, GatewayState, Path};
use mio::event::Event as Readiness;
use mio::{Events, Poll, Token};

use crate::commands::Command;
use crate::http::ControlConnectionsTx;
use crate::neighbours::Neighbours;
use api::ApiCarrier;
use fairness::EMPTYING;
use flows::Flows;
use obey::Run;
use steering::Steering;
use tun::Tun;
use udp::UdpCarrier;

/// Fixed tokens; streams and flows count up from [`FIRST`], each in steps of two.
const UDP: Token = Token(0);
const LISTENER: Token = Token(1);
const TUN: Token = Token(2);
const WAKER: Token = Token(3);
/// The first stream's token; the first flow's is one more.
const FIRST: usize = 4;

/// Receptions of the `udp` carrier, each of several messages, before others have their turn.
const RECEPTIONS: usize = 4;
/// Messages of other drivers before others have their turn.
const MESSAGES: usize = 64;
/// Packets read from the TUN before others have their turn.
const TUN_READS: usize = 64;
/// Bytes read from the TUN before they are sent: what a processor's cache holds beside everything else.
const TUN_BYTES: usize = 64 << 10;

/// The driver.
pub(crate) struct Driver {
    poll: Poll,
    state: GatewayState,
    commands: Receiver<Command>,
    neighbours: Neighbours,
    /// What the others have, as the state knows it.
    elsewhere: Elsewhere,
    steering: Steering,
    /// Whether datagrams wait for their session's turn before they are opened.
    behind: bool,
    udp: UdpCarrier,
    api: ApiCarrier,
    tun: Option<Tun>,
    flows: Flows,
}

impl Driver {
    /// A driver of opened sockets.
    pub(crate) fn new(
        parts: Parts,
        config: Config,
        commands: Receiver<Command>,
        neighbours: Neighbours,
        control: ControlConnectionsTx,
    ) -> Self {
        let mut state = GatewayState::new(config, clock());
        if let Some(tun) = &parts.tun {
            state.set_abilities(tun.offload().abilities());
        }
        Self {
            poll: parts.poll,
            state,
            commands,
            neighbours,
            elsewhere: Elsewhere::default(),
            steering: parts.steering,
            behind: false,
            udp: parts.udp,
            api: parts.api,
            tun: parts.tun,
            flows: Flows::new(control),
        }
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// When the operating system's poll fails, which it does not.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            if let Err(error) = self.poll.poll(&mut events, self.patience()) {
                if error.kind() == std::io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error).context("waiting for the gateway's sockets");
            }
            let now = clock();
            for event in &events {
                self.note_readiness(event, now);
            }
            self.read_carriers(now);
            self.hear_neighbours(now);
            self.flows.continue_unfinished(&mut self.state, now);
            self.state.handle_timeout(now);
            if self.obey(now) == Run::Stop {
                return Ok(());
            }
            self.drain(now);
            self.open_waiting();
            self.judge_turn(now);
            self.neighbours.tell_flows(self.state.sessions_with_flows());
        }
    }

    /// How long nothing needs to be done.
    fn patience(&self) -> Option<Duration> {
        let unfinished = self.udp.is_readable()
            || self.api.is_unfinished()
            || self.neighbours.is_unfinished()
            || self.state.has_waiting()
            || self.flows.is_unfinished()
            || (self.tun.as_ref().is_some_and(Tun::is_readable) && !self.udp.is_blocked());
        if unfinished {
            return Some(Duration::ZERO);
        }
        let (at, _) = self.state.poll_timeout()?;
        // mio rounds up to milliseconds on its way into epoll: that is late enough for flows that are paced.
        Some(at.saturating_duration_since(clock()))
    }

    fn note_readiness(&mut self, event: &Readiness, now: Instant) {
        match event.token() {
            UDP => self.udp.note_readiness(event),
            LISTENER => self.api.accept(self.poll.registry()),
            TUN => self.tun.iter_mut().for_each(Tun::note_readable),
            WAKER => {}
            Token(token) if token % 2 == FIRST % 2 => {
                self.api.note_readiness(token, event, &mut self.state)
            }
            Token(token) => self
                .flows
                .handle_readiness(token, event, &mut self.state, now),
        }
    }

    /// Takes packets in, from one socket at a time: what one turn brings, the core's queues hold.
    fn read_carriers(&mut self, now: Instant) {
        self.receive_udp(now);
        for _ in 0..self.api.readable() {
            let shard = self.neighbours.shard();
            let strayed = self
                .api
                .receive_next(shard, self.behind, &mut self.state, now);
            if let Some((part, stream)) = strayed {
                self.hand_stream_over(part, stream, None);
            }
            self.write_tun();
        }
        self.api.retry_accepting(self.poll.registry());
        self.receive_tun(now);
    }

    fn receive_udp(&mut self, now: Instant) {
        let behind = self.behind;
        let receptions = if behind { EMPTYING } else { RECEPTIONS };
        for _ in 0..receptions {
            let Self {
                state,
                udp,
                neighbours,
                ..
            } = self;
            if !udp.receive(|from, bytes, stride| {
                neighbours.sort(from, bytes, stride, |bytes| {
                    let path = Path::Udp(from);
                    fairness::take_in(behind, state, path, bytes, stride, now);
                });
            }) {
                return;
            }
            self.write_tun();
        }
    }

    /// What the TUN has goes out in shares, before the next is read. While the socket takes nothing, packets wait in the TUN,
    /// where the kernel manages the queue.
    fn receive_tun(&mut self, now: Instant) {
        let mut unsent = 0;
        for _ in 0..TUN_READS {
            let Self {
                state, tun, udp, ..
            } = self;
            let Some(tun) = tun.as_mut().filter(|_| !udp.is_blocked()) else {
                return;
            };
            let Some(length) = tun
                .receive(|packet, segmentation| state.handle_tun_packet(packet, segmentation, now))
            else {
                return;
            };
            unsent += length;
            if unsent >= TUN_BYTES {
                unsent = 0;
                self.transmit(now);
            }
        }
    }

    /// Passes on what the core has for the kernel; whether it had anything.
    fn write_tun(&mut self) -> bool {
        let mut any = false;
        while let Some((packet, segmentation)) = self.state.poll_packet() {
            any = true;
            if let Some(tun) = &self.tun {
                tun.send(packet, segmentation);
            }
        }
        any
    }

    /// Carries out what the state decided, until it has nothing more.
    fn drain(&mut self, now: Instant) {
        loop {
            let mut idle = true;
            while let Some(event) = self.state.poll_event() {
                idle = false;
                self.handle_event(event, now);
            }
            idle &= !self.write_tun();
            if !self.transmit(now) && idle {
                return;
            }
        }
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Flow { flow, what } => {
                self.flows
                    .handle(flow, what, self.poll.registry(), &mut self.state, now)
            }
            Event::SessionEnded { session, key } => {
                self.flows.end_session(session);
                self.note_session(&key);
            }
        }
    }

    /// Sends what is to be sent, as far as the carriers take it; whether anything was.
    fn transmit(&mut self, now: Instant) -> bool {
        let mut sent = false;
        while !self.udp.is_blocked()
            && let Some(transmit) = self.state.poll_transmit(now)
        {
            sent = true;
            match transmit.path {
                Path::Udp(to) => self.udp.send(to, transmit.payload, transmit.segment),
                Path::Api(stream) => {
                    for datagram in transmit.datagrams() {
                        self.api.send(stream, datagram, now);
                    }
                }
            }
        }
        self.udp.watch(self.poll.registry());
        self.api.flush(&mut self.state);
        sent
    }
}

/// The clock that everything goes by.
#[expect(
    clippy::disallowed_methods,
    reason = "the driver is where the clock is read"
)]
fn clock() -> Instant {
    Instant::now()
}
