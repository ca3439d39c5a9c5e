//! The `api` carrier: streams of framed datagrams on 127.0.0.1, each the inner end of a port-forward.
//!
//! A stream hides loss and turns it into delay, so what is on its way is bounded by [`Stream`]; the core is told how
//! much more a stream takes. Above [`OVERFLOW`] datagrams are dropped.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Instant;

use kvpn_gateway_core::{GatewayState, Path, StreamId};
use kvpn_wire::stream::Stream as Framed;
use mio::event::{Event, Source};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use super::FIRST;

/// Streams at the same time.
const MAX_STREAMS: usize = 4096;
/// Bytes of one stream that are read before others have their turn.
const READ: usize = 256 << 10;
/// Unsent bytes above which datagrams are dropped: what a path without room still gets are answers of the gateway itself.
const OVERFLOW: usize = 1 << 20;

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
    /// Where streams are read into; frames lie in it whole but for the last.
    buffer: Box<[u8]>,
    /// Accepting failed for want of something; streams may still wait.
    starved: bool,
}

struct Stream {
    socket: TcpStream,
    framed: Framed,
    readable: bool,
    /// The client has ended it: the poll tells so only once, so it is read to its end.
    ending: bool,
    unflushed: bool,
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
            buffer: vec![0; READ].into(),
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
        stream.ending |= event.is_read_closed() || event.is_error();
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
        if let Err(error) = stream.receive(&mut self.buffer, Path::Api(id), state, now) {
            return self.close(id, &error, state);
        }
        stream.tell_room(id, state);
        if stream.readable {
            self.readable.push_back(id);
        }
        if !stream.framed.unsent().is_empty() {
            self.flush_later(id);
        }
    }

    /// Queues a datagram for the stream.
    pub(crate) fn send(&mut self, id: StreamId, payload: &[u8], now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.framed.unsent().len() < OVERFLOW {
            stream.framed.push(payload, now);
        }
        self.flush_later(id);
    }

    /// Writes what this round queued.
    pub(crate) fn flush(&mut self, state: &mut GatewayState) {
        for id in std::mem::take(&mut self.unflushed) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.unflushed = false;
            }
            self.flush_stream(id, state);
        }
    }

    fn flush_later(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.unflushed
        {
            stream.unflushed = true;
            self.unflushed.push(id);
        }
    }

    fn flush_stream(&mut self, id: StreamId, state: &mut GatewayState) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Err(error) = stream.flush() {
            self.close(id, &error, state);
        } else {
            stream.tell_room(id, state);
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
            framed: Framed::new(),
            readable: false,
            ending: false,
            unflushed: false,
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
    /// Reads once; the rest, if there is any, has its turn later.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        path: Path,
        state: &mut GatewayState,
        now: Instant,
    ) -> io::Result<()> {
        let length = match self.socket.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        // Less than there is room for: what comes next is an event of its own.
        self.readable = length == buffer.len() || self.ending;
        let taken = self.framed.receive(&buffer[..length], now, |datagram| {
            state.handle_datagram(path, datagram, now);
        });
        self.framed.report(now);
        taken.map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.framed.unsent().is_empty() {
            match self.socket.write(self.framed.unsent()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => self.framed.taken(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn tell_room(&self, id: StreamId, state: &mut GatewayState) {
        state.path_room(Path::Api(id), self.framed.room(), self.framed.piece());
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
