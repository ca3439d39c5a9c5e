//! Tunnel addresses: each session gets a block of four of each family, with the same number in both.
//!
//! +1 is the gateway, +2 the client, +3 the client's DNS stub, which never appears in the tunnel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use kvpn_wire::control::TunnelAddresses;

use crate::shard::Shard;

/// Of RFC 2544's benchmarking range, which no network routes: 198.19.0.0/16.
pub(crate) const V4_BASE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
/// A unique local range (RFC 4193) of kvpn's own: fd6b:7670:6e00::/40.
pub(crate) const V6_BASE: Ipv6Addr = Ipv6Addr::new(0xfd6b, 0x7670, 0x6e00, 0, 0, 0, 0, 0);
/// The first and the last block stay unused: their addresses look like the /16's network and broadcast.
const BLOCKS: std::ops::Range<u16> = 1..16383;

/// Whether `address` is one that tunnels use, given out or not.
pub(crate) fn is_tunnel_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..2] == V4_BASE.octets()[..2],
        IpAddr::V6(v6) => v6.octets()[..5] == V6_BASE.octets()[..5],
    }
}

/// The addresses of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Block(u16);

impl Block {
    /// The block that holds `address`.
    pub(crate) fn of(address: IpAddr) -> Option<Self> {
        let offset = match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4).checked_sub(V4_BASE.into())?),
            IpAddr::V6(v6) => u128::from(v6).checked_sub(V6_BASE.into())?,
        };
        let number = u16::try_from(offset / 4).ok()?;
        BLOCKS.contains(&number).then_some(Self(number))
    }

    /// Its number; 14 bits.
    pub(crate) fn number(self) -> u16 {
        self.0
    }

    /// The session's IPv4 addresses.
    pub(crate) fn v4(self) -> TunnelAddresses {
        let base = u32::from(V4_BASE) + u32::from(self.0) * 4;
        let at = |offset| IpAddr::V4(Ipv4Addr::from(base + offset));
        TunnelAddresses {
            gateway: at(1),
            client: at(2),
            dns_stub: at(3),
        }
    }

    /// The session's IPv6 addresses.
    pub(crate) fn v6(self) -> TunnelAddresses {
        let base = u128::from(V6_BASE) + u128::from(self.0) * 4;
        let at = |offset| IpAddr::V6(Ipv6Addr::from(base + offset));
        TunnelAddresses {
            gateway: at(1),
            client: at(2),
            dns_stub: at(3),
        }
    }

    /// The addresses of the family of `of`.
    pub(crate) fn family(self, of: IpAddr) -> TunnelAddresses {
        match of {
            IpAddr::V4(_) => self.v4(),
            IpAddr::V6(_) => self.v6(),
        }
    }

    fn overlaps(self, range: &IpNetwork) -> bool {
        match (range, self.v4().gateway, self.v6().gateway) {
            (IpNetwork::V4(range), IpAddr::V4(address), _) => {
                Ipv4Network::new(address, 30).is_ok_and(|own| own.overlaps(*range))
            }
            (IpNetwork::V6(range), _, IpAddr::V6(address)) => {
                Ipv6Network::new(address, 126).is_ok_and(|own| own.overlaps(*range))
            }
            (IpNetwork::V4(_) | IpNetwork::V6(_), ..) => false,
        }
    }
}

/// Which blocks are given out, of those of one shard.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    shard: Shard,
    taken: BTreeSet<Block>,
}

impl Blocks {
    /// Nothing is given out.
    pub(crate) fn new(shard: Shard) -> Self {
        Self {
            shard,
            taken: BTreeSet::new(),
        }
    }

    /// Takes a free block that overlaps none of `avoid`: the first of `prefer` that will do, else the next one from `start` on.
    pub(crate) fn take(
        &mut self,
        prefer: &[IpAddr],
        avoid: &[IpNetwork],
        start: u16,
    ) -> Option<Block> {
        let count = BLOCKS.end - BLOCKS.start;
        let preferred = prefer.iter().filter_map(|&address| Block::of(address));
        let others = (0..count).map(|step| {
            let number = (u32::from(start) + u32::from(step)) % u32::from(count);
            Block(BLOCKS.start + u16::try_from(number).expect("less than count"))
        });
        let block = preferred
            .chain(others)
            .find(|block| self.is_free(*block, avoid))?;
        self.taken.insert(block);
        Some(block)
    }

    /// Gives a block back.
    pub(crate) fn release(&mut self, block: Block) {
        self.taken.remove(&block);
    }

    fn is_free(&self, block: Block, avoid: &[IpNetwork]) -> bool {
        let ours = self.shard.owns(block) && !self.taken.contains(&block);
        ours && !avoid.iter().any(|range| block.overlaps(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn both_families_have_the_same_number() {
        let block = Blocks::default().take(&[], &[], 6).unwrap();
        assert_eq!(block.v4().gateway.to_string(), "198.19.0.29");
        assert_eq!(block.v4().client.to_string(), "198.19.0.30");
        assert_eq!(block.v4().dns_stub.to_string(), "198.19.0.31");
        assert_eq!(block.v6().client.to_string(), "fd6b:7670:6e00::1e");
        assert_eq!(Block::of(block.v4().client), Some(block));
        assert_eq!(Block::of(block.v6().dns_stub), Some(block));
    }

    #[test]
    fn avoids_what_the_client_has_and_prefers_what_it_had() {
        let mut blocks = Blocks::default();
        let first = blocks
            .take(&[], &nets(&["198.19.0.0/20", "fd6b:7670:6e00::/113"]), 0)
            .unwrap();
        assert_eq!(first.v6().gateway.to_string(), "fd6b:7670:6e00::8001");
        assert_eq!(first.v4().gateway.to_string(), "198.19.128.1");
        let second = blocks.take(&[first.v4().client], &[], 0).unwrap();
        assert_ne!(first, second);
        blocks.release(first);
        assert_eq!(blocks.take(&[first.v6().client], &[], 0), Some(first));
        assert_eq!(blocks.take(&[], &nets(&["198.16.0.0/12"]), 0), None);
    }

    #[test]
    fn the_last_free_block_is_found() {
        let mut blocks = Blocks {
            taken: BLOCKS.map(Block).collect(),
            ..Blocks::default()
        };
        assert_eq!(blocks.take(&[], &[], 9999), None);
        for number in [BLOCKS.start, 5000, BLOCKS.end - 1] {
            blocks.release(Block(number));
            let found = blocks.take(&[], &[], 9999).unwrap();
            assert_eq!(found, Block(number));
            assert!(is_tunnel_address(found.v4().dns_stub) && is_tunnel_address(found.v6().client));
        }
    }

    #[test]
    fn foreign_addresses_are_in_no_block() {
        for text in [
            "198.18.0.1",
            "198.20.0.1",
            "198.19.0.1",
            "198.19.255.255",
            "10.0.0.1",
            "fd6b:7670:6f00::1",
            "::1",
        ] {
            assert_eq!(Block::of(text.parse().unwrap()), None, "{text}");
        }
    }
}
