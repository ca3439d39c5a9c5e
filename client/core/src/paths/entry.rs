//! What is known of one path: probes under way, answers, misses. It compares no paths.

use std::time::{Duration, Instant};

use crate::event::Path;
use crate::status::{PathState, PathStatus};

/// How long an answer is waited for while the round trip is not known.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// Bounds of the wait for an answer.
const MIN_TIMEOUT: Duration = Duration::from_millis(500);
const MAX_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest wait for the answer to a handshake.
const MAX_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Data may stay unanswered for so long before the path is suspected.
const PATIENCE: Duration = Duration::from_millis(500);

/// The first pause between two probes of a candidate.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// One path.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Whether its carrier is there. UDP always is.
    pub(super) open: bool,
    /// When something authentic last came on it.
    pub(super) received: Option<Instant>,
    /// When a probe on it was last answered: proof that it carries long datagrams.
    pub(super) answered: Option<Instant>,
    /// The round trip, smoothed.
    pub(super) rtt: Option<Duration>,
    /// The probe under way.
    pub(super) outstanding: Option<Outstanding>,
    /// Probes missed in a row.
    pub(super) misses: u32,
    /// When the first of them was missed.
    pub(super) first_miss: Option<Instant>,
    /// When it is to be probed next; none: not, or when idle if it is in use.
    pub(super) next: Option<Instant>,
    /// The last pause between probes as a candidate.
    pub(super) backoff: Duration,
    /// Since when it is in use.
    pub(super) taken: Option<Instant>,
}

/// A probe that was not answered yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outstanding {
    sequence: u16,
    sent: Instant,
}

impl Entry {
    pub(super) fn closed() -> Self {
        Self {
            open: false,
            received: None,
            answered: None,
            rtt: None,
            outstanding: None,
            misses: 0,
            first_miss: None,
            next: None,
            backoff: FIRST_BACKOFF,
            taken: None,
        }
    }

    /// Open, and to be probed at once.
    pub(super) fn open(now: Instant) -> Self {
        Self {
            open: true,
            next: Some(now),
            ..Self::closed()
        }
    }

    /// Open, and not to be probed before it is needed.
    pub(super) fn standby() -> Self {
        Self {
            open: true,
            ..Self::closed()
        }
    }

    /// Begins anew as `fresh`, but remembers what was measured.
    pub(super) fn renew(&mut self, fresh: Self) {
        *self = Self {
            rtt: self.rtt,
            received: self.received,
            ..fresh
        };
    }

    pub(super) fn probed(&mut self, sequence: u16, now: Instant) {
        self.outstanding = Some(Outstanding {
            sequence,
            sent: now,
        });
        self.next = None;
    }

    /// Takes the round trip from an answer; false when that probe is not under way.
    pub(super) fn measure(&mut self, sequence: u16, now: Instant) -> bool {
        let Some(probe) = self.outstanding.filter(|probe| probe.sequence == sequence) else {
            return false;
        };
        let rtt = now.saturating_duration_since(probe.sent);
        self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        true
    }

    /// Something came on it. A probe under way stays, for the round trip.
    pub(super) fn alive(&mut self) {
        self.misses = 0;
        self.first_miss = None;
        self.next = None;
    }

    /// A round trip on it was made.
    pub(super) fn recovered(&mut self) {
        self.outstanding = None;
        self.alive();
    }

    /// The wait for the probe under way is over; false when something else came meanwhile, which is as good as an answer.
    pub(super) fn missed(&mut self, now: Instant) -> bool {
        let sent = self.outstanding.take().map(|probe| probe.sent);
        if self.taken.is_some() && self.answered.is_some() && self.received >= sent {
            return false;
        }
        self.misses += 1;
        self.first_miss.get_or_insert(now);
        true
    }

    /// When the probe under way counts as missed. Handshakes of a session that is not established are given more and
    /// more time, since nothing is known about the path.
    pub(super) fn miss_at(&self, established: bool) -> Option<Instant> {
        let timeout = if established {
            self.rtt.map_or(FIRST_TIMEOUT, |rtt| {
                (rtt * 4 + Duration::from_millis(200)).clamp(MIN_TIMEOUT, MAX_TIMEOUT)
            })
        } else {
            (FIRST_TIMEOUT * 2u32.pow(self.misses.min(3))).min(MAX_HANDSHAKE_TIMEOUT)
        };
        self.outstanding.map(|probe| probe.sent + timeout)
    }

    /// How long data may stay unanswered.
    pub(super) fn patience(&self) -> Duration {
        self.rtt.map_or(PATIENCE, |rtt| (rtt * 2).max(PATIENCE))
    }

    /// When a path that is not in use is tried: at once if it never was, else after its pause.
    pub(super) fn wait_as_candidate(&self) -> Duration {
        let tried = self.answered.is_some() || self.misses > 0;
        if tried { self.backoff } else { Duration::ZERO }
    }

    pub(super) fn status(&self, path: Path, now: Instant) -> PathStatus {
        let state = if !self.open {
            PathState::Closed
        } else if self.misses > 0 {
            PathState::Silent
        } else if self.answered.is_some() || self.received.is_some() {
            PathState::Answering
        } else {
            PathState::Untried
        };
        let received_ago = self
            .received
            .map(|received| now.saturating_duration_since(received));
        PathStatus {
            path,
            state,
            rtt: self.rtt,
            received_ago,
        }
    }
}
