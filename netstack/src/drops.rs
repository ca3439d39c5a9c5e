//! Counts of what was dropped, by reason. Counting only: who reads them decides what they mean.

/// What a [`Netstack`](crate::Netstack) dropped since it was made, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drops {
    /// Packets that are no valid IPv4 or IPv6 packet, or whose TCP, UDP or ICMP part is not.
    pub malformed: u64,
    /// Packets of a kind that has no flows here: other protocols, ICMP other than echo requests.
    pub unsupported: u64,
    /// Packets whose source or destination cannot be an end of a flow (multicast, broadcast, unspecified).
    pub unaddressable: u64,
    /// Fragments that could not be put together: late, overlapping, too many.
    pub fragments: u64,
    /// First packets of flows beyond [`Config::max_flows`](crate::Config::max_flows).
    pub flows_full: u64,
    /// SYNs beyond the bound on flows that still open.
    pub half_open_full: u64,
    /// Datagrams and echo requests that their flow's queue had no room for.
    pub flow_queue_full: u64,
    /// Emitted packets that the output queue had no room for.
    pub output_full: u64,
    /// Segments that there was no memory for.
    pub memory_full: u64,
    /// Datagrams to emit that no IP packet can carry.
    pub oversized: u64,
    /// Segments to no flow, of a kind that is not answered.
    pub unknown: u64,
}

impl Drops {
    /// Every counter with its name, as metrics want them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("malformed", self.malformed),
            ("unsupported", self.unsupported),
            ("unaddressable", self.unaddressable),
            ("fragments", self.fragments),
            ("flows_full", self.flows_full),
            ("half_open_full", self.half_open_full),
            ("flow_queue_full", self.flow_queue_full),
            ("output_full", self.output_full),
            ("memory_full", self.memory_full),
            ("oversized", self.oversized),
            ("unknown", self.unknown),
        ]
        .into_iter()
    }
}
