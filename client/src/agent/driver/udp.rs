//! The `udp` carrier: one socket a family, not connected, so that every candidate is reached from one port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// What is asked of the kernel for each direction, in bytes; it may grant less.
const KERNEL_BUFFER: usize = 4 << 20;
/// Longer than any datagram.
const MAX_DATAGRAM: usize = 65_536;

/// UDP sockets of the families that are there.
pub(crate) struct UdpCarrier {
    sockets: Vec<UdpSocket>,
    buffer: Box<[u8]>,
}

impl UdpCarrier {
    /// No UDP.
    pub(crate) fn none() -> Self {
        Self {
            sockets: Vec::new(),
            buffer: Box::default(),
        }
    }

    /// Sockets of both families, as far as the machine has them.
    pub(crate) fn open() -> Self {
        let families: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let sockets = families.into_iter().filter_map(|any| match open(any) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::debug!(%error, %any, "no UDP of this family");
                None
            }
        });
        Self {
            sockets: sockets.collect(),
            buffer: vec![0; MAX_DATAGRAM].into(),
        }
    }

    /// Receives at most `batch` datagrams a socket; whether there were any.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: usize,
        mut take: impl FnMut(SocketAddr, &[u8]),
    ) -> bool {
        let mut any = false;
        for socket in &self.sockets {
            for _ in 0..batch {
                let mut buffer = ReadBuf::new(&mut self.buffer);
                match socket.poll_recv_from(cx, &mut buffer) {
                    Poll::Ready(Ok(from)) => take(from, buffer.filled()),
                    // An ICMP error about an earlier datagram: the path's probes will tell.
                    Poll::Ready(Err(error)) => tracing::trace!(%error, "a UDP socket complains"),
                    Poll::Pending => break,
                }
                any = true;
            }
        }
        any
    }

    /// Sends a datagram; `false` when it was not taken: no such family, no route, a full queue.
    pub(super) fn send(&mut self, to: SocketAddr, datagram: &[u8]) -> bool {
        let family = |socket: &&UdpSocket| {
            socket
                .local_addr()
                .is_ok_and(|own| own.is_ipv4() == to.is_ipv4())
        };
        let Some(socket) = self.sockets.iter().find(family) else {
            return false;
        };
        socket.try_send_to(datagram, to).is_ok()
    }
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
    // Best effort: the kernel's limits for unprivileged sockets stand.
    let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
    let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(any, 0).into())?;
    UdpSocket::from_std(socket.into())
}
