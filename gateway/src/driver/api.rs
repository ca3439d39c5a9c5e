//! The `api` carrier: streams of framed datagrams on 127.0.0.1, each the inner end of a port-forward.
//!
//! A stream hides loss and turns it into delay, so what is on its way is bounded by [`Stream`]; the core is told how
//! much more a stream takes. Above [`OVERFLOW`] datagrams are dropped.

mod handover;
mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

use kvpn_gateway_core::{GatewayState, Path, Shard, StreamId};
use mio::event::Event;
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};

pub(crate) use self::handover::Handover;
use self::stream::Stream;
use super::{FIRST, LISTENER};

/// Streams of one driver at the same time.
const MAX_STREAMS: usize = 4096;
/// Bytes of one stream that are read before others have their turn, and while the driver is behind.
const READ: usize = 256 << 10;
const READ_BEHIND: usize = 32 << 10;
/// Unsent bytes above which datagrams are dropped: what a path without room still gets are answers of the gateway itself.
const OVERFLOW: usize = 1 << 20;

/// The listener, if it is this driver's, and its streams.
pub(crate) struct ApiCarrier {
    listener: Option<TcpListener>,
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

impl ApiCarrier {
    /// Listens on a loopback address.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            listener: Some(TcpListener::bind(address)?),
            ..Self::default()
        })
    }
}

impl Default for ApiCarrier {
    /// Without a listener: streams come from another driver.
    fn default() -> Self {
        Self {
            listener: None,
            streams: BTreeMap::new(),
            next: 0,
            readable: VecDeque::new(),
            unflushed: Vec::new(),
            buffer: vec![0; READ].into(),
            starved: false,
        }
    }
}

impl ApiCarrier {
    /// The address the listener is bound to.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        let listener = self.listener.as_ref().ok_or(ErrorKind::NotConnected)?;
        listener.local_addr()
    }

    /// Has the poll tell of streams that wait to be accepted.
    pub(crate) fn listen(&mut self, registry: &Registry) -> io::Result<()> {
        match &mut self.listener {
            Some(listener) => registry.register(listener, LISTENER, Interest::READABLE),
            None => Ok(()),
        }
    }

    /// Whether there may be something to read without another event.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.readable.is_empty()
    }

    /// Accepts all streams that wait.
    pub(crate) fn accept(&mut self, registry: &Registry) {
        self.starved = false;
        let Some(listener) = self.listener.take() else {
            return;
        };
        self.accept_from(&listener, registry);
        self.listener = Some(listener);
    }

    fn accept_from(&mut self, listener: &TcpListener, registry: &Registry) {
        loop {
            match listener.accept() {
                Ok((socket, _)) if self.streams.len() < MAX_STREAMS => {
                    self.add(Stream::new(socket), registry);
                }
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

    /// Receives a bounded number of datagrams from the stream whose turn it is; what is for a session of another part than `shard`
    /// makes the stream that part's. `behind`: others wait, and it is read in smaller portions.
    pub(crate) fn receive_next(
        &mut self,
        shard: Shard,
        behind: bool,
        state: &mut GatewayState,
        now: Instant,
    ) -> Option<(u8, StreamId)> {
        let id = self.readable.pop_front()?;
        let stream = self.streams.get_mut(&id)?;
        let path = Path::Api(id);
        let most = if behind { READ_BEHIND } else { READ };
        let buffer = &mut self.buffer[..most];
        if let Err(error) = stream.receive(buffer, path, shard, state, now) {
            self.close(id, &error, state);
            return None;
        }
        if let Some(owner) = stream.owner.take() {
            return Some((owner, id));
        }
        stream.tell_room(id, state);
        if stream.readable {
            self.readable.push_back(id);
        }
        if !stream.framed.unsent().is_empty() {
            self.flush_later(id);
        }
        None
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

    fn add(&mut self, mut stream: Stream, registry: &Registry) -> Option<StreamId> {
        let id = StreamId(self.next);
        self.next += 1;
        let token = Token(token_of(id));
        let socket = &mut stream.socket;
        if let Err(error) = socket.set_nodelay(true).and_then(|()| {
            registry.register(socket, token, Interest::READABLE | Interest::WRITABLE)
        }) {
            tracing::warn!(%error, "api carrier stream lost");
            return None;
        }
        tracing::debug!(stream = id.0, "api carrier stream opened");
        self.streams.insert(id, stream);
        Some(id)
    }

    fn close(&mut self, id: StreamId, why: &io::Error, state: &mut GatewayState) {
        tracing::debug!(stream = id.0, %why, "api carrier stream closed");
        // Dropping the socket takes it out of the poll.
        self.streams.remove(&id);
        state.path_closed(Path::Api(id));
    }
}

fn token_of(id: StreamId) -> usize {
    FIRST + 2 * usize::try_from(id.0).expect("fewer streams than addresses")
}

fn id_of(token: usize) -> StreamId {
    StreamId(((token - FIRST) / 2) as u64)
}
