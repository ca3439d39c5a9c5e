//! Figures about a session, for `kvpn status`. A snapshot of plain values; nothing here changes the session.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::Path;

/// A snapshot of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The path that packets take, once one was chosen.
    pub path: Option<Path>,
    /// Whether the gateway answered and has not gone quiet since.
    pub established: bool,
    /// Age of the last WireGuard handshake.
    pub handshake_age: Option<Duration>,
    /// Round trip of the last probes on [`Status::path`], smoothed.
    pub rtt: Option<Duration>,
    /// The longest packet that [`Status::path`] carries, in bytes.
    pub mtu: usize,
    /// Bytes of WireGuard datagrams sent.
    pub sent_bytes: u64,
    /// Bytes of authentic WireGuard datagrams received.
    pub received_bytes: u64,
    /// Flows of programs that are tracked, open or recently idle.
    pub flows: usize,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Every path known.
    pub paths: Vec<PathStatus>,
}

/// A path and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStatus {
    /// Which path.
    pub path: Path,
    /// What it is good for.
    pub state: PathState,
    /// Round trip of its last probes, smoothed.
    pub rtt: Option<Duration>,
    /// Time since something authentic arrived on it.
    pub received_ago: Option<Duration>,
}

/// What a path is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// Its carrier is not there.
    Closed,
    /// There, never answered so far.
    Untried,
    /// Answered its last probe.
    Answering,
    /// Did not answer its last probe.
    Silent,
}

impl PathState {
    /// The word that users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Untried => "untried",
            Self::Answering => "answering",
            Self::Silent => "silent",
        }
    }
}
