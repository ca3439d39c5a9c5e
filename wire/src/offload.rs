//! Super-packets: several packets of one flow in one, with one set of headers, the payloads joined, and the payload size
//! of each segment. One copy, one system call and one header check then serve up to 64 KiB.
//!
//! [`Split`] cuts them into packets, [`Coalescer`] joins packets, [`virtio`] is how a TUN speaks of them, [`trailer`] how they
//! travel inside a WireGuard message. The rule for all: what is not understood passes through as it is, and a wrong checksum
//! stays wrong. Nothing here does IO or knows about sessions and paths.
//!
//! ```text
//! TUN -> virtio::read -> Split::new -> next() until None -> seal
//! open into Coalescer::space() -> commit() -> pop() -> virtio::write -> TUN
//! ```

mod coalesce;
mod shape;
mod split;
pub mod trailer;
pub mod virtio;

pub use coalesce::Coalescer;
pub use split::Split;

use crate::packet;

/// The longest IP packet in bytes, super or not: its length field has 16 bits.
pub const MAX_PACKET: usize = 65_535;

/// The longest headers that are rewritten: an IPv6 header with some extensions (or IPv4's with options), and TCP's with options.
const MAX_HEADER: usize = 256;

/// Into what a packet is to be cut. `size` is the payload of each segment but the last, in bytes, not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segmentation {
    /// An ordinary packet: its checksums are complete, it is not cut.
    #[default]
    Whole,
    /// TCP segments (TSO).
    Tcp {
        /// Payload bytes.
        size: u16,
    },
    /// UDP datagrams (USO).
    Udp {
        /// Payload bytes.
        size: u16,
    },
}

/// Which super-packets a receiver takes. None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// TCP over IPv4 and IPv6.
    pub tcp: bool,
    /// UDP over IPv4 and IPv6 (Linux 6.2 and later).
    pub udp: bool,
}

impl Abilities {
    /// Whether a packet of that kind is taken as it is.
    pub fn takes(self, segmentation: Segmentation) -> bool {
        match segmentation {
            Segmentation::Whole => true,
            Segmentation::Tcp { .. } => self.tcp,
            Segmentation::Udp { .. } => self.udp,
        }
    }
}

/// Why bytes are no super-packet; whoever handed them over is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Malformed {
    /// Not an IP packet.
    #[error(transparent)]
    Packet(#[from] packet::Malformed),
    /// Fragments, source routes, another protocol than the segmentation's, SYN, RST or URG: such packets are never super.
    #[error("headers that cannot be segmented")]
    Headers,
    /// The segment size is 0.
    #[error("impossible segment size")]
    Size,
    /// Longer than an IP packet can be, or not as long as its header says.
    #[error("length does not match")]
    Length,
    /// A virtio header points to a checksum outside of the packet, or not to its protocol's.
    #[error("misplaced checksum")]
    Checksum,
    /// A virtio header of an unknown kind, or of one that was not asked for.
    #[error("unknown kind of offload")]
    Kind,
}

#[cfg(test)]
mod tests;
