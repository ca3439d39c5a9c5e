//! The one loop that owns the session's [`ClientState`] and its sockets: ready IO goes in, what the state wants
//! comes out. Everything about packets happens here, everything else elsewhere.
//!
//! Must not decide anything, nor wait for anything but its sockets, its timer and its commands.

mod api;
mod flows;
mod handle;
mod message;
#[cfg_attr(windows, path = "driver/tun/windows.rs")]
mod tun;
mod udp;
#[cfg_attr(windows, path = "driver/watch/windows.rs")]
mod watch;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use kvpn_client_core::{ClientState, Event, Path, Resolution};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant as Timer, Sleep, sleep_until};

use crate::agent::driver::api::ApiCarrier;
use crate::agent::driver::flows::Flows;
use crate::agent::driver::tun::TunDevice;
use crate::agent::now;

pub(crate) use handle::{Figures, Handle, Reading, fill};
pub(crate) use message::{
    Command, HostRoutes, News, Occurrence, Outlets, Question, Replacement, outlets,
};
pub(crate) use udp::UdpCarrier;

/// Rounds of the loop before other tasks get their turn.
const ROUNDS: usize = 32;
/// Reads of the TUN before the other sources get their turn.
const TUN_READS: usize = 64;
/// Bytes read from the TUN before they are sent: what a processor's cache holds beside everything else.
const TUN_BYTES: usize = 64 << 10;
/// Receptions, each of several messages, before the other sources get their turn.
const RECEPTIONS: usize = 4;
/// The loop's possessions.
pub(crate) struct Driver {
    state: ClientState,
    tun: Option<TunDevice>,
    udp: UdpCarrier,
    api: Option<ApiCarrier>,
    flows: Flows,
    /// Names that were asked for: every one is answered.
    resolving: BTreeMap<u64, oneshot::Sender<Resolution>>,
    command_rx: mpsc::Receiver<Command>,
    outlets: Outlets,
    timer: Pin<Box<Sleep>>,
    /// Datagrams that found no carrier, or a full one.
    unsent: u64,
}

impl Driver {
    /// A driver without TUN and `api` carrier: both come by [`Command`].
    pub(crate) fn new(state: ClientState, udp: UdpCarrier, outlets: Outlets) -> (Self, Handle) {
        let (command_tx, command_rx) = mpsc::channel(message::QUEUE);
        let timer = Box::pin(sleep_until(Timer::now()));
        let driver = Self {
            state,
            tun: None,
            udp,
            api: None,
            flows: Flows::new(),
            resolving: BTreeMap::new(),
            command_rx,
            outlets,
            timer,
            unsent: 0,
        };
        (driver, Handle::new(command_tx))
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        tracing::debug!(unsent = self.unsent, "the driver ends");
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            let Some(commanded) = self.take_commands(cx) else {
                return Poll::Ready(());
            };
            let held_back = self.is_congested();
            let received = self.receive(cx);
            let timed = self.fire_timer();
            self.drain(cx);
            let released = held_back && !self.is_congested();
            if !(commanded || received || timed || released || self.timer_is_due(cx)) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what was commanded; `None` when that was all.
    fn take_commands(&mut self, cx: &mut Context<'_>) -> Option<bool> {
        let mut any = false;
        while let Poll::Ready(command) = self.command_rx.poll_recv(cx) {
            match command {
                Some(Command::Stop) | None => return None,
                Some(command) => self.command(command),
            }
            any = true;
        }
        Some(any)
    }

    fn command(&mut self, command: Command) {
        let now = now();
        match command {
            Command::Tun(handle, offload) => {
                self.tun = TunDevice::new(handle, offload);
                self.state.set_abilities(offload.abilities());
            }
            Command::Api(stream) => {
                let control = self.state.stream_control();
                self.api = Some(ApiCarrier::new(stream, control, now));
                self.state.path_opened(Path::Api, now);
            }
            Command::Names(names) => self.state.set_names(names, now),
            Command::UdpCandidates(candidates) => self.state.set_udp_candidates(&candidates, now),
            Command::Ranges(ranges, netmap) => self.state.set_ranges(ranges, netmap),
            Command::NetworkChanged => self.state.network_changed(now),
            Command::Replace(new) => {
                self.state
                    .replace_session(new.private_key, new.grant, new.index, now)
            }
            Command::HostRoutes { ticket, ok } => self.state.host_routes_ready(ticket, ok, now),
            Command::Answered { id, answer } => self.state.upstream_answered(id, answer, now),
            Command::Dial(to, dialled_tx) => self.flows.dial(to, dialled_tx, &mut self.state, now),
            Command::DialUdp(to, dialled_tx) => {
                let dialled = self.flows.dial_udp(to, &mut self.state, now);
                drop(dialled_tx.send(dialled));
            }
            Command::Resolve(name, query_type, resolved_tx) => {
                let id = self.state.resolve(&name, query_type, now);
                self.resolving.insert(id, resolved_tx);
            }
            Command::Expose(ports) => self.state.set_exposed(ports),
            Command::Status(answer_tx) => drop(answer_tx.send(self.read(now))),
            Command::Stop => {}
        }
    }

    fn read(&self, now: Instant) -> Reading {
        let mut status = self.state.status(now);
        let refused = self.flows.refused();
        if refused > 0 {
            status.drops.insert("laptop_flows_full", refused);
        }
        Reading {
            status,
            laptop_flows: self.flows.of_gateway(),
            tun: self.tun.as_ref().map(TunDevice::offload),
            udp: self.udp.offload(),
        }
    }

    /// Hands in what arrived, a bounded share from each source; whether there was anything.
    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = self.receive_udp(cx);
        any |= self.receive_api(cx);
        any |= self.receive_tun(cx);
        any |= self.flows.poll(cx, &mut self.state, now());
        any
    }

    fn receive_udp(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        for _ in 0..RECEPTIONS {
            let now = now();
            let Self { state, udp, .. } = self;
            if !udp.receive(cx, |from, bytes, stride| {
                state.handle_datagrams(Path::Udp(from), bytes, stride, now)
            }) {
                break;
            }
            any = true;
            self.write_tun();
        }
        any
    }

    fn receive_api(&mut self, cx: &mut Context<'_>) -> bool {
        let now = now();
        let Self { state, api, .. } = self;
        let Some(carrier) = api else { return false };
        let received = carrier.receive(cx, now, |datagram| {
            state.handle_datagrams(Path::Api, datagram, datagram.len(), now)
        });
        let received = received.unwrap_or_else(|error| {
            self.lose_api(&error);
            true
        });
        self.tell_room();
        received
    }

    /// What the TUN has goes out in shares, before the next is read.
    fn receive_tun(&mut self, cx: &mut Context<'_>) -> bool {
        let (mut reads, mut unsent) = (0, 0);
        while reads < TUN_READS && !self.is_congested() {
            let now = now();
            let Self { state, tun, .. } = self;
            let Some(length) = tun.as_mut().and_then(|tun| {
                tun.receive(cx, |packet, segmentation| {
                    state.handle_tun_packet(packet, segmentation, now)
                })
            }) else {
                break;
            };
            reads += 1;
            unsent += length;
            if unsent >= TUN_BYTES {
                unsent = 0;
                self.transmit(cx);
                self.flush_api(cx);
            }
        }
        reads > 0
    }

    /// Whether the UDP sockets are behind. Packets are left with the kernel then, which knows how to slow programs down. For the stream
    /// they are not: the TUN's queue is one for all flows, and long; the core's is not.
    fn is_congested(&self) -> bool {
        self.udp.is_blocked()
    }

    /// Writes what the stream takes, and tells the core how much more it would take.
    fn flush_api(&mut self, cx: &mut Context<'_>) {
        if let Some(Err(error)) = self.api.as_mut().map(|api| api.flush(cx)) {
            self.lose_api(&error);
        }
        self.tell_room();
    }

    fn tell_room(&mut self) {
        if let Some((bytes, piece)) = self.api.as_ref().map(ApiCarrier::room) {
            self.state.path_room(Path::Api, bytes, piece, now());
        }
    }

    fn lose_api(&mut self, error: &io::Error) {
        self.api = None;
        self.state.path_closed(Path::Api, now());
        self.tell(Occurrence::ApiLost(error.to_string()));
    }

    fn fire_timer(&mut self) -> bool {
        let now = now();
        let due = self.state.poll_timeout().is_some_and(|(at, _)| at <= now);
        if due {
            self.state.handle_timeout(now);
        }
        due
    }

    /// Arms the timer; whether it has rung already. One that rings too early costs a look; to move it with every packet
    /// costs more.
    fn timer_is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((at, why)) = self.state.poll_timeout() else {
            return false;
        };
        let at = Timer::from_std(at);
        if at < self.timer.deadline() || self.timer.is_elapsed() {
            tracing::trace!(why, "next timeout");
            self.timer.as_mut().reset(at);
        }
        self.timer.as_mut().poll(cx).is_ready()
    }

    /// Takes out everything that the state wants done.
    fn drain(&mut self, cx: &mut Context<'_>) {
        // What the stream has taken makes room for more of what waits, and events make more to send.
        loop {
            self.write_tun();
            let mut any = self.transmit(cx);
            self.flush_api(cx);
            while let Some(event) = self.state.poll_event() {
                any = true;
                self.pass_on(event);
            }
            if !any {
                break;
            }
        }
    }

    /// Sends what is to be sent, as far as the sockets take it; whether there was anything.
    fn transmit(&mut self, cx: &mut Context<'_>) -> bool {
        let now = now();
        let mut any = false;
        loop {
            self.udp.flush(cx);
            if self.udp.is_blocked() || !self.transmit_next(now) {
                return any;
            }
            any = true;
        }
    }

    /// Whether there was something.
    fn transmit_next(&mut self, now: Instant) -> bool {
        let Self {
            state, udp, api, ..
        } = self;
        let Some(transmit) = state.poll_transmit() else {
            return false;
        };
        let lost = match transmit.path {
            Path::Udp(to) => u64::from(!udp.send(to, transmit.payload, transmit.segment)),
            Path::Api => transmit.datagrams().fold(0, |lost, datagram| {
                let queued = api.as_mut().is_some_and(|api| api.queue(datagram, now));
                lost + u64::from(!queued)
            }),
        };
        self.unsent += lost;
        true
    }

    /// Hands the TUN what is for programs.
    fn write_tun(&mut self) {
        while let Some((packet, segmentation)) = self.state.poll_packet() {
            if let Some(tun) = &mut self.tun {
                tun.send(packet, segmentation);
            }
        }
    }

    fn pass_on(&mut self, event: Event) {
        match event {
            Event::Established { path } => self.tell(Occurrence::Established(path)),
            Event::PathChanged { from, to } => self.tell(Occurrence::PathChanged(from, to)),
            Event::Quiet => self.tell(Occurrence::Quiet),
            Event::ApiCarrierWanted => self.tell(Occurrence::ApiWanted),
            Event::HostRoutes { ticket, addresses } => {
                if self
                    .outlets
                    .route_tx
                    .try_send(HostRoutes { ticket, addresses })
                    .is_err()
                {
                    self.state.host_routes_ready(ticket, false, now());
                }
            }
            Event::Upstream { id, query, tcp } => {
                if self
                    .outlets
                    .question_tx
                    .try_send(Question { id, query, tcp })
                    .is_err()
                {
                    self.state.upstream_answered(id, None, now());
                }
            }
            Event::Flow(event) => self.flows.handle(event, &mut self.state, now()),
            Event::Resolved { id, answer } => {
                if let Some(resolved_tx) = self.resolving.remove(&id) {
                    // Whoever asked may have given up.
                    let _ = resolved_tx.send(answer);
                }
            }
        }
    }

    fn tell(&self, occurrence: Occurrence) {
        // The keeper hears of a lost path again: probes go on, and so do the core's wishes.
        if let Err(error) = self.outlets.occurrence_tx.try_send(occurrence) {
            tracing::debug!(%error, "the keeper is behind");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
