//! One UDP flow's socket: connected, so that the kernel sorts answers and tells ICMP errors.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use kvpn_gateway_core::{Flow, GatewayState};
use mio::event::Event;
use mio::net::{UdpSocket, UnixDatagram};
use mio::{Interest, Registry, Token};

use super::flows::Turn;
use super::refusal;
use crate::dialled::DialledDatagrams;

/// Datagrams each way before others have their turn.
const TURN: usize = 64;

/// What the flow is connected with.
enum Socket {
    Udp(UdpSocket),
    /// An exposure's socket pair.
    Dialled(
        UnixDatagram,
        #[expect(dead_code, reason = "tells the other end when it is dropped")] DialledDatagrams,
    ),
}

/// A UDP flow's socket.
pub(crate) struct UdpFlow {
    flow: Flow,
    socket: Socket,
    readable: bool,
    /// The client was told of an error, and with that the flow is gone.
    refused: bool,
    /// Set for a flow to a nameserver.
    questions: Option<Questions>,
}

/// A flow of questions to a nameserver. Resolvers take a new port for each question, so that the flow is forgotten
/// when all are answered, and not when it was idle long enough.
struct Questions {
    nameserver: SocketAddr,
    asked: u32,
    answered: u32,
}

impl UdpFlow {
    /// Opens a socket to `address`.
    pub(crate) fn connect(
        flow: Flow,
        address: SocketAddr,
        nameserver: bool,
        registry: &Registry,
        token: usize,
    ) -> io::Result<Self> {
        let any = match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let mut socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(address)?;
        registry.register(&mut socket, Token(token), Interest::READABLE)?;
        let questions = nameserver.then_some(Questions {
            nameserver: address,
            asked: 0,
            answered: 0,
        });
        Ok(Self {
            flow,
            socket: Socket::Udp(socket),
            readable: false,
            refused: false,
            questions,
        })
    }

    /// Joins a flow that the gateway opens with its end.
    pub(crate) fn dialled(
        flow: Flow,
        mut end: DialledDatagrams,
        registry: &Registry,
        token: usize,
    ) -> io::Result<Self> {
        let socket = end.socket.take().ok_or(ErrorKind::NotConnected)?;
        let mut socket = UnixDatagram::from_std(socket);
        registry.register(&mut socket, Token(token), Interest::READABLE)?;
        Ok(Self {
            flow,
            socket: Socket::Dialled(socket, end),
            readable: false,
            refused: false,
            questions: None,
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

    /// Passes datagrams on, both ways.
    pub(crate) fn turn(
        &mut self,
        state: &mut GatewayState,
        buffer: &mut [u8],
        now: Instant,
    ) -> Turn {
        self.send(state, buffer, now);
        self.receive(state, buffer, now);
        if self.refused {
            return Turn::Over;
        }
        if self.questions.as_ref().is_some_and(Questions::are_answered) {
            state.close(self.flow);
            return Turn::Over;
        }
        if self.readable {
            Turn::Unfinished
        } else {
            Turn::Waiting
        }
    }

    fn send(&mut self, state: &mut GatewayState, buffer: &mut [u8], now: Instant) {
        while let Some(length) = state.udp_recv(self.flow, buffer) {
            if let Some(questions) = &mut self.questions {
                questions.asked += 1;
            }
            // The error may be that of an earlier datagram; this one was not sent then, and is the one that the client is told of.
            if let Err(error) = self.socket.send(&buffer[..length]) {
                self.report(&error, state, now);
            }
        }
    }

    fn receive(&mut self, state: &mut GatewayState, buffer: &mut [u8], now: Instant) {
        for _ in 0..TURN {
            if !self.readable || self.refused {
                return;
            }
            match self.socket.recv(buffer) {
                Ok(length) => {
                    state.udp_send(self.flow, &buffer[..length], now);
                    if let Some(questions) = &mut self.questions {
                        questions.answered += 1;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) => self.report(&error, state, now),
            }
        }
    }

    /// Tells the client what became of its datagram; a full socket buffer is a loss like any other.
    fn report(&mut self, error: &io::Error, state: &mut GatewayState, now: Instant) {
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            return;
        }
        tracing::debug!(%error, "datagram refused");
        if let Some(questions) = &self.questions {
            state.nameserver_failed(questions.nameserver);
        }
        state.udp_refuse(self.flow, refusal::of_datagram(error), now);
        self.refused = true;
    }
}

impl Socket {
    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.send(datagram),
            Self::Dialled(socket, _) => socket.send(datagram),
        }
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.recv(buffer),
            Self::Dialled(socket, _) => socket.recv(buffer),
        }
    }
}

impl Questions {
    fn are_answered(&self) -> bool {
        self.answered >= self.asked && self.asked > 0
    }
}
