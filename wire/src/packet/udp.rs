//! The UDP header (RFC 768).

use super::{Malformed, be16};

pub(super) const HEADER: usize = 8;

/// A checked UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp<'a> {
    bytes: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Checks the header at the start of an IP payload. Bytes beyond its length field are not part of it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER {
            return Err(Malformed::Truncated);
        }
        let len = usize::from(be16(bytes, 4));
        if len < HEADER {
            return Err(Malformed::HeaderLength);
        }
        bytes
            .get(..len)
            .map(|bytes| Self { bytes })
            .ok_or(Malformed::Truncated)
    }

    /// The sender's port.
    pub fn src_port(&self) -> u16 {
        be16(self.bytes, 0)
    }

    /// The receiver's port.
    pub fn dst_port(&self) -> u16 {
        be16(self.bytes, 2)
    }

    /// The bytes behind the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER..]
    }
}
