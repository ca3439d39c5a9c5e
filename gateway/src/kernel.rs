//! The kernel's datapath: TUNs whose packets the kernel forwards, and masquerades as the pod. Each part of the gateway has one, and
//! the kernel routes that part's addresses into it, so that answers come to the part that has the session.
//!
//! It needs NET_ADMIN and /dev/net/tun. What it sets up belongs to the pod's network namespace: the TUNs go with the
//! process, the nftables tables are replaced at the next start.

mod forwarding;
mod netfilter;
mod routes;
mod tun;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use anyhow::Context as _;
use kvpn_gateway_core::{KernelFamilies, Shard};
use kvpn_io::tun::TunOffload;

use crate::cli::{DatapathChoice, Offload};

/// What the TUNs' names begin with; the first one's is no longer.
const NAME: &str = "kvpn-gw";
/// Where all tunnel addresses are.
const TUNNEL_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 19, 0, 0), 16);
const TUNNEL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd6b, 0x7670, 0x6e00, 0, 0, 0, 0, 0), 40);

/// One part's TUN.
pub(crate) struct Kernel {
    /// The TUN, non-blocking.
    pub(crate) device: OwnedFd,
    /// How packets stand in its reads and writes.
    pub(crate) offload: TunOffload,
}

/// The kernel's datapath of all parts.
#[derive(Default)]
pub(crate) struct Datapaths {
    /// One for each part, or none.
    pub(crate) parts: Vec<Kernel>,
    /// The families that the kernel forwards.
    pub(crate) families: KernelFamilies,
}

impl Datapaths {
    /// Sets the kernel's datapath up if it is wanted and possible. The note says, for users, what is not as asked.
    pub(crate) async fn open(
        choice: DatapathChoice,
        offload: Offload,
        shards: &[Shard],
    ) -> (Self, Option<String>) {
        match choice {
            DatapathChoice::Userspace => (Self::default(), None),
            DatapathChoice::Auto => match Self::set_up(offload, shards).await {
                Ok(kernel) => kernel.with_note(),
                Err(error) => {
                    tracing::info!("no kernel datapath: {error:#}");
                    (Self::default(), None)
                }
            },
            DatapathChoice::Kernel => match Self::set_up(offload, shards).await {
                Ok(kernel) => kernel.with_note(),
                Err(error) => {
                    tracing::warn!("no kernel datapath: {error:#}");
                    (
                        Self::default(),
                        Some(format!("the kernel datapath is not possible: {error:#}")),
                    )
                }
            },
        }
    }

    async fn set_up(offload: Offload, shards: &[Shard]) -> anyhow::Result<Self> {
        let mut parts = Vec::new();
        for &shard in shards {
            let name = name(shard);
            let (device, offload) = tun::open(&name, offload)?;
            routes::set_up(&name, shard.ranges()).await?;
            parts.push(Kernel { device, offload });
        }
        let families = forwarding::enable(NAME).await?;
        anyhow::ensure!(
            families.any(),
            "forwarding is off and cannot be switched on"
        );
        netfilter::install(NAME, families).context("setting nftables rules")?;
        Ok(Self { parts, families })
    }

    fn with_note(self) -> (Self, Option<String>) {
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
        (self, note.map(str::to_owned))
    }
}

fn name(shard: Shard) -> String {
    match shard.number() {
        0 => NAME.to_owned(),
        number => format!("{NAME}{number}"),
    }
}
