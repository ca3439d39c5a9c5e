//! The kernel's datapath: a TUN whose packets the kernel forwards, and masquerades as the pod.
//!
//! It needs NET_ADMIN and /dev/net/tun. What it sets up belongs to the pod's network namespace: the TUN goes with the
//! process, the nftables tables are replaced at the next start.

mod forwarding;
mod netfilter;
mod routes;
mod tun;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use kvpn_gateway_core::KernelFamilies;
use kvpn_io::tun::TunOffload;

use crate::cli::{DatapathChoice, Offload};

/// The TUN's name.
const NAME: &str = "kvpn-gw";
/// Where all tunnel addresses are.
const TUNNEL_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 19, 0, 0), 16);
const TUNNEL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd6b, 0x7670, 0x6e00, 0, 0, 0, 0, 0), 40);

/// The kernel's datapath, ready.
pub(crate) struct Kernel {
    /// The TUN, non-blocking.
    pub(crate) device: OwnedFd,
    /// How packets stand in its reads and writes.
    pub(crate) offload: TunOffload,
    /// The families that the kernel forwards; not both off.
    pub(crate) families: KernelFamilies,
}

impl Kernel {
    /// Sets the kernel's datapath up if it is wanted and possible. The note says, for users, what is not as asked.
    pub(crate) async fn open(
        choice: DatapathChoice,
        offload: Offload,
    ) -> (Option<Self>, Option<String>) {
        match choice {
            DatapathChoice::Userspace => (None, None),
            DatapathChoice::Auto => match Self::set_up(offload).await {
                Ok(kernel) => kernel.with_note(),
                Err(error) => {
                    tracing::info!("no kernel datapath: {error:#}");
                    (None, None)
                }
            },
            DatapathChoice::Kernel => match Self::set_up(offload).await {
                Ok(kernel) => kernel.with_note(),
                Err(error) => {
                    tracing::warn!("no kernel datapath: {error:#}");
                    (
                        None,
                        Some(format!("the kernel datapath is not possible: {error:#}")),
                    )
                }
            },
        }
    }

    async fn set_up(offload: Offload) -> anyhow::Result<Self> {
        let (device, offload) = tun::open(NAME, offload)?;
        routes::set_up(NAME).await?;
        let families = forwarding::enable(NAME).await?;
        anyhow::ensure!(
            families.any(),
            "forwarding is off and cannot be switched on"
        );
        netfilter::install(NAME, families).context("setting nftables rules")?;
        Ok(Self {
            device,
            offload,
            families,
        })
    }

    fn with_note(self) -> (Option<Self>, Option<String>) {
        let note = match self.families {
            KernelFamilies {
                v4: true,
                v6: false,
            } => Some("IPv6 goes through userspace: the pod's kernel does not forward it"),
            KernelFamilies {
                v4: false,
                v6: true,
            } => Some("IPv4 goes through userspace: the pod's kernel does not forward it"),
            KernelFamilies { v4: true, v6: true }
            | KernelFamilies {
                v4: false,
                v6: false,
            } => None,
        };
        (Some(self), note.map(str::to_owned))
    }
}
