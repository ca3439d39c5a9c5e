//! The `udp` carrier: one socket a family, not connected, so that every candidate is reached from one port.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Context;

use kvpn_io::udp::{Datagrams, UdpOffload};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

use crate::agent::driver::watch::{
    Watched, forget_readiness, has_arrivals, has_room, watch_arrivals, watch_room,
};

/// UDP sockets of the families that are there.
#[derive(Default)]
pub(crate) struct UdpCarrier {
    v4: Option<Family>,
    v6: Option<Family>,
}

/// One family's socket.
struct Family {
    /// Watched for what comes.
    datagrams: Datagrams<Watched>,
    /// The same socket, watched for room while something is held.
    room: Option<Watched>,
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
                room: None,
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
        while has_arrivals(self.datagrams.socket(), cx) {
            match self.datagrams.receive(&mut take) {
                Ok(true) => return true,
                Ok(false) => {
                    forget_readiness(self.datagrams.socket(), Interest::READABLE);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    forget_readiness(self.datagrams.socket(), Interest::READABLE);
                }
                // An ICMP error about an earlier datagram: the path's probes will tell.
                Err(error) => {
                    tracing::trace!(%error, "a UDP socket complains");
                    return true;
                }
            }
        }
        false
    }

    fn send(&mut self, to: SocketAddr, datagrams: &[u8], segment: usize) -> bool {
        match self.datagrams.send(to, datagrams, segment) {
            Ok(()) => true,
            Err(unsent) if unsent.error.kind() == ErrorKind::WouldBlock => {
                self.held.extend_from_slice(&datagrams[unsent.sent..]);
                self.held_for = (to, segment);
                true
            }
            Err(unsent) => {
                tracing::trace!(error = %unsent.error, "datagrams were not sent");
                false
            }
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) {
        if self.held.is_empty() {
            return;
        }
        let (to, segment) = self.held_for;
        while !self.held.is_empty() && self.may_have_room(cx) {
            match self.datagrams.send(to, &self.held, segment) {
                Err(unsent) if unsent.error.kind() == ErrorKind::WouldBlock => {
                    self.held.drain(..unsent.sent);
                    self.watch_for_room();
                }
                Ok(()) | Err(_) => self.held.clear(),
            }
        }
        if self.held.is_empty() {
            self.room = None;
        }
    }

    /// Whether it is worth a try; if not, there will be a wake.
    fn may_have_room(&self, cx: &mut Context<'_>) -> bool {
        let Some(room) = &self.room else { return true };
        let ready = has_room(room, cx);
        if ready {
            forget_readiness(room, Interest::WRITABLE);
        }
        ready
    }

    fn watch_for_room(&mut self) {
        if self.room.is_some() {
            return;
        }
        match watch_room(self.datagrams.socket()) {
            Ok(room) => self.room = Some(room),
            Err(error) => {
                tracing::warn!(%error, "a full UDP socket cannot be watched; datagrams are lost");
                self.held.clear();
            }
        }
    }
}

fn open(any: IpAddr) -> io::Result<Watched> {
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
    watch_arrivals(socket)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
