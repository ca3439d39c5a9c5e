//! What the stack hands out: a packet, or several of one TCP flow in one whose payload still lies in the flow's buffer.

use kvpn_wire::offload::{Malformed, Segmentation, Split};

/// A packet, or a super-packet, on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emitted<'a> {
    /// The whole packet, or the IP and TCP headers of a super-packet. Of those the length fields are right when the super-packet is at
    /// most 65,535 bytes long, which it is; its TCP checksum field is 0, each segment needs its own.
    pub header: &'a [u8],
    /// What follows the header, in this order.
    pub payload: [&'a [u8]; 2],
    /// Whether and how it is to be cut.
    pub segmentation: Segmentation,
}

impl<'a> Emitted<'a> {
    pub(crate) fn whole(packet: &'a [u8]) -> Self {
        Self {
            header: packet,
            payload: [&[], &[]],
            segmentation: Segmentation::Whole,
        }
    }

    /// Cuts it into packets.
    pub fn split(&self) -> Result<Split<'a>, Malformed> {
        Split::of_parts(self.header, self.payload, self.segmentation)
    }

    /// Bytes of header and payload.
    pub fn total_len(&self) -> usize {
        self.header.len() + self.payload[0].len() + self.payload[1].len()
    }
}
