//! One TCP flow's socket: bytes go straight between it and the flow's buffers, each way as fast as the slower side takes them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use kvpn_gateway_core::{Flow, FlowEvent, GatewayState};
use mio::event::{Event, Source};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use super::flows::Turn;
use super::refusal;
use crate::dialled::DialledStream;

/// Copies each way before others have their turn.
const TURN: usize = 32;

/// What the flow is connected with.
enum Stream {
    Tcp(TcpStream),
    /// The control API's socket pair.
    Unix(UnixStream),
    /// An exposure's socket pair.
    Dialled(UnixStream, DialledStream),
}

/// How far the flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The socket connects; the client's SYN waits.
    Connecting,
    /// The laptop has not answered yet.
    Dialling,
    /// The socket is connected; the client's handshake is not over.
    Accepted,
    Open,
}

/// What one direction is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    /// The socket, or the flow's buffer.
    Waits,
    /// Nothing: the turn was over.
    More,
    /// The socket failed.
    Failed,
}

/// A TCP flow's socket.
pub(crate) struct TcpFlow {
    flow: Flow,
    stream: Stream,
    phase: Phase,
    /// The socket may have something to read.
    readable: bool,
    /// The socket may take something.
    writable: bool,
    /// The socket's end was read, and told to the client.
    read_end: bool,
    /// The client's end came.
    client_finished: bool,
    /// It was passed on to the socket.
    write_end: bool,
}

impl TcpFlow {
    /// Begins to connect.
    pub(crate) fn connect(
        flow: Flow,
        address: SocketAddr,
        registry: &Registry,
        token: usize,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        Self::new(
            flow,
            Stream::Tcp(stream),
            Phase::Connecting,
            registry,
            token,
        )
    }

    /// Takes over a stream that is connected.
    pub(crate) fn paired(
        flow: Flow,
        stream: UnixStream,
        registry: &Registry,
        token: usize,
    ) -> io::Result<Self> {
        Self::new(flow, Stream::Unix(stream), Phase::Accepted, registry, token)
    }

    /// Joins a connection that the gateway opens with its end.
    pub(crate) fn dialled(
        flow: Flow,
        mut end: DialledStream,
        registry: &Registry,
        token: usize,
    ) -> io::Result<Self> {
        let socket = end.socket.take().ok_or(ErrorKind::NotConnected)?;
        let stream = Stream::Dialled(UnixStream::from_std(socket), end);
        Self::new(flow, stream, Phase::Dialling, registry, token)
    }

    fn new(
        flow: Flow,
        mut stream: Stream,
        phase: Phase,
        registry: &Registry,
        token: usize,
    ) -> io::Result<Self> {
        registry.register(
            stream.source(),
            Token(token),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        Ok(Self {
            flow,
            stream,
            phase,
            readable: false,
            writable: false,
            read_end: false,
            client_finished: false,
            write_end: false,
        })
    }

    /// The flow.
    pub(crate) fn flow(&self) -> Flow {
        self.flow
    }

    /// Whether the gateway opened it, to a laptop.
    pub(crate) fn is_dialled(&self) -> bool {
        matches!(self.stream, Stream::Dialled(..))
    }

    /// Notes what the poll said.
    pub(crate) fn note_readiness(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Notes what the state said.
    pub(crate) fn note_event(&mut self, what: FlowEvent) {
        match what {
            FlowEvent::TcpConnected => {
                self.phase = Phase::Open;
                self.stream.opened();
            }
            FlowEvent::TcpPeerFinished => self.client_finished = true,
            FlowEvent::TcpOpening { .. }
            | FlowEvent::TcpReadable
            | FlowEvent::TcpWritable
            | FlowEvent::TcpReset
            | FlowEvent::TcpClosed
            | FlowEvent::UdpOpening { .. }
            | FlowEvent::UdpDatagram
            | FlowEvent::EchoOpening { .. }
            | FlowEvent::EchoRequest
            | FlowEvent::UdpRefused
            | FlowEvent::Expired => {}
        }
    }

    /// Goes on as far as socket and client let it, within bounds.
    pub(crate) fn turn(&mut self, state: &mut GatewayState, now: Instant) -> Turn {
        match self.phase {
            Phase::Connecting => self.finish_connecting(state, now),
            Phase::Dialling if self.stream.is_given_up() => {
                state.tcp_abort(self.flow, now);
                Turn::Over
            }
            Phase::Dialling | Phase::Accepted => Turn::Waiting,
            Phase::Open => self.copy(state, now),
        }
    }

    /// The client is gone: so is the connection, at once.
    pub(crate) fn reset(mut self) {
        match &mut self.stream {
            // Without it the other end would take what came until now for all there is.
            Stream::Tcp(stream) => drop(SockRef::from(&*stream).set_linger(Some(Duration::ZERO))),
            Stream::Dialled(_, end) => end.reset(),
            Stream::Unix(_) => {}
        }
    }

    fn finish_connecting(&mut self, state: &mut GatewayState, now: Instant) -> Turn {
        if !self.writable {
            return Turn::Waiting;
        }
        match self.stream.connected() {
            Ok(true) => {
                self.phase = Phase::Accepted;
                state.tcp_accept(self.flow, now);
                Turn::Waiting
            }
            Ok(false) => {
                self.writable = false;
                Turn::Waiting
            }
            Err(error) => {
                tracing::debug!(%error, "connection failed");
                state.tcp_refuse(self.flow, refusal::of_connection(&error), now);
                Turn::Over
            }
        }
    }

    fn copy(&mut self, state: &mut GatewayState, now: Instant) -> Turn {
        let out = self.copy_out(state, now);
        let back = self.copy_back(state, now);
        // What the socket still had to say was read before its failure counts.
        if back == Copied::Failed
            || (out == Copied::Failed && back == Copied::Waits && !self.readable)
        {
            state.tcp_abort(self.flow, now);
            return Turn::Over;
        }
        if out == Copied::More || back == Copied::More {
            Turn::Unfinished
        } else {
            Turn::Waiting
        }
    }

    /// Client to socket.
    fn copy_out(&mut self, state: &mut GatewayState, now: Instant) -> Copied {
        if self.client_finished {
            return self.finish_writing();
        }
        for _ in 0..TURN {
            if !self.writable {
                return Copied::Waits;
            }
            let mut result = Ok(0);
            state.tcp_recv_with(self.flow, now, |data| {
                if !data.is_empty() {
                    result = self.stream.write(data);
                }
                *result.as_ref().unwrap_or(&0)
            });
            match result {
                Ok(0) => return Copied::Waits,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Copied::Failed,
            }
        }
        Copied::More
    }

    /// All that the client sent was read, and so written; its end is passed on.
    fn finish_writing(&mut self) -> Copied {
        if !std::mem::replace(&mut self.write_end, true) {
            // It fails when the connection is gone, which reading shows.
            drop(self.stream.shutdown());
        }
        Copied::Waits
    }

    /// Socket to client.
    fn copy_back(&mut self, state: &mut GatewayState, now: Instant) -> Copied {
        if self.read_end {
            return self.check_for_reset();
        }
        for _ in 0..TURN {
            if !self.readable {
                return Copied::Waits;
            }
            let mut result = None;
            state.tcp_send_with(self.flow, now, |free| {
                if free.is_empty() {
                    return 0;
                }
                let read = self.stream.read(free);
                *result.insert(read).as_ref().unwrap_or(&0)
            });
            match result {
                // No room: the state tells when there is.
                None => return Copied::Waits,
                Some(Ok(0)) if self.stream.was_reset() => return Copied::Failed,
                Some(Ok(0)) => {
                    self.read_end = true;
                    state.tcp_finish(self.flow, now);
                    return Copied::Waits;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Some(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Some(Err(_)) => return Copied::Failed,
            }
        }
        Copied::More
    }

    /// After the socket's end only a reset can come, which nobody reads.
    fn check_for_reset(&mut self) -> Copied {
        if !std::mem::take(&mut self.readable) {
            return Copied::Waits;
        }
        if self.stream.take_error().is_some() {
            Copied::Failed
        } else {
            Copied::Waits
        }
    }
}

impl Stream {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) | Self::Dialled(stream, _) => stream,
        }
    }

    /// The laptop has accepted the connection.
    fn opened(&mut self) {
        if let Self::Dialled(_, end) = self {
            end.answer(Ok(()));
        }
    }

    /// Whether nobody waits for the laptop's answer any more.
    fn is_given_up(&self) -> bool {
        match self {
            Self::Dialled(_, end) => end.is_given_up(),
            Self::Tcp(_) | Self::Unix(_) => false,
        }
    }

    /// Whether the socket's end means a reset, which a socket pair does not tell.
    fn was_reset(&self) -> bool {
        match self {
            Self::Dialled(_, end) => end.was_reset(),
            Self::Tcp(_) | Self::Unix(_) => false,
        }
    }

    /// Whether the connection is made.
    fn connected(&self) -> io::Result<bool> {
        let Self::Tcp(stream) = self else {
            return Ok(true);
        };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => {
                // Segments of the client go on as they came; a dead peer is found out some time.
                stream.set_nodelay(true)?;
                SockRef::from(stream).set_keepalive(true)?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) | Self::Dialled(stream, _) => stream.shutdown(Shutdown::Write),
        }
    }

    fn take_error(&self) -> Option<io::Error> {
        match self {
            Self::Tcp(stream) => stream.take_error().ok().flatten(),
            Self::Unix(stream) | Self::Dialled(stream, _) => stream.take_error().ok().flatten(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) | Self::Dialled(stream, _) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) | Self::Dialled(stream, _) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
