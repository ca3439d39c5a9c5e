//! One TCP flow's socket: bytes go straight between it and the flow's buffers, each way as fast as the slower side takes them.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use kvpn_client_core::ClientState;
use kvpn_netstack::FlowId;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::Turn;
use crate::agent::transport::Pipe;

/// Copies each way before others have their turn.
const TURN: usize = 32;

/// What the flow is connected with.
pub(super) enum Stream {
    /// A program on the laptop.
    Tcp(TcpStream),
    /// Whoever in this process dialled.
    Dialled(Pipe),
}

/// What one direction is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    /// The tunnel.
    Waits,
    /// The socket, which will wake the flow.
    Blocked,
    /// Nothing: the turn was over.
    More,
    /// The socket failed.
    Failed,
}

/// A TCP flow's socket.
pub(super) struct TcpFlow {
    flow: FlowId,
    stream: Stream,
    waker: Waker,
    /// The socket's end was read, and told to the peer.
    read_end: bool,
    /// The peer's end came.
    peer_finished: bool,
    /// It was passed on to the socket.
    write_end: bool,
}

impl TcpFlow {
    pub(super) fn new(flow: FlowId, stream: Stream, waker: Waker) -> Self {
        Self {
            flow,
            stream,
            waker,
            read_end: false,
            peer_finished: false,
            write_end: false,
        }
    }

    /// Whether a program on the laptop is at the end of it, and not this process.
    pub(super) fn is_with_program(&self) -> bool {
        matches!(self.stream, Stream::Tcp(_))
    }

    /// The peer finished, and all that it sent was read.
    pub(super) fn note_peer_finished(&mut self) {
        self.peer_finished = true;
    }

    /// The peer is gone: so is the connection, at once.
    pub(super) fn reset(self) {
        if let Stream::Tcp(stream) = &self.stream {
            // Without it the program would take what came until now for all there is.
            drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        }
    }

    /// Goes on as far as socket and tunnel let it, within bounds.
    pub(super) fn turn(&mut self, state: &mut ClientState, now: Instant) -> Turn {
        let out = self.copy_out(state, now);
        let back = self.copy_back(state, now);
        // What the socket still had to say was read before its failure counts.
        if back == Copied::Failed || (out == Copied::Failed && back == Copied::Blocked) {
            state.tcp_abort(self.flow, now);
            return Turn::Over;
        }
        if out == Copied::More || back == Copied::More {
            Turn::Unfinished
        } else {
            Turn::Waiting
        }
    }

    /// Tunnel to socket.
    fn copy_out(&mut self, state: &mut ClientState, now: Instant) -> Copied {
        if self.peer_finished {
            return self.finish_writing();
        }
        for _ in 0..TURN {
            let mut result = Ok(0);
            state.tcp_recv_with(self.flow, now, |data| {
                if !data.is_empty() {
                    result = self.stream.try_write(data);
                }
                *result.as_ref().unwrap_or(&0)
            });
            match result {
                Ok(0) => return Copied::Waits,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.poll_writable().is_pending() {
                        return Copied::Blocked;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Copied::Failed,
            }
        }
        Copied::More
    }

    /// All that the peer sent was read, and so written; its end is passed on.
    fn finish_writing(&mut self) -> Copied {
        if !std::mem::replace(&mut self.write_end, true) {
            // It fails when the connection is gone, which reading shows.
            drop(self.stream.finish());
        }
        Copied::Waits
    }

    /// Socket to tunnel.
    fn copy_back(&mut self, state: &mut ClientState, now: Instant) -> Copied {
        if self.read_end {
            return Copied::Blocked;
        }
        for _ in 0..TURN {
            let mut result = None;
            state.tcp_send_with(self.flow, now, |free| {
                if free.is_empty() {
                    return 0;
                }
                let read = self.stream.try_read(free);
                *result.insert(read).as_ref().unwrap_or(&0)
            });
            match result {
                // No room: the state tells when there is.
                None => return Copied::Waits,
                Some(Ok(0)) => {
                    self.read_end = true;
                    state.tcp_finish(self.flow, now);
                    return Copied::Blocked;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => {
                    if self.poll_readable().is_pending() {
                        return Copied::Blocked;
                    }
                }
                Some(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Some(Err(_)) => return Copied::Failed,
            }
        }
        Copied::More
    }

    /// Pending: the flow's waker is called when the socket has something.
    fn poll_readable(&self) -> Poll<io::Result<()>> {
        let cx = &mut Context::from_waker(&self.waker);
        match &self.stream {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Dialled(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Pending: the flow's waker is called when the socket has room.
    fn poll_writable(&self) -> Poll<io::Result<()>> {
        let cx = &mut Context::from_waker(&self.waker);
        match &self.stream {
            Stream::Tcp(stream) => stream.poll_write_ready(cx),
            Stream::Dialled(stream) => stream.poll_write_ready(cx),
        }
    }
}

impl Stream {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Dialled(stream) => stream.try_read(buffer),
        }
    }

    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(data),
            Self::Dialled(stream) => stream.try_write(data),
        }
    }

    fn finish(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Dialled(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        }
    }
}
