//! The `api` carrier: streams of framed datagrams on 127.0.0.1, each the inner end of a port-forward.
//!
//! A stream hides loss and turns it into delay, so each one's buffer is bounded: above [`FULL`] its sessions are told to
//! wait, above [`OVERFLOW`] datagrams are dropped.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Instant;

use kvpn_gateway_core::{GatewayState, Path, StreamId};
use kvpn_wire::frame::{Deframer, encode};
use mio::event::{Event, Source};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use super::FIRST;

/// Streams at the same time.
const MAX_STREAMS: usize = 4096;
/// Reads of one stream before others have their turn.
const TURN: usize = 16;
/// Unsent bytes at which a write is tried at once instead of at the end of the round.
const EAGER: usize = 64 << 10;
/// Unsent bytes above which the path is blocked, until they are half of it.
const FULL: usize = 128 << 10;
/// Unsent bytes above which datagrams are dropped: what a blocked path still gets are answers of the gateway itself.
const OVERFLOW: usize = 1 << 20;

/// How much room a stream has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Enough.
    Some,
    /// None: nothing more is to be sealed for it.
    None,
}

impl Room {
    /// Whether there is none.
    pub(crate) fn is_full(self) -> bool {
        self == Self::None
    }
}

/// The listener and its streams.
pub(crate) struct ApiCarrier {
    listener: TcpListener,
    streams: BTreeMap<StreamId, Stream>,
    /// Never used twice, so that a late event of a closed stream meets nobody.
    next: u64,
    /// Streams that may have something to read.
    readable: VecDeque<StreamId>,
    /// Streams that got something to send in this round.
    unflushed: Vec<StreamId>,
    /// Accepting failed for want of something; streams may still wait.
    starved: bool,
}

struct Stream {
    socket: TcpStream,
    deframer: Deframer,
    outgoing: Vec<u8>,
    /// How much of `outgoing` was sent.
    sent: usize,
    readable: bool,
    unflushed: bool,
    blocked: bool,
}

impl ApiCarrier {
    /// Listens on a loopback address.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        Ok(Self {
            listener,
            streams: BTreeMap::new(),
            next: 0,
            readable: VecDeque::new(),
            unflushed: Vec::new(),
            starved: false,
        })
    }

    /// The address the listener is bound to.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Whether there may be something to read without another event.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Accepts all streams that wait.
    pub(crate) fn accept(&mut self, registry: &Registry) {
        self.starved = false;
        loop {
            match self.listener.accept() {
                Ok((socket, _)) if self.streams.len() < MAX_STREAMS => self.add(socket, registry),
                Ok(_) => tracing::warn!(limit = MAX_STREAMS, "api carrier stream refused"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::debug!(%error, "cannot accept an api carrier stream");
                    self.starved = true;
                    return;
                }
            }
        }
    }

    /// Tries again what failed for want of file descriptors or memory; the poll tells of waiting streams only once.
    pub(crate) fn retry_accepting(&mut self, registry: &Registry) {
        if self.starved {
            self.accept(registry);
        }
    }

    /// Notes what the poll said of the stream with `token`, and writes what it takes.
    pub(crate) fn note_readiness(&mut self, token: usize, event: &Event, state: &mut GatewayState) {
        let id = id_of(token);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if (event.is_readable() || event.is_read_closed() || event.is_error()) && !stream.readable {
            stream.readable = true;
            self.readable.push_back(id);
        }
        if event.is_writable() {
            self.flush_stream(id, state);
        }
    }

    /// How many streams may have something to read.
    pub(crate) fn readable(&self) -> usize {
        self.readable.len()
    }

    /// Receives a bounded number of datagrams from the stream whose turn it is.
    pub(crate) fn receive_next(&mut self, state: &mut GatewayState, now: Instant) {
        let Some(id) = self.readable.pop_front() else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        match stream.receive(Path::Api(id), state, now) {
            Ok(()) if stream.readable => self.readable.push_back(id),
            Ok(()) => {}
            Err(error) => self.close(id, &error, state),
        }
    }

    /// Queues a datagram for the stream.
    pub(crate) fn send(&mut self, id: StreamId, payload: &[u8]) -> Room {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Room::Some;
        };
        if stream.unsent() < OVERFLOW {
            encode(payload, &mut stream.outgoing);
        }
        if !stream.unflushed {
            stream.unflushed = true;
            self.unflushed.push(id);
        }
        if stream.unsent() >= EAGER && !stream.blocked {
            // An error shows again, and is handled, when the round's end flushes.
            drop(stream.flush());
        }
        stream.blocked = stream.blocked || stream.unsent() >= FULL;
        if stream.blocked {
            Room::None
        } else {
            Room::Some
        }
    }

    /// Writes what this round queued.
    pub(crate) fn flush(&mut self, state: &mut GatewayState) {
        while let Some(id) = self.unflushed.pop() {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.unflushed = false;
            }
            self.flush_stream(id, state);
        }
    }

    fn flush_stream(&mut self, id: StreamId, state: &mut GatewayState) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Err(error) = stream.flush() {
            self.close(id, &error, state);
        } else if stream.blocked && stream.unsent() <= FULL / 2 {
            stream.blocked = false;
            state.path_ready(Path::Api(id));
        }
    }

    fn add(&mut self, mut socket: TcpStream, registry: &Registry) {
        let id = StreamId(self.next);
        self.next += 1;
        let token = Token(token_of(id));
        if let Err(error) = socket.set_nodelay(true).and_then(|()| {
            registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)
        }) {
            tracing::warn!(%error, "api carrier stream lost");
            return;
        }
        tracing::debug!(stream = id.0, "api carrier stream opened");
        let stream = Stream {
            socket,
            deframer: Deframer::new(),
            outgoing: Vec::new(),
            sent: 0,
            readable: false,
            unflushed: false,
            blocked: false,
        };
        self.streams.insert(id, stream);
    }

    fn close(&mut self, id: StreamId, why: &io::Error, state: &mut GatewayState) {
        tracing::debug!(stream = id.0, %why, "api carrier stream closed");
        // Dropping the socket takes it out of the poll.
        self.streams.remove(&id);
        state.path_closed(Path::Api(id));
    }
}

impl Stream {
    fn receive(&mut self, path: Path, state: &mut GatewayState, now: Instant) -> io::Result<()> {
        for _ in 0..TURN {
            match self.socket.read(self.deframer.space()) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.deframer.filled(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            while let Some(datagram) = self.deframer.next().map_err(io::Error::other)? {
                state.handle_datagrams(path, datagram, datagram.len(), now);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.outgoing.len() {
            match self.socket.write(&self.outgoing[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.sent == self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        } else if self.sent >= EAGER {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }

    fn unsent(&self) -> usize {
        self.outgoing.len() - self.sent
    }
}

fn token_of(id: StreamId) -> usize {
    FIRST + 2 * usize::try_from(id.0).expect("fewer streams than addresses")
}

fn id_of(token: usize) -> StreamId {
    StreamId(((token - FIRST) / 2) as u64)
}

impl Source for ApiCarrier {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.listener.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.listener.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.listener.deregister(registry)
    }
}
