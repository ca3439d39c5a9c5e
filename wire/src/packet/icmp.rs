//! ICMP of both versions (RFC 792, RFC 4443) in one set of words.

use super::{Malformed, Version, be16, be32};

pub(super) const HEADER: usize = 8;

/// What an ICMP message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpMessage<'a> {
    /// "Answer me."
    EchoRequest {
        /// Names the asker, like a port.
        ident: u16,
        /// Counts the requests.
        sequence: u16,
        /// To be sent back as it is.
        payload: &'a [u8],
    },
    /// The answer.
    EchoReply {
        /// As in the request.
        ident: u16,
        /// As in the request.
        sequence: u16,
        /// As in the request.
        payload: &'a [u8],
    },
    /// The destination was not reached; the codes differ between the versions.
    Unreachable {
        /// Why, in the version's own numbers.
        code: u8,
        /// The beginning of the packet.
        quoted: &'a [u8],
    },
    /// The packet does not fit a link.
    PacketTooBig {
        /// What would fit, in bytes; 0 when the router did not say.
        mtu: u32,
        /// The beginning of the packet.
        quoted: &'a [u8],
    },
    /// The hop limit ran out (code 0), or reassembly did (code 1).
    TimeExceeded {
        /// Which of the two.
        code: u8,
        /// The beginning of the packet.
        quoted: &'a [u8],
    },
    /// A header field is wrong.
    ParameterProblem {
        /// Why.
        code: u8,
        /// The beginning of the packet.
        quoted: &'a [u8],
    },
    /// Anything else.
    Other {
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
    },
}

/// A checked ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp<'a> {
    version: Version,
    bytes: &'a [u8],
}

impl<'a> Icmp<'a> {
    /// Checks the header at the start of the payload of an IP packet of `version`.
    pub fn parse(version: Version, bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() < HEADER {
            return Err(Malformed::Truncated);
        }
        Ok(Self { version, bytes })
    }

    /// The type field, in the version's own numbers.
    pub fn kind(&self) -> u8 {
        self.bytes[0]
    }

    /// The code field.
    pub fn code(&self) -> u8 {
        self.bytes[1]
    }

    /// What it says.
    pub fn message(&self) -> IcmpMessage<'a> {
        let (kind, code, quoted) = (self.kind(), self.code(), &self.bytes[HEADER..]);
        let (ident, sequence) = (be16(self.bytes, 4), be16(self.bytes, 6));
        match (self.version, kind, code) {
            (Version::V4, 8, _) | (Version::V6, 128, _) => IcmpMessage::EchoRequest {
                ident,
                sequence,
                payload: quoted,
            },
            (Version::V4, 0, _) | (Version::V6, 129, _) => IcmpMessage::EchoReply {
                ident,
                sequence,
                payload: quoted,
            },
            (Version::V4, 3, 4) => IcmpMessage::PacketTooBig {
                mtu: u32::from(sequence),
                quoted,
            },
            (Version::V6, 2, _) => IcmpMessage::PacketTooBig {
                mtu: be32(self.bytes, 4),
                quoted,
            },
            (Version::V4, 3, _) | (Version::V6, 1, _) => IcmpMessage::Unreachable { code, quoted },
            (Version::V4, 11, _) | (Version::V6, 3, _) => {
                IcmpMessage::TimeExceeded { code, quoted }
            }
            (Version::V4, 12, _) | (Version::V6, 4, _) => {
                IcmpMessage::ParameterProblem { code, quoted }
            }
            (Version::V4 | Version::V6, _, _) => IcmpMessage::Other { kind, code },
        }
    }

    /// Whether it reports an error; errors are never answered with errors (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
    pub fn is_error(&self) -> bool {
        match self.version {
            Version::V4 => matches!(self.kind(), 3 | 4 | 5 | 11 | 12),
            Version::V6 => self.kind() < 128,
        }
    }

    /// The beginning of the packet that an error message is about.
    pub fn quoted(&self) -> Option<&'a [u8]> {
        match self.message() {
            IcmpMessage::Unreachable { quoted, .. }
            | IcmpMessage::PacketTooBig { quoted, .. }
            | IcmpMessage::TimeExceeded { quoted, .. }
            | IcmpMessage::ParameterProblem { quoted, .. } => Some(quoted),
            IcmpMessage::EchoRequest { .. }
            | IcmpMessage::EchoReply { .. }
            | IcmpMessage::Other { .. } => None,
        }
    }
}
