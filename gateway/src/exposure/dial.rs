//! Reaching laptops and the origin: what the caller supplies, and the rules around it (time limits, the PROXY header,
//! no second wait for a laptop that has just been silent). How a laptop is reached is the caller's business.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tokio::time::Instant;

use super::choice::{Claim, Owner};
use super::shared::Shared;

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The program on this owner's laptop.
    Laptop(Owner),
    /// The pods that the Service had before.
    Origin,
}

/// How laptops and the origin are reached, for one port of one exposure.
pub trait Dial: Send + Sync + 'static {
    /// A connection to `to`, once the program there has accepted it. `client` is who asks, for those that can pass it on.
    ///
    /// # Errors
    /// When there is none, `ConnectionRefused` where a program does not listen.
    fn dial<'a>(
        &'a self,
        to: &'a Target,
        client: SocketAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>>;

    /// A way for datagrams to `to` and back.
    ///
    /// # Errors
    /// When there is none.
    fn dial_udp<'a>(
        &'a self,
        to: &'a Target,
        client: SocketAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn Datagrams>>>;
}

/// A connection to a laptop or the origin.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Ends it so that the other side sees a reset, where the transport has such a thing.
    fn reset(self: Box<Self>);
}

/// Datagrams to and from one place, for one client.
pub trait Datagrams: Send + Sync + 'static {
    /// Sends one datagram.
    ///
    /// # Errors
    /// `ConnectionRefused` when an earlier one found no program.
    fn poll_send(&self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<usize>>;

    /// Receives one datagram.
    ///
    /// # Errors
    /// As [`poll_send`](Self::poll_send); `BrokenPipe` when nothing can come any more.
    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;
}

impl Stream for TcpStream {
    fn reset(self: Box<Self>) {
        // Without it the connection just closes.
        drop(self.set_zero_linger());
    }
}

impl Stream for UnixStream {
    fn reset(self: Box<Self>) {}
}

impl Stream for tokio::io::DuplexStream {
    fn reset(self: Box<Self>) {}
}

/// tokio wakes no reader for an ICMP error: the next datagram sent tells of it.
impl Datagrams for UdpSocket {
    fn poll_send(&self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, datagram)
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_recv(cx, buffer)
    }
}

/// The two ends of a client's connection: who it is, and where it arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
}

/// Laptops that let a connection attempt run into its time limit, and when. A laptop that refuses costs nothing; one that
/// is silent would hold up each request for the whole limit.
#[derive(Debug, Default)]
pub(super) struct Silence(Mutex<BTreeMap<Owner, Instant>>);

impl Silence {
    fn is_recent(&self, owner: &Owner) -> bool {
        let mut silent = self.0.lock().expect("nothing panics while it is held");
        silent.retain(|_, since| since.elapsed() < SILENCE);
        silent.contains_key(owner)
    }

    fn note(&self, owner: &Owner) {
        let mut silent = self.0.lock().expect("nothing panics while it is held");
        silent.insert(owner.clone(), Instant::now());
    }
}

impl Shared {
    /// A connection to the laptop of `claim`, the PROXY header sent.
    pub(super) async fn dial_laptop(
        &self,
        claim: &Claim,
        addresses: Addresses,
    ) -> io::Result<Box<dyn Stream>> {
        if claim.fallback && self.silence.is_recent(&claim.owner) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let target = Target::Laptop(claim.owner.clone());
        let header = claim
            .proxy_protocol
            .map(|version| version.header(addresses.client, addresses.server));
        let dialled = async {
            let mut stream = self.settings.dial.dial(&target, addresses.client).await?;
            if let Some(header) = header {
                stream.write_all(&header).await?;
            }
            Ok(stream)
        };
        let dialled = within(self.settings.limits.laptop_dial, dialled).await;
        if let Err(error) = &dialled
            && error.kind() == io::ErrorKind::TimedOut
        {
            self.silence.note(&claim.owner);
        }
        dialled
    }

    /// A connection to the origin.
    pub(super) async fn dial_origin(&self, addresses: Addresses) -> io::Result<Box<dyn Stream>> {
        let dialled = self.settings.dial.dial(&Target::Origin, addresses.client);
        within(self.settings.limits.origin_dial, dialled).await
    }
}

pub(super) async fn within<T>(
    limit: Duration,
    dialled: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match tokio::time::timeout(limit, dialled).await {
        Ok(dialled) => dialled,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// For how long a silent laptop is not asked again: after that time whoever decides about sessions knows that it is gone.
const SILENCE: Duration = Duration::from_secs(5);
