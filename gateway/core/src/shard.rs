//! Which part of a gateway's sessions one state holds. A gateway on several cores runs one state on each; their session
//! indices and tunnel addresses never meet, so that a packet says by itself where it belongs.
//!
//! It must not know how packets get from one state to another: that is the shell's.

use std::net::IpAddr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use kvpn_wire::wireguard::{Kind, classify};

use crate::address::{Block, V4_BASE, V6_BASE};
use crate::event::SessionIndex;

/// The most parts: each still has a thousand sessions' addresses.
pub const MAX_SHARDS: u8 = 16;

/// Bits that number the address blocks.
const BLOCK_BITS: u32 = 14;

/// One part of a power of two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    number: u8,
    count: u8,
}

impl Default for Shard {
    /// Everything.
    fn default() -> Self {
        Self {
            number: 0,
            count: 1,
        }
    }
}

impl Shard {
    /// All parts, as many as the greatest power of two that is at most `cores` and [`MAX_SHARDS`].
    pub fn all(cores: usize) -> impl Iterator<Item = Self> {
        let cores = cores.clamp(1, MAX_SHARDS.into()) as u8;
        let count = 1 << cores.ilog2();
        (0..count).map(move |number| Self { number, count })
    }

    /// This part's number, from 0.
    pub fn number(self) -> u8 {
        self.number
    }

    /// How many parts there are.
    pub fn count(self) -> u8 {
        self.count
    }

    /// The number of the part that a session index belongs to: its low bits.
    pub fn of_index(self, index: SessionIndex) -> u8 {
        (index.0 % u32::from(self.count)) as u8
    }

    /// The number of the part that a WireGuard datagram belongs to, by the index of its receiver; `None` for an initiation, which
    /// has none, and for what is no WireGuard message.
    pub fn of_datagram(self, datagram: &[u8]) -> Option<u8> {
        match classify(datagram)? {
            Kind::Initiation => None,
            Kind::Response { receiver } | Kind::Cookie { receiver } | Kind::Data { receiver } => {
                Some(self.of_index(SessionIndex::of_receiver(receiver)))
            }
        }
    }

    /// The number of the part that a tunnel address belongs to; `None` when it is none.
    pub fn of_address(self, address: IpAddr) -> Option<u8> {
        let block = Block::of(address)?;
        Some((block.number() >> self.shift()) as u8)
    }

    /// The tunnel addresses of this part, one range a family.
    pub fn ranges(self) -> [IpNetwork; 2] {
        let bits = BLOCK_BITS - self.shift();
        let first = u32::from(self.number) << self.shift() << 2;
        let v4 = Ipv4Network::new((u32::from(V4_BASE) + first).into(), (16 + bits) as u8);
        let v6 = Ipv6Network::new(
            (u128::from(V6_BASE) + u128::from(first)).into(),
            (112 + bits) as u8,
        );
        [
            v4.expect("at most 20 bits").into(),
            v6.expect("at most 116 bits").into(),
        ]
    }

    /// `index` with the low bits of this part.
    pub(crate) fn mark(self, index: u32) -> SessionIndex {
        let count = u32::from(self.count);
        SessionIndex(index / count * count + u32::from(self.number))
    }

    /// Whether the block is this part's.
    pub(crate) fn owns(self, block: Block) -> bool {
        block.number() >> self.shift() == u16::from(self.number)
    }

    /// The block number's bits below those that number the part.
    fn shift(self) -> u32 {
        BLOCK_BITS - self.count.ilog2()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn there_are_as_many_as_cores_but_a_power_of_two() {
        for (cores, count) in [(0, 1), (1, 1), (2, 2), (3, 2), (7, 4), (64, 16)] {
            let all: Vec<Shard> = Shard::all(cores).collect();
            assert_eq!(all.len(), count, "{cores}");
            assert!(all.iter().all(|shard| usize::from(shard.count()) == count));
        }
        assert_eq!(Shard::all(1).collect::<Vec<_>>(), [Shard::default()]);
    }

    #[test]
    fn ranges_cover_all_tunnel_addresses_once() {
        let ranges: Vec<String> = Shard::all(4)
            .flat_map(Shard::ranges)
            .map(|range| range.to_string())
            .collect();
        assert_eq!(
            ranges,
            [
                "198.19.0.0/18",
                "fd6b:7670:6e00::/114",
                "198.19.64.0/18",
                "fd6b:7670:6e00::4000/114",
                "198.19.128.0/18",
                "fd6b:7670:6e00::8000/114",
                "198.19.192.0/18",
                "fd6b:7670:6e00::c000/114",
            ]
        );
        assert_eq!(Shard::default().ranges()[0].to_string(), "198.19.0.0/16");
    }

    fn initiation() -> [u8; 148] {
        let mut datagram = [0; 148];
        datagram[0] = 1;
        datagram
    }

    #[test]
    fn what_a_part_gives_out_leads_back_to_it() {
        for shard in Shard::all(8) {
            let index = shard.mark(0x00ab_cdef);
            assert_eq!(shard.of_index(index), shard.number());
            assert_eq!(shard.of_datagram(&initiation()), None);
            for (kind, length, receiver) in [(2, 92, 8), (3, 64, 4), (4, 32, 4)] {
                let mut datagram = vec![0; length];
                datagram[0] = kind;
                let [a, b, c, _] = index.0.to_le_bytes();
                datagram[receiver..receiver + 4].copy_from_slice(&[0x5a, a, b, c]);
                assert_eq!(shard.of_datagram(&datagram), Some(shard.number()), "{kind}");
            }
            for range in shard.ranges() {
                let address = match range {
                    IpNetwork::V4(range) => range.nth(30).unwrap().into(),
                    IpNetwork::V6(range) => Ipv6Addr::from(u128::from(range.ip()) + 30).into(),
                };
                assert_eq!(shard.of_address(address), Some(shard.number()), "{range}");
            }
        }
    }
}
