//! One ICMP echo flow's socket: a "ping socket" (icmp(7), `net.ipv4.ping_group_range`), which needs no privilege and only sees
//! answers to its own requests. Without permission there is no answer, never a false one.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use kvpn_gateway_core::{Flow, GatewayState};
use mio::event::{Event, Source as _};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::flows::Turn;
use super::refusal;

/// Messages each way before others have their turn.
const TURN: usize = 64;
/// An echo message: type, code, checksum, identifier (both filled in by the kernel), sequence number.
const HEADER: usize = 8;

/// An echo flow's socket.
pub(crate) struct EchoFlow {
    flow: Flow,
    socket: Socket,
    v6: bool,
    readable: bool,
    /// The client was told of an error, and with that the flow is gone.
    refused: bool,
}

/// Whether this process may ping at all.
pub(crate) fn ping_permitted() -> bool {
    open(false).is_ok()
}

fn open(v6: bool) -> io::Result<Socket> {
    let (domain, protocol) = if v6 {
        (Domain::IPV6, Protocol::ICMPV6)
    } else {
        (Domain::IPV4, Protocol::ICMPV4)
    };
    Socket::new(domain, Type::DGRAM.nonblocking(), Some(protocol))
}

impl EchoFlow {
    /// Opens a socket to `target`.
    pub(crate) fn connect(
        flow: Flow,
        target: IpAddr,
        registry: &Registry,
        token: usize,
    ) -> io::Result<Self> {
        let v6 = target.is_ipv6();
        let socket = open(v6)?;
        socket.connect(&SocketAddr::new(target, 0).into())?;
        SourceFd(&socket.as_raw_fd()).register(registry, Token(token), Interest::READABLE)?;
        Ok(Self {
            flow,
            socket,
            v6,
            readable: false,
            refused: false,
        })
    }

    /// The flow.
    pub(crate) fn flow(&self) -> Flow {
        self.flow
    }

    /// Notes what the poll said.
    pub(crate) fn note_readiness(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_error();
    }

    /// Passes requests and answers on.
    pub(crate) fn turn(
        &mut self,
        state: &mut GatewayState,
        buffer: &mut [u8],
        now: Instant,
    ) -> Turn {
        self.send(state, buffer, now);
        self.receive(state, buffer, now);
        if self.refused {
            Turn::Over
        } else if self.readable {
            Turn::Unfinished
        } else {
            Turn::Waiting
        }
    }

    fn send(&mut self, state: &mut GatewayState, buffer: &mut [u8], now: Instant) {
        while let Some((sequence, length)) = state.echo_recv(self.flow, &mut buffer[HEADER..]) {
            let request = if self.v6 { 128 } else { 8 };
            buffer[..HEADER].copy_from_slice(&[request, 0, 0, 0, 0, 0, 0, 0]);
            buffer[6..HEADER].copy_from_slice(&sequence.to_be_bytes());
            if let Err(error) = (&self.socket).write(&buffer[..HEADER + length]) {
                self.report(&error, state, now);
            }
        }
    }

    fn receive(&mut self, state: &mut GatewayState, buffer: &mut [u8], now: Instant) {
        for _ in 0..TURN {
            if !self.readable || self.refused {
                return;
            }
            match (&self.socket).read(buffer) {
                Ok(length) => self.answer(&buffer[..length], state, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) => self.report(&error, state, now),
            }
        }
    }

    fn answer(&self, message: &[u8], state: &mut GatewayState, now: Instant) {
        let reply = if self.v6 { 129 } else { 0 };
        if let [kind, 0, _, _, _, _, high, low, payload @ ..] = message
            && *kind == reply
        {
            state.echo_reply(self.flow, u16::from_be_bytes([*high, *low]), payload, now);
        }
    }

    fn report(&mut self, error: &io::Error, state: &mut GatewayState, now: Instant) {
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            tracing::debug!(%error, "echo request refused");
            state.echo_refuse(self.flow, refusal::of_datagram(error), now);
            self.refused = true;
        }
    }
}
