//! What leaves the core, waiting to be polled: datagrams, packets for the kernel, events; and counts of
//! what was dropped on the way. All queues are bounded.

use std::collections::{BTreeMap, VecDeque};

use kvpn_wire::offload::{Abilities, Coalescer, MAX_PACKET, trailer};
use kvpn_wire::queue::BatchQueue;
use kvpn_wire::wireguard::Reason;

use crate::config::KernelFamilies;
use crate::event::Event;
use crate::path::Path;
use crate::policy::Forbidden;

/// Packets and bytes of each of the two queues. Two batches of a busy socket fit.
const QUEUE_PACKETS: usize = 1024;
const QUEUE_BYTES: usize = 1 << 20;

/// Why a datagram or a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// No WireGuard message, or an inner packet that is no IP packet.
    Malformed,
    /// A datagram for a session that does not exist (any more).
    UnknownSession,
    /// A datagram that the WireGuard session rejected.
    Rejected(Reason),
    /// An inner packet whose source is not the session's own address.
    ForgedSource,
    /// An inner packet to what policy refuses.
    Forbidden(Forbidden),
    /// A packet from the TUN to an address that no session has.
    UnknownAddress,
    /// A packet to a client whose path is not known (yet).
    NoPath,
    /// A queue was full.
    QueueFull,
    /// A session sent more than the gateway could open beside what others sent.
    Overloaded,
    /// A flow's packets waited too long; the loss tells it to slow down.
    Congested,
    /// The WireGuard session could not seal the packet.
    Unsealed,
    /// A packet longer than the client's path carries, which its sender forbids to cut.
    TooLong,
}

impl DropReason {
    /// The reason as metrics and `kvpn status` name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownSession => "unknown_session",
            Self::Rejected(Reason::Malformed) => "wireguard_malformed",
            Self::Rejected(Reason::ShortBuffer) => "wireguard_short_buffer",
            Self::Rejected(Reason::Unknown) => "wireguard_unknown",
            Self::Rejected(Reason::Expired) => "wireguard_expired",
            Self::Rejected(Reason::Replayed) => "wireguard_replayed",
            Self::Rejected(Reason::Forged) => "wireguard_forged",
            Self::Rejected(Reason::WrongPeer) => "wireguard_wrong_peer",
            Self::Rejected(Reason::Loaded) => "wireguard_loaded",
            Self::ForgedSource => "forged_source",
            Self::Forbidden(Forbidden::Loopback) => "forbidden_loopback",
            Self::Forbidden(Forbidden::Unspecified) => "forbidden_unspecified",
            Self::Forbidden(Forbidden::Multicast) => "forbidden_multicast",
            Self::Forbidden(Forbidden::Broadcast) => "forbidden_broadcast",
            Self::Forbidden(Forbidden::LinkLocal) => "forbidden_link_local",
            Self::Forbidden(Forbidden::GatewayPod) => "forbidden_gateway_pod",
            Self::Forbidden(Forbidden::Tunnel) => "forbidden_tunnel",
            Self::Forbidden(Forbidden::Node) => "forbidden_node",
            Self::Forbidden(Forbidden::Mapped) => "forbidden_mapped",
            Self::Forbidden(Forbidden::SourceRoute) => "forbidden_source_route",
            Self::UnknownAddress => "unknown_address",
            Self::NoPath => "no_path",
            Self::QueueFull => "queue_full",
            Self::Overloaded => "overloaded",
            Self::Congested => "congested",
            Self::Unsealed => "unsealed",
            Self::TooLong => "too_long",
        }
    }
}

/// How often each [`DropReason`] happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drops(BTreeMap<DropReason, u64>);

impl Drops {
    /// Counts one.
    pub(crate) fn count(&mut self, drop: DropReason) {
        *self.0.entry(drop).or_default() += 1;
    }

    /// Adds all that `other` counted.
    pub(crate) fn add(&mut self, other: &Self) {
        for (drop, count) in other.iter() {
            *self.0.entry(drop).or_default() += count;
        }
    }

    /// How often `drop` happened.
    pub fn of(&self, drop: DropReason) -> u64 {
        self.0.get(&drop).copied().unwrap_or(0)
    }

    /// All that happened at least once.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        self.0.iter().map(|(&drop, &count)| (drop, count))
    }
}

/// What passed and what did not since the gateway started, over all sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Inner packets to clients.
    pub(crate) sent_packets: u64,
    /// Their bytes.
    pub(crate) sent_bytes: u64,
    /// Inner packets from clients.
    pub(crate) received_packets: u64,
    /// Their bytes.
    pub(crate) received_bytes: u64,
    /// Sessions ever created.
    pub(crate) sessions: u64,
    /// What was dropped.
    pub(crate) drops: Drops,
}

/// The outgoing queues.
#[derive(Debug)]
pub(crate) struct Output {
    /// Sealed datagrams for the carriers.
    pub(crate) datagrams: BatchQueue<Path>,
    /// Inner packets for the kernel datapath's TUN.
    pub(crate) packets: Coalescer,
    /// The families that have that TUN.
    pub(crate) kernel: KernelFamilies,
    /// Where super-packets are cut, and where they get their trailer; kept to spare an allocation.
    pub(crate) piece: Vec<u8>,
    pub(crate) plaintext: Vec<u8>,
    /// What the shell is to know. Bounded by the flows there are: a flow repeats no event before it was answered.
    pub(crate) events: VecDeque<Event>,
    /// Counts over all sessions.
    pub(crate) totals: Totals,
}

impl Output {
    pub(crate) fn new(kernel: KernelFamilies) -> Self {
        Self {
            datagrams: BatchQueue::new(QUEUE_PACKETS, QUEUE_BYTES),
            packets: Coalescer::new(QUEUE_BYTES, QUEUE_PACKETS, Abilities::default()),
            kernel,
            piece: vec![0; MAX_PACKET],
            plaintext: vec![0; trailer::MAX_PLAINTEXT],
            events: VecDeque::new(),
            totals: Totals::default(),
        }
    }
}
