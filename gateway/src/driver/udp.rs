//! The `udp` carrier: one socket for all clients, of both families where the pod has both.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use kvpn_gateway_core::{GatewayState, Path};
use mio::event::{Event, Source};
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams received before others have their turn.
const TURN: usize = 256;
/// Socket buffers that are asked for, in bytes; the kernel gives what its limit allows.
const SOCKET_BUFFER: usize = 4 << 20;
/// The longest datagram.
const MAX_DATAGRAM: usize = 65_535;

/// The socket of the `udp` carrier.
pub(crate) struct UdpCarrier {
    socket: UdpSocket,
    v6: bool,
    readable: bool,
    /// A datagram that the socket did not take; nothing more is sent before it.
    held: Option<(SocketAddr, Vec<u8>)>,
    buffer: Vec<u8>,
}

impl UdpCarrier {
    /// Listens on all addresses; port 0 means any free one.
    pub(crate) fn open(port: u16) -> io::Result<Self> {
        let (socket, v6) = match open_v6(port) {
            Ok(socket) => (socket, true),
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
            Err(_) => (open_v4(port)?, false),
        };
        socket.set_nonblocking(true)?;
        // Smaller buffers than asked for are no failure.
        drop(socket.set_recv_buffer_size(SOCKET_BUFFER));
        drop(socket.set_send_buffer_size(SOCKET_BUFFER));
        let socket = UdpSocket::from_std(socket.into());
        Ok(Self {
            socket,
            v6,
            readable: true,
            held: None,
            buffer: vec![0; MAX_DATAGRAM],
        })
    }

    /// The address the socket is bound to.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether datagrams may wait to be received.
    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether the socket takes no more at present.
    pub(crate) fn is_blocked(&self) -> bool {
        self.held.is_some()
    }

    /// Notes what the poll said, and sends the datagram that was held.
    pub(crate) fn note_readiness(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_error();
        if event.is_writable()
            && let Some((address, payload)) = self.held.take()
        {
            self.send(address, &payload);
        }
    }

    /// Receives a bounded number of datagrams.
    pub(crate) fn receive(&mut self, state: &mut GatewayState, now: Instant) {
        for _ in 0..TURN {
            if !self.readable {
                return;
            }
            match self.socket.recv_from(&mut self.buffer) {
                Ok((length, from)) => {
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    state.handle_datagram(Path::Udp(from), &self.buffer[..length], now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                // An error of an earlier datagram that ICMP reported; the next call receives.
                Err(error) => tracing::trace!(%error, "udp carrier"),
            }
        }
    }

    /// Sends a datagram, or holds it until the socket takes it. What cannot be sent is lost, as UDP may.
    pub(crate) fn send(&mut self, address: SocketAddr, payload: &[u8]) {
        match self.socket.send_to(payload, self.mapped(address)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.held = Some((address, payload.to_vec()))
            }
            Err(error) => tracing::debug!(%error, "datagram not sent"),
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

fn open_v6(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

fn open_v4(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
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
        self.socket.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.socket.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }
}
