//! The driver's sockets, opened before its thread starts, so that a taken port is said by whoever starts the gateway.

use std::net::SocketAddr;

use anyhow::Context as _;
use kvpn_gateway_core::KernelFamilies;
use mio::{Interest, Poll, Waker};

use super::api::ApiCarrier;
use super::tun::Tun;
use super::udp::UdpCarrier;
use super::{LISTENER, TUN, UDP, WAKER};
use crate::kernel::Kernel;

/// What a [`Driver`](super::Driver) is made of.
pub(crate) struct Parts {
    pub(super) poll: Poll,
    pub(super) udp: UdpCarrier,
    pub(super) api: ApiCarrier,
    pub(super) tun: Option<Tun>,
    families: KernelFamilies,
}

impl Parts {
    /// Opens the carriers, and registers them and the kernel's TUN.
    ///
    /// # Errors
    /// When a port is taken.
    pub(crate) fn open(
        carrier: SocketAddr,
        udp_port: u16,
        kernel: Option<Kernel>,
        offload: bool,
    ) -> anyhow::Result<Self> {
        let poll = Poll::new().context("creating the poll")?;
        let registry = poll.registry();
        let mut udp = UdpCarrier::open(udp_port, offload)
            .with_context(|| format!("listening on UDP port {udp_port}"))?;
        registry.register(&mut udp, UDP, Interest::READABLE)?;
        let mut api = ApiCarrier::open(carrier)
            .with_context(|| format!("listening on {carrier} for the api carrier"))?;
        registry.register(&mut api, LISTENER, Interest::READABLE)?;
        let families = kernel
            .as_ref()
            .map_or_else(KernelFamilies::default, |kernel| kernel.families);
        let mut tun = kernel.map(Tun::new);
        if let Some(tun) = &mut tun {
            registry.register(tun, TUN, Interest::READABLE)?;
        }
        Ok(Self {
            poll,
            udp,
            api,
            tun,
            families,
        })
    }

    /// What wakes the driver.
    pub(crate) fn waker(&self) -> anyhow::Result<Waker> {
        Waker::new(self.poll.registry(), WAKER).context("creating the driver's waker")
    }

    /// Where the `udp` carrier listens.
    pub(crate) fn udp_address(&self) -> anyhow::Result<SocketAddr> {
        self.udp.local_address().context("asking for the UDP port")
    }

    /// Where the `api` carrier listens.
    pub(crate) fn carrier_address(&self) -> anyhow::Result<SocketAddr> {
        self.api
            .local_address()
            .context("asking for the api carrier's port")
    }

    /// What the kernel does for us, in words.
    pub(crate) fn offload(&self) -> String {
        offload(self.tun.as_ref(), &self.udp)
    }

    /// The families that the kernel forwards.
    pub(crate) fn kernel_families(&self) -> KernelFamilies {
        self.families
    }
}

/// What the kernel does for us, in words.
pub(super) fn offload(tun: Option<&Tun>, udp: &UdpCarrier) -> String {
    let tun = tun.map_or_else(String::new, |tun| format!("TUN {}, ", tun.offload()));
    format!("{tun}UDP {}", udp.offload())
}
