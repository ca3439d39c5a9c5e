//! The flows' sockets: which flow has which, and who is told what.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use kvpn_gateway_core::{Flow, FlowEvent, GatewayState, SessionIndex, Target};
use mio::Registry;
use mio::event::Event;

use super::echo::EchoFlow;
use super::tcp::TcpFlow;
use super::udp_flow::UdpFlow;
use super::{FIRST, refusal};
use crate::dialled::{DialledDatagrams, DialledStream};
use crate::http::ControlConnectionsTx;

/// The longest datagram, with room for an ICMP header before it.
const BUFFER: usize = 65_535 + 8;

/// What a turn of a flow's socket came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It waits for the socket or for the client.
    Waiting,
    /// It could go on, but others are to have their turn.
    Unfinished,
    /// The flow is over, and the state knows it.
    Over,
}

/// One flow's socket.
enum FlowSocket {
    Tcp(TcpFlow),
    Udp(UdpFlow),
    Echo(EchoFlow),
}

/// All flows' sockets.
pub(crate) struct Flows {
    sockets: BTreeMap<usize, FlowSocket>,
    tokens: BTreeMap<Flow, usize>,
    /// Never used twice, so that a late event of a closed socket meets nobody.
    next: usize,
    unfinished: BTreeSet<usize>,
    control: ControlConnectionsTx,
    buffer: Vec<u8>,
}

impl Flows {
    /// No flows yet; those to the control API go to `control`.
    pub(crate) fn new(control: ControlConnectionsTx) -> Self {
        Self {
            sockets: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next: FIRST + 1,
            unfinished: BTreeSet::new(),
            control,
            buffer: vec![0; BUFFER],
        }
    }

    /// Whether a socket could go on without another event.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Gives each socket that could go on another turn.
    pub(crate) fn continue_unfinished(&mut self, state: &mut GatewayState, now: Instant) {
        for token in std::mem::take(&mut self.unfinished) {
            self.turn(token, state, now);
        }
    }

    /// Notes what the poll said of the socket with `token`, and gives it a turn.
    pub(crate) fn handle_readiness(
        &mut self,
        token: usize,
        event: &Event,
        state: &mut GatewayState,
        now: Instant,
    ) {
        let Some(socket) = self.sockets.get_mut(&token) else {
            return;
        };
        match socket {
            FlowSocket::Tcp(tcp) => tcp.note_readiness(event),
            FlowSocket::Udp(udp) => udp.note_readiness(event),
            FlowSocket::Echo(echo) => echo.note_readiness(event),
        }
        self.turn(token, state, now);
    }

    /// Does what an event of the state asks for.
    pub(crate) fn handle(
        &mut self,
        flow: Flow,
        what: FlowEvent,
        registry: &Registry,
        state: &mut GatewayState,
        now: Instant,
    ) {
        match what {
            FlowEvent::TcpOpening { target } => self.open_tcp(flow, target, registry, state, now),
            FlowEvent::UdpOpening { target } => self.open_udp(flow, target, registry, state, now),
            FlowEvent::EchoOpening { target } => self.open_echo(flow, target, registry, state),
            FlowEvent::TcpConnected
            | FlowEvent::TcpReadable
            | FlowEvent::TcpWritable
            | FlowEvent::TcpPeerFinished
            | FlowEvent::UdpDatagram
            | FlowEvent::EchoRequest => self.tell(flow, what, state, now),
            FlowEvent::TcpReset => {
                if let Some(FlowSocket::Tcp(tcp)) = self.remove(flow) {
                    tcp.reset();
                }
            }
            FlowEvent::TcpClosed | FlowEvent::UdpRefused | FlowEvent::Expired => {
                drop(self.remove(flow));
            }
        }
    }

    /// Resets the connections that were opened to a session's laptop: whoever waits for it does not wait any longer.
    pub(crate) fn give_up(
        &mut self,
        session: SessionIndex,
        state: &mut GatewayState,
        now: Instant,
    ) {
        let flows: Vec<Flow> = self
            .tokens
            .iter()
            .filter(|(flow, token)| {
                let socket = self.sockets.get(token);
                let is_dialled = matches!(socket, Some(FlowSocket::Tcp(tcp)) if tcp.is_dialled());
                flow.session() == session && is_dialled
            })
            .map(|(flow, _)| *flow)
            .collect();
        for flow in flows {
            state.tcp_abort(flow, now);
            if let Some(FlowSocket::Tcp(tcp)) = self.remove(flow) {
                tcp.reset();
            }
        }
    }

    /// Drops the sockets of a session that ended. Its connections are reset: what they carried is not complete.
    pub(crate) fn end_session(&mut self, session: SessionIndex) {
        let flows: Vec<Flow> = self
            .tokens
            .keys()
            .copied()
            .filter(|flow| flow.session() == session)
            .collect();
        for flow in flows {
            if let Some(FlowSocket::Tcp(tcp)) = self.remove(flow) {
                tcp.reset();
            }
        }
    }

    fn open_tcp(
        &mut self,
        flow: Flow,
        target: Target,
        registry: &Registry,
        state: &mut GatewayState,
        now: Instant,
    ) {
        let token = self.take_token();
        let opened = match target {
            Target::Address(address) | Target::Nameserver(address) => {
                TcpFlow::connect(flow, address, registry, token)
            }
            Target::Control => self.open_control(flow, registry, token),
            Target::Nothing => Err(io::ErrorKind::ConnectionRefused.into()),
        };
        match opened {
            Ok(tcp) => self.insert(token, flow, FlowSocket::Tcp(tcp)),
            Err(error) => {
                tracing::debug!(?target, %error, "cannot connect");
                note_failure(target, state);
                state.tcp_refuse(flow, refusal::of_connection(&error), now);
                return;
            }
        }
        if target == Target::Control {
            state.tcp_accept(flow, now);
        }
    }

    /// A socket pair, whose other end HTTP serves in the name of the flow's session.
    fn open_control(
        &mut self,
        flow: Flow,
        registry: &Registry,
        token: usize,
    ) -> io::Result<TcpFlow> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        self.control
            .try_send((theirs, flow.session()))
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        TcpFlow::paired(flow, mio::net::UnixStream::from_std(ours), registry, token)
    }

    /// Opens a connection to a port of a laptop.
    pub(crate) fn dial_tcp(
        &mut self,
        session: SessionIndex,
        port: u16,
        mut end: DialledStream,
        registry: &Registry,
        state: &mut GatewayState,
        now: Instant,
    ) {
        let flow = match state.tcp_dial(session, port, now) {
            Ok(flow) => flow,
            Err(error) => {
                tracing::debug!(port, %error, "cannot dial a laptop");
                return end.answer(Err(io::ErrorKind::ConnectionRefused.into()));
            }
        };
        let token = self.take_token();
        match TcpFlow::dialled(flow, end, registry, token) {
            Ok(tcp) => self.insert(token, flow, FlowSocket::Tcp(tcp)),
            Err(error) => {
                tracing::debug!(port, %error, "cannot dial a laptop");
                state.tcp_abort(flow, now);
            }
        }
    }

    /// Opens a UDP flow to a port of a laptop.
    pub(crate) fn dial_udp(
        &mut self,
        session: SessionIndex,
        port: u16,
        end: DialledDatagrams,
        registry: &Registry,
        state: &mut GatewayState,
        now: Instant,
    ) {
        let Ok(flow) = state.udp_dial(session, port, now) else {
            return;
        };
        let token = self.take_token();
        match UdpFlow::dialled(flow, end, registry, token) {
            Ok(udp) => self.insert(token, flow, FlowSocket::Udp(udp)),
            Err(error) => {
                tracing::debug!(port, %error, "cannot dial a laptop");
                state.close(flow);
            }
        }
    }

    fn open_udp(
        &mut self,
        flow: Flow,
        target: Target,
        registry: &Registry,
        state: &mut GatewayState,
        now: Instant,
    ) {
        let token = self.take_token();
        let opened = match target {
            Target::Address(address) => UdpFlow::connect(flow, address, false, registry, token),
            Target::Nameserver(address) => UdpFlow::connect(flow, address, true, registry, token),
            // The core has no UDP service of this name.
            Target::Control | Target::Nothing => Err(io::ErrorKind::ConnectionRefused.into()),
        };
        match opened {
            Ok(udp) => self.insert(token, flow, FlowSocket::Udp(udp)),
            Err(error) => {
                tracing::debug!(?target, %error, "cannot open a UDP flow");
                note_failure(target, state);
                state.udp_refuse(flow, refusal::of_datagram(&error), now);
                state.close(flow);
            }
        }
    }

    fn open_echo(
        &mut self,
        flow: Flow,
        target: IpAddr,
        registry: &Registry,
        state: &mut GatewayState,
    ) {
        let token = self.take_token();
        match EchoFlow::connect(flow, target, registry, token) {
            Ok(echo) => self.insert(token, flow, FlowSocket::Echo(echo)),
            Err(error) => {
                // No answer rather than a false one.
                tracing::debug!(%target, %error, "cannot ping");
                state.close(flow);
            }
        }
    }

    fn tell(&mut self, flow: Flow, what: FlowEvent, state: &mut GatewayState, now: Instant) {
        let Some(&token) = self.tokens.get(&flow) else {
            return;
        };
        if let Some(FlowSocket::Tcp(tcp)) = self.sockets.get_mut(&token) {
            tcp.note_event(what);
        }
        self.turn(token, state, now);
    }

    fn turn(&mut self, token: usize, state: &mut GatewayState, now: Instant) {
        let Some(socket) = self.sockets.get_mut(&token) else {
            return;
        };
        let (flow, turn) = match socket {
            FlowSocket::Tcp(tcp) => (tcp.flow(), tcp.turn(state, now)),
            FlowSocket::Udp(udp) => (udp.flow(), udp.turn(state, &mut self.buffer, now)),
            FlowSocket::Echo(echo) => (echo.flow(), echo.turn(state, &mut self.buffer, now)),
        };
        match turn {
            Turn::Waiting => {}
            Turn::Unfinished => {
                self.unfinished.insert(token);
            }
            Turn::Over => drop(self.remove(flow)),
        }
    }

    fn take_token(&mut self) -> usize {
        let token = self.next;
        self.next += 2;
        token
    }

    fn insert(&mut self, token: usize, flow: Flow, socket: FlowSocket) {
        self.sockets.insert(token, socket);
        self.tokens.insert(flow, token);
    }

    /// Dropping the socket takes it out of the poll.
    fn remove(&mut self, flow: Flow) -> Option<FlowSocket> {
        self.sockets.remove(&self.tokens.remove(&flow)?)
    }
}

/// A nameserver that cannot be reached is not asked next.
fn note_failure(target: Target, state: &mut GatewayState) {
    match target {
        Target::Nameserver(address) => state.nameserver_failed(address),
        Target::Address(_) | Target::Control | Target::Nothing => {}
    }
}
