//! What a kernel does with a TUN's packets, and reading and writing them where a TUN is a descriptor.

use std::fmt;

use kvpn_wire::offload::Abilities;
use serde::{Deserialize, Serialize};

#[cfg(unix)]
mod packets;

#[cfg(unix)]
pub use packets::{Packets, open};

/// What the kernel does with a TUN's packets for its owner, beginning with the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunOffload {
    /// Single packets without a header.
    #[default]
    Plain,
    /// TCP segments in one.
    Tcp,
    /// TCP and UDP segments in one.
    TcpAndUdp,
}

impl TunOffload {
    /// What may be written to the TUN in one.
    pub fn abilities(self) -> Abilities {
        Abilities {
            tcp: self >= Self::Tcp,
            udp: self == Self::TcpAndUdp,
        }
    }
}

impl fmt::Display for TunOffload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "none",
            Self::Tcp => "TSO",
            Self::TcpAndUdp => "TSO+USO",
        })
    }
}
