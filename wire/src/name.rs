//! Names: Kubernetes labels, DNS names as text, suffixes, reverse zones. No DNS messages, no decisions.
//!
//! All types are in lower case and checked when made, so that comparing them is comparing strings.

mod domain;
mod label;
mod reverse;

pub use domain::{ClusterDomain, DnsName};
pub use label::{Namespace, ServiceName};
pub use reverse::{parse_reverse, reverse_name, reverse_zones};

/// Text that is not a name; the text stays with whoever had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing, or nothing between two dots.
    #[error("empty name or label")]
    Empty,
    /// A label of more than 63 bytes, or a name of more than 253.
    #[error("name too long (a label has at most 63 characters, a name 253)")]
    TooLong,
    /// A character that does not belong there.
    #[error("character not allowed in a name")]
    Character,
}

/// The top-level domains of the public root (IANA root zone), without the `xn--` ones.
const PUBLIC_TLDS: &str = include_str!("name/tld.txt");

/// Names that systems resolve in their own ways (RFC 6761, RFC 6762, RFC 7686), sorted.
const SPECIAL_USE: [&str; 5] = ["alt", "internal", "local", "localhost", "onion"];

/// Whether the label is a top-level domain of the public DNS (or could be one: any `xn--`), so that routing
/// it to a cluster would take names from the laptop.
pub fn is_public_tld(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    label.starts_with("xn--") || PUBLIC_TLDS.lines().any(|tld| tld == label)
}

/// Whether the label is reserved for uses outside the public DNS which a cluster must not take either, such as `local` of
/// multicast DNS.
pub fn is_special_use(label: &str) -> bool {
    SPECIAL_USE
        .iter()
        .any(|special| label.eq_ignore_ascii_case(special))
}

#[cfg(test)]
mod tests;
