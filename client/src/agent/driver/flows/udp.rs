//! One UDP flow's socket: connected with the program, so that the kernel sorts answers and tells that nobody listens.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use kvpn_client_core::ClientState;
use kvpn_netstack::{FlowId, Refusal};
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio_util::sync::ReusableBoxFuture;

use super::Turn;
use super::program::ADDRESSES;

/// Datagrams back before others have their turn.
const TURN: usize = 64;

/// A UDP flow's socket.
pub(super) struct UdpFlow {
    flow: FlowId,
    socket: Arc<UdpSocket>,
    waker: Waker,
    /// Done when the socket has news; the same memory serves every wait.
    news: ReusableBoxFuture<'static, ()>,
    /// Where else the program may listen, and what is to be said there: the last datagram, until the first answer.
    elsewhere: Option<(SocketAddr, Vec<u8>)>,
    /// A program on the laptop is at the end of it, and not this process.
    with_program: bool,
    /// The peer was told that nobody listens, and with that the flow is gone.
    refused: bool,
}

impl UdpFlow {
    /// Opens a socket to the program at `port`.
    pub(super) fn open(flow: FlowId, port: u16, waker: Waker) -> io::Result<Self> {
        let [first, second] = ADDRESSES.map(|address| SocketAddr::new(address, port));
        Ok(Self {
            elsewhere: Some((second, Vec::new())),
            with_program: true,
            ..Self::paired(flow, connect(first)?, waker)
        })
    }

    /// Takes over a socket that is connected with whoever in this process dialled.
    pub(super) fn paired(flow: FlowId, socket: UdpSocket, waker: Waker) -> Self {
        let socket = Arc::new(socket);
        Self {
            flow,
            news: ReusableBoxFuture::new(news_of(Arc::clone(&socket))),
            socket,
            waker,
            elsewhere: None,
            with_program: false,
            refused: false,
        }
    }

    /// Whether a program on the laptop is at the end of it, and not this process.
    pub(super) fn is_with_program(&self) -> bool {
        self.with_program
    }

    /// Passes datagrams on, both ways.
    pub(super) fn turn(
        &mut self,
        state: &mut ClientState,
        buffer: &mut [u8],
        now: Instant,
    ) -> Turn {
        while let Some(length) = state.udp_recv(self.flow, buffer) {
            self.send(&buffer[..length], state, now);
        }
        let received = self.receive(state, buffer, now);
        if self.refused { Turn::Over } else { received }
    }

    fn send(&mut self, datagram: &[u8], state: &mut ClientState, now: Instant) {
        if let Some((_, last)) = &mut self.elsewhere {
            last.clear();
            last.extend_from_slice(datagram);
        }
        // An error may be that of an earlier datagram; this one was not sent then.
        if let Err(error) = rustix::net::send(&self.socket, datagram, SendFlags::empty()) {
            self.report(&error.into(), state, now);
        }
    }

    fn receive(&mut self, state: &mut ClientState, buffer: &mut [u8], now: Instant) -> Turn {
        for _ in 0..TURN {
            if self.refused {
                return Turn::Over;
            }
            match self.try_receive(buffer) {
                Ok(length) => {
                    self.elsewhere = None;
                    state.udp_send(self.flow, &buffer[..length], now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.has_news() {
                        return Turn::Waiting;
                    }
                }
                Err(error) => self.report(&error, state, now),
            }
        }
        Turn::Unfinished
    }

    /// Each kind of readiness is asked for by itself: tokio answers for no two at once.
    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut received = Err(ErrorKind::WouldBlock.into());
        for interest in [Interest::READABLE, Interest::ERROR] {
            received = self.socket.try_io(interest, || {
                let flags = RecvFlags::empty();
                let (length, _) = rustix::net::recv(&self.socket, &mut *buffer, flags)?;
                Ok(length)
            });
            if !matches!(&received, Err(error) if error.kind() == ErrorKind::WouldBlock) {
                break;
            }
        }
        received
    }

    /// If not, the flow's waker is called when it has.
    fn has_news(&mut self) -> bool {
        let cx = &mut Context::from_waker(&self.waker);
        let ready = self.news.poll(cx).is_ready();
        if ready {
            self.news.set(news_of(Arc::clone(&self.socket)));
        }
        ready
    }

    /// Nobody listens: says the last datagram again where somebody may, or tells the peer. A full socket buffer is a loss like any
    /// other.
    fn report(&mut self, error: &io::Error, state: &mut ClientState, now: Instant) {
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            return;
        }
        if let Some((address, last)) = self.elsewhere.take()
            && let Ok(socket) = connect(address)
        {
            self.socket = Arc::new(socket);
            self.news.set(news_of(Arc::clone(&self.socket)));
            if rustix::net::send(&self.socket, &last, SendFlags::empty()).is_ok() {
                return;
            }
        }
        tracing::debug!(%error, "no program for a datagram");
        state.udp_refuse(self.flow, Refusal::PortUnreachable, now);
        self.refused = true;
    }
}

/// Waits for an answer, or for the news that there is none: that comes as an error alone, which readers are not woken for.
async fn news_of(socket: Arc<UdpSocket>) {
    // It fails when the runtime ends.
    let _ = socket.ready(Interest::READABLE | Interest::ERROR).await;
}

/// Two sockets on loopback that are connected with each other.
pub(super) fn pair() -> io::Result<[UdpSocket; 2]> {
    let [ours, theirs] = [bind(ADDRESSES[0])?, bind(ADDRESSES[0])?];
    ours.connect(theirs.local_addr()?)?;
    theirs.connect(ours.local_addr()?)?;
    Ok([watch(ours)?, watch(theirs)?])
}

fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bind(to.ip())?;
    socket.connect(to)?;
    watch(socket)
}

fn bind(address: IpAddr) -> io::Result<std::net::UdpSocket> {
    std::net::UdpSocket::bind(SocketAddr::new(address, 0))
}

fn watch(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
