//! What a caller chooses about a [`Netstack`](crate::Netstack). Nothing is read from anywhere else.

use std::time::Duration;

/// The limits and the seed of one [`Netstack`](crate::Netstack).
#[derive(Debug, Clone)]
pub struct Config {
    /// Longest IP packet that may be emitted, in bytes: at least 1,200, at most 65,535. Below IPv6's 1280 datagrams leave in
    /// fragments (RFC 8200 section 5 lets a sender cut). The TCP MSS follows from it. Values outside are taken as the nearest bound.
    pub mtu: usize,
    /// Most flows of all kinds at once; at least 1. Half of them may be TCP flows that still open.
    pub max_flows: usize,
    /// Most bytes of buffer each way of a TCP flow, 4 KiB to 512 MiB. Buffers are as large as what is in them; windows grow up to this
    /// for flows that move much (4 MiB: 1.6 Gbit/s at 20 ms).
    pub tcp_buffer: usize,
    /// Bytes that the buffers of all TCP flows may hold together. As they fill, windows shrink; beyond, each buffer may still hold
    /// 16 KiB, and what comes on top is dropped and repeated by who sent it. Up to 2 MiB more are kept warm for a second.
    pub memory: usize,
    /// A UDP flow without a datagram either way for this long ends. Echo flows end after this or 30 s,
    /// whichever is less.
    pub udp_idle: Duration,
    /// Where initial sequence numbers, source ports and IP identifications come from. Must be
    /// unpredictable in production (RFC 6528), may be fixed in tests.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mtu: kvpn_wire::pmtud::BASE,
            max_flows: 4096,
            tcp_buffer: 4 << 20,
            memory: 64 << 20,
            udp_idle: Duration::from_secs(120),
            seed: 0,
        }
    }
}
