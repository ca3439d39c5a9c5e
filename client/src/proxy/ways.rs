//! How a target is reached: through the tunnel, or as programs without a proxy reach it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use kvpn_client_core::{QueryType, Resolution};
use kvpn_wire::range::{is_forbidden_destination, is_private};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UdpSocket};

use super::target::{Host, Target};
use crate::agent::driver::Handle;

/// Addresses of one name that are tried.
const MAX_TRIES: usize = 4;

/// A connection with a target.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Why a target cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    /// The cluster, or the public DNS, does not know the name.
    #[error("there is no such name, or it has no address")]
    NoAddress,
    /// The cluster did not say.
    #[error("the cluster did not answer the question for the name")]
    NoAnswer,
    /// Loopback, link-local and the like.
    #[error("no proxy leads there")]
    Forbidden,
    /// Datagrams have no other way than the tunnel.
    #[error("datagrams go to the cluster only")]
    Outside,
    /// The target, or what is before it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where a target is.
enum Way {
    Tunnel(Vec<IpAddr>),
    Direct(Vec<IpAddr>),
}

/// The ways to targets.
pub(super) struct Ways {
    driver: Handle,
}

impl Ways {
    pub(super) fn new(driver: Handle) -> Self {
        Self { driver }
    }

    /// A connection with `target`; its addresses are tried one after the other.
    pub(super) async fn connect(
        &self,
        target: &Target,
    ) -> Result<Box<dyn Connection>, Unreachable> {
        let (addresses, through_tunnel) = match self.way(target).await? {
            Way::Tunnel(addresses) => (addresses, true),
            Way::Direct(addresses) => (addresses, false),
        };
        let mut failure = Unreachable::NoAddress;
        for address in addresses.into_iter().take(MAX_TRIES) {
            let to = SocketAddr::new(address, target.port);
            let connected: io::Result<Box<dyn Connection>> = if through_tunnel {
                self.driver
                    .dial(to)
                    .await
                    .map(|stream| Box::new(stream) as _)
            } else {
                TcpStream::connect(to)
                    .await
                    .map(|stream| Box::new(stream) as _)
            };
            match connected {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }

    /// A socket for datagrams to `target`, and the address that it stands for.
    pub(super) async fn open(
        &self,
        target: &Target,
    ) -> Result<(UdpSocket, SocketAddr), Unreachable> {
        let Way::Tunnel(addresses) = self.way(target).await? else {
            return Err(Unreachable::Outside);
        };
        let mut failure = Unreachable::NoAddress;
        for address in addresses.into_iter().take(MAX_TRIES) {
            let to = SocketAddr::new(address, target.port);
            match self.driver.dial_udp(to).await {
                Ok(socket) => return Ok((socket, to)),
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }

    async fn way(&self, target: &Target) -> Result<Way, Unreachable> {
        match &target.host {
            Host::Address(address) if is_forbidden_destination(*address) => {
                Err(Unreachable::Forbidden)
            }
            Host::Address(address) if is_private(*address) => Ok(Way::Tunnel(vec![*address])),
            Host::Address(address) => Ok(Way::Direct(vec![*address])),
            Host::Name(name) => self.way_of_name(name).await,
        }
    }

    async fn way_of_name(&self, name: &str) -> Result<Way, Unreachable> {
        let (v4, v6) = tokio::join!(
            self.driver.resolve(name, QueryType::A),
            self.driver.resolve(name, QueryType::Aaaa)
        );
        let mut addresses = Vec::new();
        let mut failed = false;
        for resolution in [v4, v6] {
            match resolution {
                Resolution::Addresses(found) => addresses.extend(found),
                Resolution::NoData | Resolution::NoName => {}
                Resolution::Refused => return elsewhere(name).await,
                Resolution::Failed => failed = true,
            }
        }
        addresses.retain(|address| !is_forbidden_destination(*address));
        match (addresses.is_empty(), failed) {
            (false, _) => Ok(Way::Tunnel(addresses)),
            (true, true) => Err(Unreachable::NoAnswer),
            (true, false) => Err(Unreachable::NoAddress),
        }
    }
}

/// A name that is not the cluster's.
async fn elsewhere(name: &str) -> Result<Way, Unreachable> {
    let found = tokio::net::lookup_host((name, 0)).await;
    let found = found.map_err(|_| Unreachable::NoAddress)?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    if !addresses.is_empty()
        && addresses
            .iter()
            .all(|address| is_forbidden_destination(*address))
    {
        return Err(Unreachable::Forbidden);
    }
    let allowed = addresses.into_iter();
    let allowed = allowed.filter(|address| !is_forbidden_destination(*address));
    Ok(Way::Direct(allowed.collect()))
}
