//! Virtual ranges: addresses of the cluster that the laptop already uses for something else appear to its programs in another
//! range, one for one (stateless, prefix to prefix, as RFC 6296 has it for IPv6). Packets are translated where they meet the TUN:
//! everything inside the core knows real addresses only. It must not choose ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kvpn_wire::packet::{End, Ip, readdress, readdress_quoted};
use kvpn_wire::range;

/// A range of the cluster, and the equally large one in which the laptop's programs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    real: IpNetwork,
    shown: IpNetwork,
}

impl Mapping {
    /// None when the ranges differ in family or length.
    pub fn new(real: IpNetwork, shown: IpNetwork) -> Option<Self> {
        let alike = real.is_ipv4() == shown.is_ipv4() && real.prefix() == shown.prefix();
        alike.then_some(Self { real, shown })
    }

    /// The range that the cluster has.
    pub fn real(&self) -> IpNetwork {
        self.real
    }

    /// The virtual range that stands for it.
    pub fn shown(&self) -> IpNetwork {
        self.shown
    }

    /// The part of the virtual range that stands for `part` of the real one; none when it is no part of it.
    pub fn image(&self, part: IpNetwork) -> Option<IpNetwork> {
        let is_part = self.real.prefix() <= part.prefix() && self.real.contains(part.network());
        let network = is_part.then(|| moved(part.network(), self.shown))?;
        IpNetwork::new(network, part.prefix()).ok()
    }
}

/// All virtual ranges of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Netmap {
    mappings: Vec<Mapping>,
    outside: Vec<IpNetwork>,
}

impl Netmap {
    /// Real and virtual ranges must not overlap each other. Names that lead to an address in `outside` keep it: such addresses
    /// do not go into the tunnel.
    pub fn new(mappings: Vec<Mapping>, outside: Vec<IpNetwork>) -> Self {
        Self { mappings, outside }
    }

    /// Whether every address is its own.
    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    /// The ranges and what stands for them.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The cluster's address behind a virtual one.
    pub fn real(&self, shown: IpAddr) -> Option<IpAddr> {
        let mut mappings = self.mappings.iter();
        let mapping = mappings.find(|mapping| mapping.shown.contains(shown))?;
        Some(moved(shown, mapping.real))
    }

    /// The virtual address that stands for one of the cluster's.
    pub fn shown(&self, real: IpAddr) -> Option<IpAddr> {
        let mut mappings = self.mappings.iter();
        let mapping = mappings.find(|mapping| mapping.real.contains(real))?;
        Some(moved(real, mapping.shown))
    }

    /// The address that a name with the address `real` is answered with; none when programs cannot reach it, because a virtual
    /// range lies there.
    pub(crate) fn answered(&self, real: IpAddr) -> Option<IpAddr> {
        if range::contains(&self.outside, real) {
            return Some(real);
        }
        match self.shown(real) {
            None if self.real(real).is_some() => None,
            shown => Some(shown.unwrap_or(real)),
        }
    }

    /// A program's packet, or super-packet, as the cluster shall see it. False when it is for a real address of a range that
    /// has a virtual one: its answer would come from an address that the program does not know.
    pub(crate) fn outgoing(&self, packet: &mut [u8]) -> bool {
        let Ok(ip) = Ip::parse(packet) else {
            return true;
        };
        let (dst, quoted) = (ip.dst(), quoted(&ip));
        if let Some(real) = self.real(dst) {
            readdress(packet, End::Destination, real);
        } else if self.shown(dst).is_some() {
            return false;
        }
        if let Some(real) = quoted.and_then(|(src, _)| self.real(src)) {
            readdress_quoted(packet, End::Source, real);
        }
        true
    }

    /// A packet, or super-packet, of the cluster's as the program shall see it.
    pub(crate) fn incoming(&self, packet: &mut [u8]) {
        let Ok(ip) = Ip::parse(packet) else { return };
        let (src, quoted) = (ip.src(), quoted(&ip));
        if let Some(shown) = self.shown(src) {
            readdress(packet, End::Source, shown);
        }
        if let Some(shown) = quoted.and_then(|(_, dst)| self.shown(dst)) {
            readdress_quoted(packet, End::Destination, shown);
        }
    }
}

/// Source and destination of the packet that an ICMP error is about.
fn quoted(ip: &Ip<'_>) -> Option<(IpAddr, IpAddr)> {
    let quoted = Ip::parse_quoted(ip.icmp()?.quoted()?).ok()?;
    Some((quoted.src(), quoted.dst()))
}

/// The address at the same place in another range of the same family.
fn moved(address: IpAddr, range: IpNetwork) -> IpAddr {
    match (address, range) {
        (IpAddr::V4(address), IpNetwork::V4(range)) => {
            let mask = range.mask().to_bits();
            Ipv4Addr::from_bits(range.network().to_bits() | (address.to_bits() & !mask)).into()
        }
        (IpAddr::V6(address), IpNetwork::V6(range)) => {
            let mask = range.mask().to_bits();
            Ipv6Addr::from_bits(range.network().to_bits() | (address.to_bits() & !mask)).into()
        }
        (address, _) => address,
    }
}

#[cfg(test)]
mod tests;
