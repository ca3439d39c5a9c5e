//! What kind of WireGuard message a datagram is, and whom it is for; no keys but for [`initiator`].

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn};
use boringtun::x25519;

use super::{PrivateKey, PublicKey};

pub(super) const INITIATION_LEN: usize = 148;
pub(super) const RESPONSE_LEN: usize = 92;
pub(super) const COOKIE_LEN: usize = 64;
pub(super) const DATA_MIN_LEN: usize = 32;

/// The kind of a message, with the receiver's session index where it has one.
///
/// `receiver >> 8` is the `TunnelConfig::index` of the tunnel it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first message of a handshake; [`initiator`] tells who sent it.
    Initiation,
    /// The answer to an initiation.
    Response {
        /// The initiator's session index.
        receiver: u32,
    },
    /// The answer of a loaded peer: "prove that you own your address".
    Cookie {
        /// The index the asker sent.
        receiver: u32,
    },
    /// A sealed packet, or a keepalive when it is 32 bytes long.
    Data {
        /// The receiver's session index.
        receiver: u32,
    },
}

/// The kind of `datagram`, by type and length alone; `None` when it is no WireGuard message.
///
/// Source: the WireGuard paper, section 5.4. The three reserved bytes must be zero.
pub fn classify(datagram: &[u8]) -> Option<Kind> {
    let kind = word(datagram, 0)?;
    match (kind, datagram.len()) {
        (1, INITIATION_LEN) => Some(Kind::Initiation),
        (2, RESPONSE_LEN) => Some(Kind::Response {
            receiver: word(datagram, 8)?,
        }),
        (3, COOKIE_LEN) => Some(Kind::Cookie {
            receiver: word(datagram, 4)?,
        }),
        (4, DATA_MIN_LEN..) => Some(Kind::Data {
            receiver: word(datagram, 4)?,
        }),
        _ => None,
    }
}

/// Who sent this initiation: the static key inside, which only `private` can read.
///
/// `None` when it is no initiation or not meant for this key. It costs one Diffie-Hellman, so ask
/// [`super::Limiter::admit`] first. The sender has not proved yet that it is who it says: a recorded initiation
/// passes here and fails in [`super::Tunnel::open`].
pub fn initiator(private: &PrivateKey, datagram: &[u8]) -> Option<PublicKey> {
    let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(datagram) else {
        return None;
    };
    let public = x25519::PublicKey::from(private.as_x25519());
    let half = parse_handshake_anon(private.as_x25519(), &public, &initiation).ok()?;
    Some(PublicKey::from_bytes(half.peer_static_public))
}

/// The sender's index of an initiation or a response.
pub(super) fn sender(handshake: &[u8]) -> Option<u32> {
    word(handshake, 4)
}

/// The counter of a data message.
pub(super) fn counter(data: &[u8]) -> Option<u64> {
    let bytes = data.get(8..16)?;
    Some(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
}
