//! Why a datagram was not accepted; a label for counters, never shown to the peer.

use std::fmt;

use boringtun::noise::errors::WireGuardError;

/// Why a datagram was dropped. The peer, or whoever forged it, is at fault, except for [`Reason::ShortBuffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Not a WireGuard message, or no IP packet inside.
    Malformed,
    /// The caller's buffer has no room for the result.
    ShortBuffer,
    /// For a session index, or a handshake, that this tunnel does not have.
    Unknown,
    /// On a session older than three minutes, or one that was forgotten.
    Expired,
    /// A counter or a handshake timestamp that was seen before, or that is too old.
    Replayed,
    /// An authentication code is wrong.
    Forged,
    /// An initiation by somebody else than the peer.
    WrongPeer,
    /// More handshakes than the limiter lets through, and no address to send a cookie to.
    Loaded,
}

impl Reason {
    /// The reason as a metrics label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::ShortBuffer => "short_buffer",
            Self::Unknown => "unknown_session",
            Self::Expired => "expired_session",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
            Self::WrongPeer => "wrong_peer",
            Self::Loaded => "loaded",
        }
    }

    pub(super) fn of(error: &WireGuardError) -> Self {
        match error {
            WireGuardError::DestinationBufferTooSmall => Self::ShortBuffer,
            WireGuardError::IncorrectPacketLength
            | WireGuardError::WrongPacketType
            | WireGuardError::InvalidPacket
            | WireGuardError::InvalidTai64nTimestamp => Self::Malformed,
            WireGuardError::UnexpectedPacket | WireGuardError::WrongIndex => Self::Unknown,
            WireGuardError::NoCurrentSession
            | WireGuardError::LockFailed
            | WireGuardError::ConnectionExpired => Self::Expired,
            WireGuardError::WrongTai64nTimestamp
            | WireGuardError::InvalidCounter
            | WireGuardError::DuplicateCounter => Self::Replayed,
            WireGuardError::InvalidMac | WireGuardError::InvalidAeadTag => Self::Forged,
            WireGuardError::WrongKey => Self::WrongPeer,
            WireGuardError::UnderLoad => Self::Loaded,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
