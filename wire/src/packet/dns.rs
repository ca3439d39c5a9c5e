//! The twelve bytes at the start of every DNS message (RFC 1035, section 4.1.1). Names are not parsed here.

use super::{Malformed, be16};

/// A checked DNS header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsHeader<'a> {
    bytes: &'a [u8; 12],
}

impl<'a> DnsHeader<'a> {
    /// Checks that `message` is long enough to have one.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        message
            .first_chunk()
            .map(|bytes| Self { bytes })
            .ok_or(Malformed::Truncated)
    }

    /// Pairs an answer with its question.
    pub fn id(&self) -> u16 {
        be16(self.bytes, 0)
    }

    /// The flags, the operation and the response code, as they stand.
    pub fn flags(&self) -> u16 {
        be16(self.bytes, 2)
    }

    /// QR: an answer rather than a question.
    pub fn is_response(&self) -> bool {
        self.flags() & 0x8000 != 0
    }

    /// The operation; 0 is a query.
    pub fn opcode(&self) -> u8 {
        (self.bytes[2] >> 3) & 0x0f
    }

    /// AA: the server is an authority for the name.
    pub fn is_authoritative(&self) -> bool {
        self.flags() & 0x0400 != 0
    }

    /// TC: cut off; ask again over TCP.
    pub fn is_truncated(&self) -> bool {
        self.flags() & 0x0200 != 0
    }

    /// RD: the asker wants the server to ask others.
    pub fn recursion_desired(&self) -> bool {
        self.flags() & 0x0100 != 0
    }

    /// RA: the server does ask others.
    pub fn recursion_available(&self) -> bool {
        self.flags() & 0x0080 != 0
    }

    /// The response code without EDNS; 0 is success, 3 is NXDOMAIN.
    pub fn response_code(&self) -> u8 {
        self.bytes[3] & 0x0f
    }

    /// QDCOUNT.
    pub fn questions(&self) -> u16 {
        be16(self.bytes, 4)
    }

    /// ANCOUNT.
    pub fn answers(&self) -> u16 {
        be16(self.bytes, 6)
    }

    /// NSCOUNT.
    pub fn authorities(&self) -> u16 {
        be16(self.bytes, 8)
    }

    /// ARCOUNT.
    pub fn additionals(&self) -> u16 {
        be16(self.bytes, 10)
    }
}
