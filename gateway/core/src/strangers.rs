//! Initiations whose senders have no session in this part of the gateway. They name their sender in encrypted form only, so whoever
//! receives one has to look first; it was admitted within the limits then, and whoever has the session takes it as it is.
//!
//! It must not know who has the session: that is the shell's.

use std::collections::VecDeque;

use kvpn_wire::wireguard::PublicKey;

use crate::path::Path;

/// A handshake's first message (WireGuard paper, section 5.4.2), in bytes.
const INITIATION: usize = 148;
/// Initiations that wait to be polled; they come at most as fast as they are admitted.
const MOST: usize = 256;

/// An initiation for another part of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Who says to have sent it; not proved yet.
    pub key: PublicKey,
    /// Where it came from. A stream's name means something to the part it came to only.
    pub path: Path,
    /// The datagram.
    pub initiation: [u8; INITIATION],
}

/// Those that were not polled yet.
#[derive(Debug, Default)]
pub(crate) struct Strangers(VecDeque<Stranger>);

impl Strangers {
    /// Keeps an initiation; `None` when there is no room.
    pub(crate) fn note(&mut self, path: Path, key: PublicKey, datagram: &[u8]) -> Option<()> {
        let initiation = datagram.try_into().ok()?;
        (self.0.len() < MOST).then(|| {
            self.0.push_back(Stranger {
                key,
                path,
                initiation,
            });
        })
    }

    /// The oldest.
    pub(crate) fn next(&mut self) -> Option<Stranger> {
        self.0.pop_front()
    }
}
