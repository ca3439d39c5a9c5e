//! One stream of the `api` carrier: its socket, and the frames in both directions. It does not know other streams.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::time::Instant;

use kvpn_gateway_core::{GatewayState, Path, Shard, StreamId};
use kvpn_wire::stream::Stream as Framed;
use mio::net::TcpStream;

/// A stream.
pub(super) struct Stream {
    pub(super) socket: TcpStream,
    pub(super) framed: Framed,
    /// Datagrams that came by it for a session of another part, and that part's number.
    pub(super) strays: Vec<Box<[u8]>>,
    pub(super) owner: Option<u8>,
    pub(super) readable: bool,
    /// The client has ended it: the poll tells so only once, so it is read to its end.
    pub(super) ending: bool,
    pub(super) unflushed: bool,
}

impl Stream {
    /// A stream that was just accepted.
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            framed: Framed::new(),
            strays: Vec::new(),
            owner: None,
            readable: false,
            ending: false,
            unflushed: false,
        }
    }

    /// Reads once; the rest, if there is any, has its turn later.
    pub(super) fn receive(
        &mut self,
        buffer: &mut [u8],
        path: Path,
        shard: Shard,
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
            match shard.of_datagram(datagram) {
                Some(owner) if owner != shard.number() => {
                    self.owner = Some(owner);
                    self.strays.push(datagram.into());
                }
                Some(_) | None => state.handle_datagram(path, datagram, now),
            }
        });
        self.framed.report(now);
        taken.map_err(io::Error::other)
    }

    /// Writes as much as the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
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

    /// Tells the core how much more the stream takes.
    pub(super) fn tell_room(&self, id: StreamId, state: &mut GatewayState) {
        state.path_room(Path::Api(id), self.framed.room(), self.framed.piece());
    }
}
