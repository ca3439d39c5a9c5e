//! What the shell tells the core once, at the start. Nothing is read from anywhere else.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use kvpn_wire::control::ClusterFacts;

use crate::shard::Shard;

/// The gateway's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where keys, session indices, ids and sequence numbers come from: 32 bytes of the operating system's
    /// random source in production, fixed in tests.
    pub seed: [u8; 32],
    /// Which of the gateway's sessions are this state's. The WireGuard key is the same for all with one seed.
    pub shard: Shard,
    /// The gateway's release, as sessions are told.
    pub version: String,
    /// What the gateway sees of its cluster. Its pod and node addresses are what policy refuses.
    pub cluster: ClusterFacts,
    /// Where DNS is relayed to, in order of preference: the pod's own nameservers.
    pub nameservers: Vec<SocketAddr>,
    /// Ranges that the admin allows although policy would refuse them. Tunnel addresses stay refused.
    pub allow: Vec<IpNetwork>,
    /// Whether node addresses may be reached.
    pub allow_nodes: bool,
    /// The families that go through the kernel's datapath; the others go through userspace.
    pub kernel: KernelFamilies,
    /// Why the datapath is not the one that was asked for, in words for the user.
    pub datapath_note: Option<String>,
    /// UDP port of the `udp` carrier in the pod.
    pub udp_port: u16,
    /// Addresses outside at which that port may answer.
    pub udp_endpoints: Vec<SocketAddr>,
    /// Bounds.
    pub limits: Limits,
}

/// Which families the kernel forwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelFamilies {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl KernelFamilies {
    /// Whether the kernel forwards at least one family.
    pub fn any(self) -> bool {
        self.v4 || self.v6
    }

    /// Whether the kernel forwards the family of `address`.
    pub(crate) fn forwards(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}

/// Bounds of one gateway and of each session.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sessions at the same time; at most 16,382, the address blocks there are.
    pub max_sessions: usize,
    /// Flows of one session at the same time (userspace).
    pub max_flows: u32,
    /// A session that is not renewed for this long ends.
    pub lease: Duration,
    /// Most bytes of buffer each way of a TCP flow (userspace).
    pub tcp_buffer: usize,
    /// Bytes that the buffers of all TCP flows may hold together (userspace): sessions that have flows share them evenly.
    /// Of the pod's 512 MiB the rest is for sockets, queues and the least that every flow gets.
    pub tcp_memory: usize,
    /// A UDP flow without a datagram for this long ends (userspace).
    pub udp_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 1024,
            max_flows: 4096,
            lease: Duration::from_secs(15 * 60),
            tcp_buffer: 4 << 20,
            tcp_memory: 192 << 20,
            udp_idle: Duration::from_secs(120),
        }
    }
}
