//! The TCP header (RFC 9293, section 3.1).

use super::{Malformed, be16, be32};

const MIN_HEADER: usize = 20;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// The control bits of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(1);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(2);
    /// Reset the connection.
    pub const RST: Self = Self(4);
    /// Push.
    pub const PSH: Self = Self(8);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(16);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A checked TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp<'a> {
    bytes: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Checks the header at the start of an IP payload.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < MIN_HEADER {
            return Err(Malformed::Truncated);
        }
        let tcp = Self { bytes };
        if tcp.header_len() < MIN_HEADER {
            return Err(Malformed::HeaderLength);
        }
        if bytes.len() < tcp.header_len() {
            return Err(Malformed::Truncated);
        }
        Ok(tcp)
    }

    /// The sender's port.
    pub fn src_port(&self) -> u16 {
        be16(self.bytes, 0)
    }

    /// The receiver's port.
    pub fn dst_port(&self) -> u16 {
        be16(self.bytes, 2)
    }

    /// The sequence number of the first byte.
    pub fn sequence(&self) -> u32 {
        be32(self.bytes, 4)
    }

    /// The next byte that the sender expects; counts with ACK only.
    pub fn acknowledgement(&self) -> u32 {
        be32(self.bytes, 8)
    }

    /// The control bits.
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.bytes[13])
    }

    /// The window, unscaled.
    pub fn window(&self) -> u16 {
        be16(self.bytes, 14)
    }

    /// Length of the header with options, in bytes.
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes[12] >> 4) * 4
    }

    /// The bytes behind the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header_len()..]
    }

    /// Whether it opens a connection: SYN without ACK, RST or FIN.
    pub fn is_opening(&self) -> bool {
        self.flags().0 & 0x17 == TcpFlags::SYN.0
    }

    /// The sequence space it takes: its bytes, and one each for SYN and FIN.
    pub fn sequence_len(&self) -> u32 {
        let control = u32::from(self.flags().contains(TcpFlags::SYN))
            + u32::from(self.flags().contains(TcpFlags::FIN));
        u32::try_from(self.payload().len())
            .unwrap_or(u32::MAX)
            .wrapping_add(control)
    }

    /// The maximum segment size the sender announces, in bytes, and where the two bytes lie in the segment.
    pub(super) fn mss_option(&self) -> Option<(usize, u16)> {
        let mut at = MIN_HEADER;
        while at < self.header_len() {
            let rest = &self.bytes[at..self.header_len()];
            at += match (rest[0], rest.get(1)) {
                (END_OF_OPTIONS, _) => return None,
                (NO_OPERATION, _) => 1,
                (MAXIMUM_SEGMENT_SIZE, Some(4)) if rest.len() >= 4 => {
                    return Some((at + 2, be16(rest, 2)));
                }
                (_, Some(&len)) if len >= 2 => usize::from(len),
                _ => return None,
            };
        }
        None
    }

    /// The maximum segment size the sender announces, in bytes.
    pub fn mss(&self) -> Option<u16> {
        self.mss_option().map(|(_, mss)| mss)
    }
}
