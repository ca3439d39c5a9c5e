//! The WireGuard session of one peer, behind which boringtun hides; nothing else imports it.
//!
//! boringtun's `Tunn` does the handshake and the session crypto. The timers of the WireGuard paper
//! (section 6) are ours, because boringtun reads the clock itself: every method takes `now`.
//!
//! ```text
//! packet  -> seal()  -> datagram, or queued and perhaps a handshake to send
//! datagram -> open() -> packet, or a reply to send; after Established or a first Packet: flush_queued() until None
//! poll_timeout() passed -> handle_timeout() until None, each result is a datagram to send
//! ```
//!
//! What boringtun still takes from the system itself: ephemeral keys (`OsRng`), the timestamp in an initiation
//! (wall clock, only compared with the same peer's former ones), and the age by which cookies rotate. Its own
//! timer function is called only around handshakes (`Cipher::tick`), so that it can tell an older session from a newer one.
//!
//! Known limits: the replay window is 1024 packets; the low 8 bits of a session index count up.
//! This module must not know what is inside the packets, beyond their length.

mod cipher;
mod key;
mod limiter;
mod message;
mod reason;
mod sessions;
mod timers;
mod tunnel;

pub use key::{BadKey, PresharedKey, PrivateKey, PublicKey};
pub use limiter::{Admission, Limiter};
pub use message::{Kind, classify, initiator};
pub use reason::Reason;
pub use tunnel::{Opened, Sealed, Tunnel, TunnelConfig};

use std::time::Duration;

/// Bytes that sealing adds to a (padded) packet: 16 of header, 16 of authentication tag.
pub const OVERHEAD: usize = 32;

/// The longest handshake message: an initiation. Every `out` buffer must have room for it.
pub const MAX_HANDSHAKE: usize = 148;

/// After this time the initiator of a session that still sends asks for a new one.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);

/// After this time a session is neither sent nor received on.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);

/// How long an unanswered initiation is waited for, before jitter of up to a third of a second.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);

/// After this time without an answer the attempts at a handshake end, until there is something to send.
pub const REKEY_ATTEMPT: Duration = Duration::from_secs(90);

/// How long received data may stay unanswered before an empty packet is sent.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
