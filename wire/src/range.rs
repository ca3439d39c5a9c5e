//! Arithmetic on address ranges, and which addresses are special. Over `ipnetwork`, which has no set operations.
//!
//! Results are aggregated and in order: IPv4 first, each range once, neighbours joined. An IPv6 address that maps an IPv4 one is judged as
//! the IPv4 address, by [`canonical`]. It must not know which ranges a cluster has.

mod special;

pub use special::{
    canonical, is_forbidden_destination, is_metadata, is_private, is_tunnel, tunnel_ranges,
};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use ipnetwork::IpNetwork;

/// One family's addresses from `first` to `last`, both included, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    first: u128,
    last: u128,
}

/// An address family: how wide its numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// The smallest set of ranges that covers the same addresses.
pub fn aggregate(ranges: Vec<IpNetwork>) -> Vec<IpNetwork> {
    subtract(&ranges, &[])
}

/// The addresses of `from` that are not in `what`.
pub fn subtract(from: &[IpNetwork], what: &[IpNetwork]) -> Vec<IpNetwork> {
    let mut result = Vec::new();
    for family in [Family::V4, Family::V6] {
        let holes = spans(what, family);
        for span in spans(from, family) {
            for rest in without(span, &holes) {
                cover(rest, family, &mut result);
            }
        }
    }
    result
}

/// The addresses that are in both.
pub fn intersect(a: &[IpNetwork], b: &[IpNetwork]) -> Vec<IpNetwork> {
    subtract(a, &subtract(a, b))
}

/// Whether any range covers the address.
pub fn contains(ranges: &[IpNetwork], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address))
}

/// Whether two ranges have an address in common; then one lies in the other.
pub fn overlaps(a: &IpNetwork, b: &IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// Whether any of `a` overlaps any of `b`.
pub fn any_overlap(a: &[IpNetwork], b: &[IpNetwork]) -> bool {
    a.iter().any(|a| b.iter().any(|b| overlaps(a, b)))
}

/// The range of one address: /32 or /128.
pub fn host(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

impl Family {
    fn bits(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => {
                Ipv4Addr::from_bits(u32::try_from(number).expect("an IPv4 span has 32 bits")).into()
            }
            Self::V6 => Ipv6Addr::from_bits(number).into(),
        }
    }
}

/// The low `bits` bits set.
fn mask(bits: u32) -> u128 {
    if bits == 128 {
        u128::MAX
    } else {
        (1 << bits) - 1
    }
}

fn span(range: &IpNetwork, family: Family) -> Option<Span> {
    let first = match (range.network(), family) {
        (IpAddr::V4(address), Family::V4) => u128::from(address.to_bits()),
        (IpAddr::V6(address), Family::V6) => address.to_bits(),
        (IpAddr::V4(_), Family::V6) | (IpAddr::V6(_), Family::V4) => return None,
    };
    let last = first | mask(family.bits() - u32::from(range.prefix()));
    Some(Span { first, last })
}

/// One family's spans, in order and joined where they touch.
fn spans(ranges: &[IpNetwork], family: Family) -> Vec<Span> {
    let mut all: Vec<Span> = ranges
        .iter()
        .filter_map(|range| span(range, family))
        .collect();
    all.sort_unstable();
    let mut joined: Vec<Span> = Vec::with_capacity(all.len());
    for span in all {
        match joined.last_mut() {
            Some(before) if span.first <= before.last.saturating_add(1) => {
                before.last = before.last.max(span.last)
            }
            Some(_) | None => joined.push(span),
        }
    }
    joined
}

/// What is left of `span`; `holes` are in order and do not touch.
fn without(span: Span, holes: &[Span]) -> Vec<Span> {
    let mut rest = Vec::new();
    let mut first = span.first;
    for hole in holes
        .iter()
        .filter(|hole| hole.first <= span.last && hole.last >= span.first)
    {
        if hole.first > first {
            rest.push(Span {
                first,
                last: hole.first - 1,
            });
        }
        if hole.last >= span.last {
            return rest;
        }
        first = hole.last + 1;
    }
    rest.push(Span {
        first,
        last: span.last,
    });
    rest
}

/// The fewest ranges that cover exactly the span.
fn cover(Span { mut first, last }: Span, family: Family, result: &mut Vec<IpNetwork>) {
    loop {
        let mut free = first.trailing_zeros().min(family.bits());
        while first | mask(free) > last {
            free -= 1;
        }
        let prefix = u8::try_from(family.bits() - free).expect("at most 128");
        result.push(
            IpNetwork::new(family.address(first), prefix).expect("the prefix fits the family"),
        );
        match (first | mask(free)).checked_add(1) {
            Some(next) if next <= last => first = next,
            Some(_) | None => return,
        }
    }
}

#[cfg(test)]
mod tests;
