//! The `udp` carrier: one socket a family, not connected, so that every candidate is reached from one port.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use kvpn_io::udp::{Datagrams, UdpOffload};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// UDP sockets of the families that are there.
#[derive(Default)]
pub(crate) struct UdpCarrier {
    v4: Option<Family>,
    v6: Option<Family>,
}

/// One family's socket.
struct Family {
    datagrams: Datagrams<UdpSocket>,
    /// What the socket did not take yet; nothing more is sent before it.
    held: Vec<u8>,
    /// Where to, and how long each datagram is.
    held_for: (SocketAddr, usize),
}

impl UdpCarrier {
    /// No UDP.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// Sockets of both families, as far as the machine has them; with `offload` the kernel cuts and joins datagrams.
    pub(crate) fn open(offload: bool) -> Self {
        Self {
            v4: Family::open(Ipv4Addr::UNSPECIFIED.into(), offload),
            v6: Family::open(Ipv6Addr::UNSPECIFIED.into(), offload),
        }
    }

    /// What the kernel does for us; `None` without UDP.
    pub(super) fn offload(&self) -> Option<UdpOffload> {
        let families = [&self.v4, &self.v6];
        families
            .into_iter()
            .flatten()
            .map(|family| family.datagrams.offload())
            .reduce(|one, other| UdpOffload {
                gso: one.gso && other.gso,
                gro: one.gro && other.gro,
            })
    }

    /// Receives a bounded number of datagrams of each socket; whether there were any.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(SocketAddr, &mut [u8], usize),
    ) -> bool {
        let mut any = false;
        for family in self.families() {
            any |= family.receive(cx, &mut take);
        }
        any
    }

    /// Sends datagrams that lie side by side, each `segment` bytes long but the last; `false` when they are lost: no such
    /// family, no route. What a full queue does not take is held.
    pub(super) fn send(&mut self, to: SocketAddr, datagrams: &[u8], segment: usize) -> bool {
        let family = if to.is_ipv4() {
            &mut self.v4
        } else {
            &mut self.v6
        };
        (family.as_mut()).is_some_and(|family| family.send(to, datagrams, segment))
    }

    /// Whether a socket takes no more at present: [`Self::flush`] wakes when it does.
    pub(super) fn is_blocked(&self) -> bool {
        let families = [&self.v4, &self.v6];
        families
            .into_iter()
            .flatten()
            .any(|family| !family.held.is_empty())
    }

    /// Sends what was held, as far as the sockets take it.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) {
        for family in self.families() {
            family.flush(cx);
        }
    }

    fn families(&mut self) -> impl Iterator<Item = &mut Family> {
        self.v4.iter_mut().chain(&mut self.v6)
    }
}

impl Family {
    fn open(any: IpAddr, offload: bool) -> Option<Self> {
        match open(any) {
            Ok(socket) => Some(Self {
                datagrams: Datagrams::new(socket, offload),
                held: Vec::new(),
                held_for: (SocketAddr::new(any, 0), 1),
            }),
            Err(error) => {
                tracing::debug!(%error, %any, "no UDP of this family");
                None
            }
        }
    }

    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(SocketAddr, &mut [u8], usize),
    ) -> bool {
        while self.datagrams.socket().poll_recv_ready(cx).is_ready() {
            match self.datagrams.receive(&mut take) {
                Ok(true) => return true,
                Ok(false) => {
                    self.forget_readiness();
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.forget_readiness(),
                // An ICMP error about an earlier datagram: the path's probes will tell.
                Err(error) => {
                    tracing::trace!(%error, "a UDP socket complains");
                    return true;
                }
            }
        }
        false
    }

    /// The poll tells of a socket once it has something again.
    fn forget_readiness(&self) {
        let nothing = || Err::<(), _>(ErrorKind::WouldBlock.into());
        let _ = self.datagrams.socket().try_io(Interest::READABLE, nothing);
    }

    fn send(&mut self, to: SocketAddr, datagrams: &[u8], segment: usize) -> bool {
        match try_send(&self.datagrams, to, datagrams, segment) {
            Ok(()) => true,
            Err((sent, error)) if error.kind() == ErrorKind::WouldBlock => {
                self.held.extend_from_slice(&datagrams[sent..]);
                self.held_for = (to, segment);
                true
            }
            Err((_, error)) => {
                tracing::trace!(%error, "datagrams were not sent");
                false
            }
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        let (to, segment) = self.held_for;
        while !self.held.is_empty()
            && let Poll::Ready(_) = self.datagrams.socket().poll_send_ready(cx)
        {
            match try_send(&self.datagrams, to, &self.held, segment) {
                Err((sent, error)) if error.kind() == ErrorKind::WouldBlock => {
                    self.held.drain(..sent);
                }
                Ok(()) | Err(_) => self.held.clear(),
            }
        }
    }
}

/// Through tokio, which learns so that the socket is full. On failure: how many bytes were sent, and why no more.
fn try_send(
    datagrams: &Datagrams<UdpSocket>,
    to: SocketAddr,
    bytes: &[u8],
    segment: usize,
) -> Result<(), (usize, io::Error)> {
    let mut sent = 0;
    let result = datagrams.socket().try_io(Interest::WRITABLE, || {
        datagrams.send(to, bytes, segment).map_err(|unsent| {
            sent = unsent.sent;
            unsent.error
        })
    });
    result.map_err(|error| (sent, error))
}

fn open(any: IpAddr) -> io::Result<UdpSocket> {
    let domain = if any.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if any.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(any, 0).into())?;
    UdpSocket::from_std(socket.into())
}
