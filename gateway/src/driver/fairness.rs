//! What keeps a session that sends more than its driver can serve from keeping the others waiting.
//!
//! A socket's queue is everybody's. As long as each turn of the loop is short, nothing waits there and datagrams are opened where they
//! were received. After a long turn the sockets are emptied into the core, which opens in turn by session, and the turns are cut short.

use std::time::{Duration, Instant};

use super::{Driver, clock};

/// A turn of the loop that is longer makes those wait who have sent little.
const TURN: Duration = Duration::from_micros(500);
/// Receptions of the `udp` carrier that empty its socket, as a rule: 2,000 datagrams if the kernel joined none.
pub(super) const EMPTYING: usize = 256;
/// Datagrams that are opened before what they ask for is done: each may cost several system calls.
const OPENED: usize = 8;

impl Driver {
    /// Opens what waits, as much as a turn has time for.
    pub(super) fn open_waiting(&mut self) {
        if !self.state.has_waiting() {
            return;
        }
        let start = clock();
        let mut now = start;
        while now.saturating_duration_since(start) < TURN {
            let opened = (0..OPENED)
                .take_while(|_| self.state.handle_waiting(now))
                .count();
            self.drain(now);
            if opened < OPENED {
                return;
            }
            now = clock();
        }
    }

    /// Decides for the next turn, after the one that began at `start`.
    pub(super) fn judge_turn(&mut self, start: Instant) {
        let long = clock().saturating_duration_since(start) >= TURN;
        self.behind = self.state.has_waiting() || (long && self.state.is_shared());
    }
}
