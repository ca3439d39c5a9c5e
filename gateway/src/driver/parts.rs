//! The drivers' sockets, opened before their threads start, so that a taken port is said by whoever starts the gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use mio::{Interest, Poll, Waker};

use super::api::ApiCarrier;
use super::steering::Steering;
use super::tun::Tun;
use super::udp::UdpCarrier;
use super::{TUN, UDP, WAKER};
use crate::kernel::Kernel;

/// What a [`Driver`](super::Driver) is made of.
pub(crate) struct Parts {
    pub(super) poll: Poll,
    pub(super) waker: Arc<Waker>,
    pub(super) udp: UdpCarrier,
    pub(super) api: ApiCarrier,
    pub(super) tun: Option<Tun>,
    pub(super) steering: Steering,
}

/// What the drivers' sockets are opened with.
pub(crate) struct Opening {
    /// Where the `api` carrier listens.
    pub(crate) carrier: SocketAddr,
    /// Port of the `udp` carrier.
    pub(crate) udp_port: u16,
    /// Whether the kernel cuts and joins datagrams.
    pub(crate) offload: bool,
    /// How many drivers there are.
    pub(crate) count: u8,
}

impl Parts {
    /// Opens the carriers of all drivers, and registers them and the kernel's TUNs, one for each driver or none.
    ///
    /// # Errors
    /// When a port is taken.
    pub(crate) fn open(opening: &Opening, kernels: Vec<Kernel>) -> anyhow::Result<Vec<Self>> {
        let mut udps = open_udp(opening)?;
        let steering = steer(&udps[0], opening.count);
        let mut api = Some(open_api(opening.carrier)?);
        let mut kernels = kernels.into_iter();
        udps.drain(..)
            .map(|udp| Self::register(udp, api.take(), kernels.next(), steering))
            .collect()
    }

    fn register(
        mut udp: UdpCarrier,
        api: Option<ApiCarrier>,
        kernel: Option<Kernel>,
        steering: Steering,
    ) -> anyhow::Result<Self> {
        let poll = Poll::new().context("creating the poll")?;
        let registry = poll.registry();
        let waker = Waker::new(registry, WAKER).context("creating the driver's waker")?;
        registry.register(&mut udp, UDP, Interest::READABLE)?;
        let mut api = api.unwrap_or_default();
        api.listen(registry)?;
        let mut tun = kernel.map(Tun::new);
        if let Some(tun) = &mut tun {
            registry.register(tun, TUN, Interest::READABLE)?;
        }
        Ok(Self {
            poll,
            waker: Arc::new(waker),
            udp,
            api,
            tun,
            steering,
        })
    }

    /// What wakes the driver.
    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Where the `udp` carrier listens.
    pub(crate) fn udp_address(&self) -> anyhow::Result<SocketAddr> {
        self.udp.local_address().context("asking for the UDP port")
    }

    /// Where the `api` carrier listens, if it does at this driver.
    pub(crate) fn carrier_address(&self) -> anyhow::Result<SocketAddr> {
        self.api
            .local_address()
            .context("asking for the api carrier's port")
    }

    /// What the kernel does for us, in words.
    pub(crate) fn offload(&self) -> String {
        offload(self.tun.as_ref(), &self.udp, self.steering)
    }
}

/// The first socket may choose the port; its order among those of the port is its driver's number.
fn open_udp(opening: &Opening) -> anyhow::Result<Vec<UdpCarrier>> {
    let mut port = opening.udp_port;
    let mut open = || {
        let udp = UdpCarrier::open(port, opening.offload, opening.count > 1)
            .with_context(|| format!("listening on UDP port {port}"))?;
        port = udp
            .local_address()
            .context("asking for the UDP port")?
            .port();
        anyhow::Ok(udp)
    };
    (0..opening.count).map(|_| open()).collect()
}

fn open_api(carrier: SocketAddr) -> anyhow::Result<ApiCarrier> {
    ApiCarrier::open(carrier).with_context(|| format!("listening on {carrier} for the api carrier"))
}

fn steer(udp: &UdpCarrier, count: u8) -> Steering {
    if count == 1 {
        return Steering::Alone;
    }
    match udp.steer(count) {
        Ok(()) => Steering::Kernel(count),
        Err(error) => {
            tracing::warn!(%error, "the kernel cannot steer datagrams to shards: they do it themselves, which is slower");
            Steering::Drivers(count)
        }
    }
}

/// What the kernel does for us, in words.
pub(super) fn offload(tun: Option<&Tun>, udp: &UdpCarrier, steering: Steering) -> String {
    let tun = tun.map_or_else(String::new, |tun| format!("TUN {}, ", tun.offload()));
    format!("{tun}UDP {}{steering}", udp.offload())
}
