//! What keeps a session that sends more than its driver can serve from keeping the others waiting.
//!
//! A socket's queue is everybody's. As long as each turn of the loop is short and empties the sockets, nothing waits there, and datagrams
//! are opened where they were received. Otherwise the driver is behind: it empties the sockets into the core, which opens in turn by session,
//! and cuts its turns short.

use std::time::{Duration, Instant};

use kvpn_gateway_core::{GatewayState, Path};

use super::{Driver, clock};

/// A turn of the loop that is longer makes those wait who have sent little.
const LONG: Duration = Duration::from_millis(1);
/// How long what waits is opened before others have their turn.
const TURN: Duration = Duration::from_micros(500);
/// Receptions of the `udp` carrier that empty its socket, as a rule: 2,000 datagrams if the kernel joined none.
pub(super) const EMPTYING: usize = 256;

/// Takes datagrams in as it has to be done at present.
pub(super) fn take_in(
    behind: bool,
    state: &mut GatewayState,
    path: Path,
    bytes: &[u8],
    stride: usize,
    now: Instant,
) {
    if behind {
        state.queue_datagrams(path, bytes, stride, now);
    } else {
        state.handle_datagrams(path, bytes, stride, now);
    }
}

impl Driver {
    /// Opens what waits, as much as a turn has time for.
    pub(super) fn open_waiting(&mut self) {
        if !self.state.has_waiting() {
            return;
        }
        let start = clock();
        let mut now = start;
        while now.saturating_duration_since(start) < TURN {
            let more = self.state.handle_waiting(now);
            self.drain(now);
            if !more {
                return;
            }
            now = clock();
        }
    }

    /// Decides for the next turn, after the one that began at `start`.
    pub(super) fn judge_turn(&mut self, start: Instant) {
        let waits = self.state.has_waiting();
        self.behind = waits
            || self.state.is_shared()
                && (self.udp.is_readable() || clock().saturating_duration_since(start) >= LONG);
    }
}
