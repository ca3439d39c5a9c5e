//! Sockets that listen at all of the pod's addresses: both families where the pod has both.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, UdpSocket};

/// Listens for connections.
///
/// # Errors
/// When something else in the pod has the port.
pub(crate) async fn tcp(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(v6(port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(v4(port)).await,
    }
}

/// Listens for datagrams.
///
/// # Errors
/// As [`tcp`].
pub(crate) async fn udp(port: u16) -> io::Result<UdpSocket> {
    match UdpSocket::bind(v6(port)).await {
        Ok(socket) => Ok(socket),
        Err(_) => UdpSocket::bind(v4(port)).await,
    }
}

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}
