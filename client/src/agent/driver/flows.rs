//! Flows that end in this process, and the sockets that they are pumped to: connections and datagrams that the gateway opens to a
//! program on the laptop, and connections that this process dials into the tunnel.
//!
//! Each socket wakes with a waker of its own, so that nobody looks at all of them. Each turn of a socket is bounded: whoever
//! could go on is `unfinished` and comes again. Must not look into what is carried.

mod program;
mod tcp;
mod udp;
mod wake;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use kvpn_client_core::ClientState;
use kvpn_netstack::{Event, FlowId, Full, Refusal};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;

use tcp::{Stream, TcpFlow};
use udp::UdpFlow;
use wake::Wakes;

use crate::agent::transport::{self, Pipe};

/// Flows at once; more are refused.
const MAX_FLOWS: usize = 4096;
/// Turns of sockets before the driver's other sources get theirs.
const TURNS: usize = 256;
/// How long the other end of a dialled connection may take to answer.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// The longest datagram in bytes.
const MAX_DATAGRAM: usize = 65_535;

/// Gets a dialled connection, or why there is none.
pub(super) type DialledTx = oneshot::Sender<io::Result<Pipe>>;

/// What a turn of a flow's socket came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It waits for the socket or for the tunnel.
    Waiting,
    /// It could go on, but others are to have their turn.
    Unfinished,
    /// The flow is over, and the state knows it.
    Over,
}

/// One flow's end on this side.
enum FlowSocket {
    /// A program of the laptop's is being connected with; the SYN waits.
    Connecting,
    /// The other end of the tunnel is being connected with.
    Dialling(DialledTx),
    Tcp(TcpFlow),
    Udp(UdpFlow),
}

/// Something waited for outside the sockets.
enum Attempt {
    /// What came of connecting with a program.
    Connected(FlowId, io::Result<TcpStream>),
    /// Whoever dialled has waited for long enough.
    Expired(FlowId),
}

/// All flows' sockets.
pub(super) struct Flows {
    sockets: BTreeMap<FlowId, FlowSocket>,
    wakes: Wakes,
    attempts: FuturesUnordered<BoxFuture<'static, Attempt>>,
    unfinished: BTreeSet<FlowId>,
    buffer: Vec<u8>,
    refused: u64,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self {
            sockets: BTreeMap::new(),
            wakes: Wakes::new(),
            attempts: FuturesUnordered::new(),
            unfinished: BTreeSet::new(),
            buffer: Vec::new(),
            refused: 0,
        }
    }

    /// How many flows of the gateway's are open, or opening.
    pub(super) fn of_gateway(&self) -> usize {
        let of_gateway = |socket: &&FlowSocket| match socket {
            FlowSocket::Connecting => true,
            FlowSocket::Dialling(_) => false,
            FlowSocket::Tcp(tcp) => tcp.is_with_program(),
            FlowSocket::Udp(udp) => udp.is_with_program(),
        };
        self.sockets.values().filter(of_gateway).count()
    }

    /// Flows that were refused because there were too many.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Gives sockets that woke, or could go on, a turn; whether there were any.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        state: &mut ClientState,
        now: Instant,
    ) -> bool {
        let mut any = false;
        while let Poll::Ready(Some(attempt)) = self.attempts.poll_next_unpin(cx) {
            any = true;
            self.attempted(attempt, state, now);
        }
        for flow in std::mem::take(&mut self.unfinished) {
            any = true;
            self.turn(flow, state, now);
        }
        for _ in 0..TURNS {
            let Poll::Ready(flow) = self.wakes.poll_next(cx) else {
                break;
            };
            any = true;
            self.turn(flow, state, now);
        }
        any
    }

    /// Opens a connection into the tunnel; `dialled_tx` gets it once the other end has answered.
    pub(super) fn dial(
        &mut self,
        to: SocketAddr,
        dialled_tx: DialledTx,
        state: &mut ClientState,
        now: Instant,
    ) {
        let opened = if self.has_room() {
            state.tcp_connect(to, now).map_err(of_full)
        } else {
            Err(of_full(Full::Flows))
        };
        match opened {
            Ok(flow) => {
                self.sockets.insert(flow, FlowSocket::Dialling(dialled_tx));
                let limit = tokio::time::sleep(DIAL_LIMIT);
                let expired = limit.map(move |()| Attempt::Expired(flow));
                self.attempts.push(expired.boxed());
            }
            // Whoever dialled may have given up.
            Err(error) => drop(dialled_tx.send(Err(error))),
        }
    }

    /// Opens a flow of datagrams into the tunnel; its other end is the socket that is returned.
    pub(super) fn dial_udp(
        &mut self,
        to: SocketAddr,
        state: &mut ClientState,
        now: Instant,
    ) -> io::Result<UdpSocket> {
        if !self.has_room() {
            return Err(of_full(Full::Flows));
        }
        let [ours, theirs] = udp::pair()?;
        let flow = state.udp_open(to, now).map_err(of_full)?;
        let udp = UdpFlow::paired(flow, ours, self.wakes.of(flow));
        self.sockets.insert(flow, FlowSocket::Udp(udp));
        self.turn(flow, state, now);
        Ok(theirs)
    }

    /// Does what an event of the state asks for.
    pub(super) fn handle(&mut self, event: Event, state: &mut ClientState, now: Instant) {
        match event {
            Event::TcpOpening { flow, dst, .. } => self.open_tcp(flow, dst.port(), state, now),
            Event::UdpOpening { flow, dst, .. } => self.open_udp(flow, dst.port(), state, now),
            Event::TcpConnected { flow } => {
                self.finish_dialling(flow, state, now);
                self.turn(flow, state, now);
            }
            Event::TcpPeerFinished { flow } => {
                if let Some(FlowSocket::Tcp(tcp)) = self.sockets.get_mut(&flow) {
                    tcp.note_peer_finished();
                }
                self.turn(flow, state, now);
            }
            Event::TcpReadable { flow }
            | Event::TcpWritable { flow }
            | Event::UdpDatagram { flow } => self.turn(flow, state, now),
            Event::TcpReset { flow } => self.reset(flow),
            Event::TcpClosed { flow } | Event::UdpRefused { flow } | Event::Expired { flow } => {
                self.sockets.remove(&flow);
            }
            // Pings are the kernel's business on the laptop; the core opens no such flow.
            Event::EchoOpening { .. } | Event::EchoRequest { .. } => {}
        }
    }

    fn has_room(&mut self) -> bool {
        let has_room = self.sockets.len() < MAX_FLOWS;
        self.refused += u64::from(!has_room);
        has_room
    }

    fn open_tcp(&mut self, flow: FlowId, port: u16, state: &mut ClientState, now: Instant) {
        if !self.has_room() {
            return state.tcp_refuse(flow, Refusal::Reset, now);
        }
        self.sockets.insert(flow, FlowSocket::Connecting);
        let connected = program::connect(port);
        let attempt = connected.map(move |result| Attempt::Connected(flow, result));
        self.attempts.push(attempt.boxed());
    }

    fn open_udp(&mut self, flow: FlowId, port: u16, state: &mut ClientState, now: Instant) {
        let opened = if self.has_room() {
            UdpFlow::open(flow, port, self.wakes.of(flow))
        } else {
            Err(of_full(Full::Flows))
        };
        match opened {
            Ok(udp) => {
                self.sockets.insert(flow, FlowSocket::Udp(udp));
            }
            Err(error) => {
                tracing::debug!(port, %error, "no socket for a UDP flow");
                state.udp_refuse(flow, Refusal::PortUnreachable, now);
            }
        }
    }

    fn attempted(&mut self, attempt: Attempt, state: &mut ClientState, now: Instant) {
        match attempt {
            Attempt::Connected(flow, result) => self.connected(flow, result, state, now),
            Attempt::Expired(flow) => {
                if matches!(self.sockets.get(&flow), Some(FlowSocket::Dialling(_))) {
                    state.tcp_abort(flow, now);
                    self.fail_dialling(flow, io::ErrorKind::TimedOut);
                }
            }
        }
    }

    /// The program answered, or did not; the gateway may have given up meanwhile.
    fn connected(
        &mut self,
        flow: FlowId,
        result: io::Result<TcpStream>,
        state: &mut ClientState,
        now: Instant,
    ) {
        let Some(socket) = self.sockets.get_mut(&flow) else {
            return;
        };
        match result {
            Ok(stream) => {
                let wake = self.wakes.of(flow);
                *socket = FlowSocket::Tcp(TcpFlow::new(flow, Stream::Tcp(stream), wake));
                state.tcp_accept(flow, now);
            }
            Err(error) => {
                tracing::debug!(%error, "no program for a connection");
                self.sockets.remove(&flow);
                state.tcp_refuse(flow, Refusal::Reset, now);
            }
        }
    }

    /// Hands a connection that is dialled to who waits for it.
    fn finish_dialling(&mut self, flow: FlowId, state: &mut ClientState, now: Instant) {
        let Some(socket) = self.sockets.remove(&flow) else {
            return;
        };
        let FlowSocket::Dialling(dialled_tx) = socket else {
            self.sockets.insert(flow, socket);
            return;
        };
        let (result, ours) = match transport::pair() {
            Ok((ours, theirs)) => (Ok(theirs), Some(ours)),
            Err(error) => (Err(error), None),
        };
        let is_taken = dialled_tx.send(result).is_ok();
        match ours.filter(|_| is_taken) {
            Some(ours) => {
                let tcp = TcpFlow::new(flow, Stream::Dialled(ours), self.wakes.of(flow));
                self.sockets.insert(flow, FlowSocket::Tcp(tcp));
            }
            None => state.tcp_abort(flow, now),
        }
    }

    fn fail_dialling(&mut self, flow: FlowId, why: io::ErrorKind) {
        if let Some(FlowSocket::Dialling(dialled_tx)) = self.sockets.remove(&flow) {
            // Whoever dialled may have given up.
            let _ = dialled_tx.send(Err(why.into()));
        }
    }

    fn reset(&mut self, flow: FlowId) {
        match self.sockets.get(&flow) {
            Some(FlowSocket::Dialling(_)) => {
                self.fail_dialling(flow, io::ErrorKind::ConnectionRefused);
            }
            _ => {
                if let Some(FlowSocket::Tcp(tcp)) = self.sockets.remove(&flow) {
                    tcp.reset();
                }
            }
        }
    }

    fn turn(&mut self, flow: FlowId, state: &mut ClientState, now: Instant) {
        let turn = match self.sockets.get_mut(&flow) {
            Some(FlowSocket::Tcp(tcp)) => tcp.turn(state, now),
            Some(FlowSocket::Udp(udp)) => {
                self.buffer.resize(MAX_DATAGRAM, 0);
                udp.turn(state, &mut self.buffer, now)
            }
            Some(FlowSocket::Connecting | FlowSocket::Dialling(_)) | None => Turn::Waiting,
        };
        match turn {
            Turn::Waiting => {}
            Turn::Unfinished => {
                self.unfinished.insert(flow);
            }
            Turn::Over => {
                self.sockets.remove(&flow);
            }
        }
    }
}

/// Why a flow cannot be opened, as sockets say it.
fn of_full(full: Full) -> io::Error {
    let kind = match full {
        Full::Unaddressable => io::ErrorKind::AddrNotAvailable,
        Full::Flows | Full::Ports => io::ErrorKind::QuotaExceeded,
    };
    io::Error::new(kind, full)
}

#[cfg(test)]
mod tests;
