//! How one port of a Service reaches the laptops that take it, and its origin.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kvpn_gateway_core::SessionIndex;
use kvpn_wire::control::{Expose, ListeningPort};
use tokio::net::{TcpStream, UdpSocket};

use super::kubernetes::Kubernetes;
use super::view::owner;
use crate::commands::Commands;
use crate::exposure::{Claim, Counters, Datagrams, Dial, Owner, ProxyProtocol, Stream, Target};

/// The pods behind an origin are there before it is needed, but the nodes hear of them a moment later: until it has answered once, a
/// refusal is not believed so soon.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause before it is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// A laptop that takes traffic of a port.
pub(super) struct Laptop {
    pub(super) claim: Claim,
    session: SessionIndex,
    port: u16,
}

impl Laptop {
    /// The part of a session in a port; `None` if it has none.
    pub(super) fn of(
        fingerprint: &str,
        session: SessionIndex,
        expose: &Expose,
        served: ListeningPort,
        counters: &Arc<Counters>,
    ) -> Option<Self> {
        let mut ports = expose.ports.iter();
        let port = ports.find(|port| (port.port, port.protocol) == (served.port, served.protocol));
        Some(Self {
            claim: Claim {
                owner: owner(fingerprint, expose),
                traffic: expose.traffic.clone(),
                fallback: expose.fallback && expose.origin.is_some(),
                proxy_protocol: expose.proxy_protocol.then_some(ProxyProtocol::V2),
                counters: Arc::clone(counters),
            },
            session,
            port: port?.laptop_port?,
        })
    }
}

/// The way to the origin of a Service: a Service too, whose address does not change.
#[derive(Debug)]
pub(super) struct Origin {
    kubernetes: Kubernetes,
    namespace: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The origin's Service; `None`: there is no origin.
    service: Option<String>,
    address: Option<IpAddr>,
    /// It has answered once.
    proven: bool,
}

impl Origin {
    pub(super) fn new(kubernetes: Kubernetes, namespace: String) -> Self {
        Self {
            kubernetes,
            namespace,
            known: Mutex::default(),
        }
    }

    /// The origin is behind this Service.
    pub(super) fn set(&self, service: &str) {
        let mut known = self.known();
        if known.service.as_deref() != Some(service) {
            *known = Known {
                service: Some(service.to_owned()),
                ..Known::default()
            };
        }
    }

    /// Whether there is an origin whose address is not known yet.
    pub(super) fn is_unknown(&self) -> bool {
        let known = self.known();
        known.service.is_some() && known.address.is_none()
    }

    /// Its address, which is asked for once. With the API server away later, it is known.
    pub(super) async fn address(&self) -> io::Result<IpAddr> {
        let service = {
            let known = self.known();
            if let Some(address) = known.address {
                return Ok(address);
            }
            let none = || io::Error::new(io::ErrorKind::ConnectionRefused, "there is no origin");
            known.service.clone().ok_or_else(none)?
        };
        let found = self.kubernetes.addresses_of(&self.namespace, &service);
        let address = found.await.into_iter().next();
        self.known().address = address;
        address.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the origin's Service has no address",
            )
        })
    }

    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let address = SocketAddr::new(self.address().await?, port);
        if self.known().proven {
            return TcpStream::connect(address).await;
        }
        let begun = tokio::time::Instant::now();
        loop {
            match TcpStream::connect(address).await {
                Err(_) if begun.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
                connected => {
                    self.known().proven = connected.is_ok();
                    return connected;
                }
            }
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ways from one port of a Service.
pub(super) struct PortDial {
    commands: Commands,
    origin: Arc<Origin>,
    port: u16,
    /// Asked once a connection.
    laptops: Mutex<BTreeMap<Owner, (SessionIndex, u16)>>,
}

impl PortDial {
    pub(super) fn new(commands: Commands, origin: Arc<Origin>, port: u16) -> Self {
        Self {
            commands,
            origin,
            port,
            laptops: Mutex::default(),
        }
    }

    /// From now on these laptops are there.
    pub(super) fn set_laptops(&self, laptops: &[Laptop]) {
        let by_owner = laptops
            .iter()
            .map(|laptop| (laptop.claim.owner.clone(), (laptop.session, laptop.port)));
        let mut held = self.laptops.lock().unwrap_or_else(PoisonError::into_inner);
        *held = by_owner.collect();
    }

    fn laptop(&self, owner: &Owner) -> io::Result<(SessionIndex, u16)> {
        let laptops = self.laptops.lock().unwrap_or_else(PoisonError::into_inner);
        laptops
            .get(owner)
            .copied()
            .ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }
}

impl Dial for PortDial {
    fn dial<'a>(
        &'a self,
        to: &'a Target,
        _client: SocketAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        async move {
            match to {
                Target::Laptop(owner) => {
                    let (session, port) = self.laptop(owner)?;
                    let stream = self.commands.dial(session, port).await?;
                    Ok(Box::new(stream) as Box<dyn Stream>)
                }
                Target::Origin => {
                    let stream = self.origin.connect(self.port).await?;
                    stream.set_nodelay(true)?;
                    Ok(Box::new(stream) as Box<dyn Stream>)
                }
            }
        }
        .boxed()
    }

    fn dial_udp<'a>(
        &'a self,
        to: &'a Target,
        _client: SocketAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn Datagrams>>> {
        async move {
            match to {
                Target::Laptop(owner) => {
                    let (session, port) = self.laptop(owner)?;
                    let datagrams = self.commands.dial_udp(session, port)?;
                    Ok(Box::new(datagrams) as Box<dyn Datagrams>)
                }
                Target::Origin => {
                    let address = self.origin.address().await?;
                    let any: IpAddr = match address {
                        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                    };
                    let socket = UdpSocket::bind((any, 0)).await?;
                    socket.connect((address, self.port)).await?;
                    Ok(Box::new(socket) as Box<dyn Datagrams>)
                }
            }
        }
        .boxed()
    }
}
