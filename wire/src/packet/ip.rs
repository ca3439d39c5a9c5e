//! The IP header of either version, as one view.

use std::net::IpAddr;

use super::{Icmp, Malformed, Tcp, Udp, ipv4, ipv6};

/// The IP version of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// ICMP for IPv4: 1
    Icmpv4,
    /// ICMP for IPv6: 58
    Icmpv6,
    /// Any other number.
    Other(u8),
}

impl Protocol {
    /// The protocol's number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Icmpv4 => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmpv6 => 58,
            Self::Other(number) => number,
        }
    }
}

impl From<u8> for Protocol {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Icmpv4,
            6 => Self::Tcp,
            17 => Self::Udp,
            58 => Self::Icmpv6,
            _ => Self::Other(number),
        }
    }
}

/// Which piece of a larger packet this one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Shared by the pieces of one packet (16 bits in IPv4).
    pub id: u32,
    /// Where the piece begins in the whole payload, in bytes.
    pub offset: u32,
    /// Whether more pieces follow.
    pub more: bool,
}

/// A checked IP packet. Bytes beyond the length in its header are not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

/// What parsing found; offsets lie within the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) version: Version,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) payload_start: usize,
    /// As the header says; more than there is only in a quoted packet.
    pub(super) total_len: usize,
    pub(super) hop_limit: u8,
    pub(super) fragment: Option<Fragment>,
    pub(super) source_routed: bool,
}

impl<'a> Ip<'a> {
    /// Checks the IP header(s) at the start of `bytes`: IPv4 with options, IPv6 with extension headers.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let ip = Self::parse_quoted(bytes)?;
        if bytes.len() < ip.layout.total_len {
            return Err(Malformed::Truncated);
        }
        Ok(Self {
            bytes: &bytes[..ip.layout.total_len],
            ..ip
        })
    }

    /// Like [`Ip::parse`] for the beginning of a packet that an ICMP error quotes: the payload may be cut short.
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let layout = match bytes.first().ok_or(Malformed::Truncated)? >> 4 {
            4 => ipv4::parse(bytes)?,
            6 => ipv6::parse(bytes)?,
            _ => return Err(Malformed::Version),
        };
        Ok(Self {
            bytes: &bytes[..bytes.len().min(layout.total_len)],
            layout,
        })
    }

    /// The IP version.
    pub fn version(&self) -> Version {
        self.layout.version
    }

    /// Who claims to have sent it.
    pub fn src(&self) -> IpAddr {
        self.layout.src
    }

    /// The destination in the header.
    pub fn dst(&self) -> IpAddr {
        self.layout.dst
    }

    /// What the payload is, behind all extension headers.
    pub fn protocol(&self) -> Protocol {
        self.layout.protocol
    }

    /// Bytes behind the header, its options and extension headers. Of a later fragment: the middle of something.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.layout.payload_start..]
    }

    /// The whole packet.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Length in bytes of header and payload, as the header says.
    pub fn total_len(&self) -> usize {
        self.layout.total_len
    }

    /// Length in bytes of the header with options and extension headers.
    pub fn header_len(&self) -> usize {
        self.layout.payload_start
    }

    /// Time to live, or hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.layout.hop_limit
    }

    /// Whether it is a piece of a larger packet. (An IPv6 "atomic" fragment is whole: RFC 6946.)
    pub fn is_fragment(&self) -> bool {
        self.layout.fragment.is_some()
    }

    /// Which piece, when it is one.
    pub fn fragment(&self) -> Option<Fragment> {
        self.layout.fragment
    }

    /// Whether the payload begins with a transport header: whole packets and first fragments.
    pub fn has_transport_header(&self) -> bool {
        self.layout
            .fragment
            .is_none_or(|fragment| fragment.offset == 0)
    }

    /// Whether it asks to be sent by way of other hosts: IPv4 source route options (131, 137), IPv6 routing header.
    /// `dst` is then not where it ends up.
    pub fn is_source_routed(&self) -> bool {
        self.layout.source_routed
    }

    /// The TCP segment inside, if it is one and well formed.
    pub fn tcp(&self) -> Option<Tcp<'a>> {
        let fits = self.protocol() == Protocol::Tcp && self.has_transport_header();
        if fits {
            Tcp::parse(self.payload()).ok()
        } else {
            None
        }
    }

    /// The UDP datagram inside, if it is one, whole and well formed.
    pub fn udp(&self) -> Option<Udp<'a>> {
        let fits = self.protocol() == Protocol::Udp && !self.is_fragment();
        if fits {
            Udp::parse(self.payload()).ok()
        } else {
            None
        }
    }

    /// The ICMP message inside, if it is one of the packet's own version and well formed.
    pub fn icmp(&self) -> Option<Icmp<'a>> {
        let fits = matches!(
            (self.version(), self.protocol()),
            (Version::V4, Protocol::Icmpv4) | (Version::V6, Protocol::Icmpv6)
        );
        let fits = fits && self.has_transport_header();
        if fits {
            Icmp::parse(self.version(), self.payload()).ok()
        } else {
            None
        }
    }
}
