//! Where a session's datagrams come from and go to. Names only: the sockets behind them are the shell's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// One stream of the `api` carrier; the shell numbers them and never uses a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// One way to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// The `api` carrier.
    Api(StreamId),
    /// The `udp` carrier; IPv4 addresses in their own form, never mapped into IPv6.
    Udp(SocketAddr),
}

impl Path {
    /// The address that WireGuard's cookies are bound to; a stream has none.
    pub(crate) fn source(self) -> Option<IpAddr> {
        match self {
            Self::Api(_) => None,
            Self::Udp(address) => Some(address.ip()),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(_) => f.write_str("api"),
            Self::Udp(address) => write!(f, "udp {address}"),
        }
    }
}

/// WireGuard datagrams that the shell is to send, side by side.
pub type Transmit<'a> = kvpn_wire::queue::Transmit<'a, Path>;
