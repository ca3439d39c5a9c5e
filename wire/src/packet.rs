//! Checked views of IP packets and what is in them, and builders for the few packets that kvpn makes itself.
//!
//! A view is parsed once at the edge; after that every access is in bounds. Parsing checks lengths and
//! structure, not checksums ([`checksum::verify`] does). Nothing here panics on any bytes. It decides nothing: what may pass is not its business.
//!
//! ```
//! use kvpn_wire::packet::{FiveTuple, Ip, Protocol, build};
//!
//! let mut out = [0; 64];
//! let n = build::udp("10.0.0.1:5".parse()?, "10.0.0.2:53".parse()?, b"hi", &mut out).expect("it fits");
//! let ip = Ip::parse(&out[..n])?;
//! assert_eq!(ip.protocol(), Protocol::Udp);
//! assert_eq!(FiveTuple::of(&ip).map(|flow| flow.dst), Some("10.0.0.2:53".parse()?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod build;
pub mod checksum;
mod clamp;
mod dns;
mod ecn;
mod flow;
mod fragments;
mod icmp;
mod ip;
mod ipv4;
mod ipv6;
mod readdress;
mod tcp;
mod udp;

pub use clamp::clamp_mss;
pub use dns::DnsHeader;
pub use ecn::mark_congested;
pub use flow::FiveTuple;
pub use fragments::{Fragments, MIN_IPV6_MTU};
pub use icmp::{Icmp, IcmpMessage};
pub use ip::{Fragment, Ip, Protocol, Version};
pub use readdress::{End, readdress, readdress_quoted};
pub use tcp::{Tcp, TcpFlags};
pub use udp::Udp;

/// Why bytes are not a packet; the sender is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its headers or its length fields say.
    #[error("truncated packet")]
    Truncated,
    /// Neither IPv4 nor IPv6.
    #[error("unknown IP version")]
    Version,
    /// A header length or length field that cannot be.
    #[error("impossible header length")]
    HeaderLength,
    /// More IPv6 extension headers than anybody has use for, or a hop-by-hop header that is not the first.
    #[error("unreasonable extension headers")]
    ExtensionHeaders,
}

/// Two bytes at `at`, big-endian; 0 beyond the end, which checked views exclude.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

/// Four bytes at `at`, big-endian; 0 beyond the end, which checked views exclude.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
mod tests;
