//! The `udp` carrier: one socket for all clients, of both families where the pod has both; with several drivers, one for each at the same
//! port.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kvpn_io::udp::{Datagrams, UdpOffload};
use mio::event::{Event, Source};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::{UDP, steering};

/// The socket of the `udp` carrier.
pub(crate) struct UdpCarrier {
    datagrams: Datagrams<UdpSocket>,
    v6: bool,
    readable: bool,
    /// What the socket did not take yet; nothing more is sent before it.
    held: Vec<u8>,
    /// Whether the poll tells of room in the socket.
    watched: bool,
    /// Where to, as the socket knows it, and how long each datagram is.
    held_for: (SocketAddr, usize),
}

impl UdpCarrier {
    /// Listens on all addresses; port 0 means any free one. With `offload` the kernel cuts and joins datagrams. A `shared` port
    /// may be opened again.
    pub(crate) fn open(port: u16, offload: bool, shared: bool) -> io::Result<Self> {
        let (socket, v6) = match open_v6(port, shared) {
            Ok(socket) => (socket, true),
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
            Err(_) => (open_v4(port, shared)?, false),
        };
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket.into());
        Ok(Self {
            datagrams: Datagrams::new(socket, offload),
            v6,
            readable: true,
            held: Vec::new(),
            watched: false,
            held_for: (SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), 1),
        })
    }

    /// The address the socket is bound to.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.datagrams.socket().local_addr()
    }

    /// Has the kernel give each datagram to the part that has its session, among `parts` carriers of one port.
    pub(crate) fn steer(&self, parts: u8) -> io::Result<()> {
        steering::steer(self.datagrams.socket(), parts)
    }

    /// What the kernel does for us.
    pub(crate) fn offload(&self) -> UdpOffload {
        self.datagrams.offload()
    }

    /// Whether datagrams may wait to be received.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether the socket takes no more at present.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.held.is_empty()
    }

    /// Notes what the poll said, and sends what was held.
    pub(crate) fn note_readiness(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_error();
        if event.is_writable() && self.is_blocked() {
            let (to, segment) = self.held_for;
            match self.datagrams.send(to, &self.held, segment) {
                Err(unsent) if unsent.error.kind() == ErrorKind::WouldBlock => {
                    self.held.drain(..unsent.sent);
                }
                Ok(()) | Err(_) => self.held.clear(),
            }
        }
    }

    /// Has the poll tell of room in the socket only while it is missed: each datagram that leaves makes some.
    pub(crate) fn watch(&mut self, registry: &Registry) {
        if self.watched == self.is_blocked() {
            return;
        }
        self.watched = self.is_blocked();
        let interest = if self.watched {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        };
        if let Err(error) = registry.reregister(self, UDP, interest) {
            tracing::error!(%error, "the udp carrier's socket cannot be watched");
        }
    }

    /// Receives a bounded number of datagrams; whether there were any. Each message is handed over with its sender and the
    /// length of the datagrams in it.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(SocketAddr, &mut [u8], usize)) -> bool {
        if !self.readable {
            return false;
        }
        let received = self.datagrams.receive(|from, bytes, stride| {
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            take(from, bytes, stride);
        });
        match received {
            Ok(more) => {
                // Whatever comes from now on is another event.
                self.readable = more;
                true
            }
            Err(error) => {
                // Others are errors of earlier datagrams that ICMP reported; the next call receives.
                self.readable = error.kind() != ErrorKind::WouldBlock;
                self.readable
            }
        }
    }

    /// Sends datagrams that lie side by side, each `segment` bytes long but the last, or holds them until the socket takes
    /// them. What cannot be sent is lost, as UDP may.
    pub(crate) fn send(&mut self, address: SocketAddr, datagrams: &[u8], segment: usize) {
        let to = self.mapped(address);
        match self.datagrams.send(to, datagrams, segment) {
            Ok(()) => {}
            Err(unsent) if unsent.error.kind() == ErrorKind::WouldBlock => {
                self.held.extend_from_slice(&datagrams[unsent.sent..]);
                self.held_for = (to, segment);
            }
            Err(unsent) => tracing::debug!(error = %unsent.error, "datagrams not sent"),
        }
    }

    /// An IPv6 socket knows IPv4 addresses in their mapped form only.
    fn mapped(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(v4) if self.v6 => {
                SocketAddr::new(v4.to_ipv6_mapped().into(), address.port())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => address,
        }
    }
}

fn open_v6(port: u16, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

fn open_v4(port: u16, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

impl Source for UdpCarrier {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.datagrams
            .socket_mut()
            .register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.datagrams
            .socket_mut()
            .reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.datagrams.socket_mut().deregister(registry)
    }
}

#[cfg(test)]
mod tests;
