//! What is known of one path: probes under way, answers, misses. It compares no paths.

use std::time::{Duration, Instant};

use kvpn_wire::pmtud::Pmtud;

use crate::event::Path;
use crate::status::{PathState, PathStatus};

/// How long an answer is waited for while the round trip is not known.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);

/// Bounds of the wait for an answer.
const MIN_TIMEOUT: Duration = Duration::from_millis(500);
const MAX_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest wait for the answer to a handshake.
const MAX_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a gateway and a system take to answer, beside the round trip.
const DELAY: Duration = Duration::from_millis(100);

/// The shortest wait for an answer where a short silence says something.
const MIN_SHORT_TIMEOUT: Duration = Duration::from_millis(200);

/// Data may stay unanswered for so long before the path is suspected: at least, and when no round trip is known.
const MIN_PATIENCE: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_millis(500);

/// A path that has just answered a probe is not suspected for so long: a flow may go one way only.
const TRUST: Duration = Duration::from_millis(750);

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
    /// When the last probe went out.
    pub(super) probed: Option<Instant>,
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
    /// How long packets may be on UDP.
    pub(super) mtu: Pmtud,
}

/// A probe that was not answered yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outstanding {
    sequence: u16,
    size: usize,
    sent: Instant,
    /// When it counts as missed.
    due: Instant,
    /// When it goes out a second time.
    repeat: Option<Instant>,
    /// It went out twice: the answer tells nothing about the round trip (Karn's rule).
    repeated: bool,
}

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    due: Duration,
    repeat: Option<Duration>,
}

/// What is to be done about the probe under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expectation {
    /// There is none, or something else came meanwhile, which is as good as an answer.
    None,
    Waiting,
    /// The probe of this number and length goes out again.
    Repeat {
        sequence: u16,
        size: usize,
    },
    /// It counts as missed.
    Missed,
}

impl Entry {
    pub(super) fn closed() -> Self {
        Self {
            open: false,
            received: None,
            answered: None,
            rtt: None,
            probed: None,
            outstanding: None,
            misses: 0,
            first_miss: None,
            next: None,
            backoff: FIRST_BACKOFF,
            taken: None,
            mtu: Pmtud::default(),
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

    pub(super) fn probed(&mut self, sequence: u16, size: usize, wait: Wait, now: Instant) {
        self.probed = Some(now);
        self.outstanding = Some(Outstanding {
            sequence,
            size,
            sent: now,
            due: now + wait.due,
            repeat: wait.repeat.map(|after| now + after),
            repeated: false,
        });
        self.next = None;
    }

    /// Takes the round trip from an answer; false when that probe is not under way.
    pub(super) fn measure(&mut self, sequence: u16, now: Instant) -> bool {
        let Some(probe) = self.outstanding.filter(|probe| probe.sequence == sequence) else {
            return false;
        };
        if !probe.repeated {
            let rtt = now.saturating_duration_since(probe.sent);
            self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        }
        true
    }

    /// An answer of `size` bytes came on it. If longer ones were lost before it, a path in use gets the benefit of the
    /// doubt; one that is to be taken is not tried with packets that were lost.
    pub(super) fn carried(&mut self, size: usize, in_use: bool, now: Instant) {
        if size >= self.mtu.limit() || in_use {
            self.mtu.acknowledged(size, now);
        } else {
            self.mtu.fall_to(size, now);
        }
        if size < self.mtu.limit() {
            self.mtu.doubt(now);
        }
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

    /// Looks at the probe under way.
    pub(super) fn expect_answer(&mut self, now: Instant) -> Expectation {
        let Some(probe) = &mut self.outstanding else {
            return Expectation::None;
        };
        let heard = self.taken.is_some()
            && self.answered.is_some()
            && self.received.is_some_and(|received| received >= probe.sent);
        if probe.due > now {
            let repeat = probe.repeat.take_if(|at| *at <= now).filter(|_| !heard);
            probe.repeated |= repeat.is_some();
            let (sequence, size) = (probe.sequence, probe.size);
            return repeat.map_or(Expectation::Waiting, |_| Expectation::Repeat {
                sequence,
                size,
            });
        }
        self.outstanding = None;
        if heard {
            // Something shorter, perhaps.
            self.mtu.doubt(now);
            return Expectation::None;
        }
        self.mtu.pause();
        self.misses += 1;
        self.first_miss.get_or_insert(now);
        Expectation::Missed
    }

    /// When the probe under way is to be looked at.
    pub(super) fn answer_due(&self) -> Option<Instant> {
        self.outstanding
            .map(|probe| probe.repeat.unwrap_or(probe.due))
    }

    /// How long an answer is waited for.
    pub(super) fn wait(&self) -> Wait {
        let due = self.rtt.map_or(FIRST_TIMEOUT, |rtt| {
            (rtt * 4 + DELAY * 2).clamp(MIN_TIMEOUT, MAX_TIMEOUT)
        });
        Wait { due, repeat: None }
    }

    /// The wait where a short silence says something. The probe goes out twice in it.
    pub(super) fn short_wait(&self) -> Wait {
        let Some(rtt) = self.rtt else {
            return self.wait();
        };
        let due = (rtt * 5 / 4 + DELAY).clamp(MIN_SHORT_TIMEOUT, MAX_TIMEOUT);
        // So early that the second one's answer is in time too.
        let repeat = Some(DELAY);
        Wait { due, repeat }
    }

    /// How long the answer to a probe of the MTU is waited for: connections stand still while a lower one is not noticed.
    pub(super) fn mtu_wait(&self) -> Duration {
        self.short_wait().due * 3 / 2
    }

    /// Handshakes of a session that is not established are given more and more time, since nothing is known about the
    /// path.
    pub(super) fn handshake_wait(&self) -> Wait {
        let due = (FIRST_TIMEOUT * 2u32.pow(self.misses.min(3))).min(MAX_HANDSHAKE_TIMEOUT);
        Wait { due, repeat: None }
    }

    /// When data that was not answered since makes the path suspect.
    pub(super) fn suspected_at(&self, since: Instant) -> Instant {
        let patience = self
            .rtt
            .map_or(PATIENCE, |rtt| (rtt * 3 / 2 + DELAY).max(MIN_PATIENCE));
        let trusted = self.answered.map(|answered| answered + TRUST);
        (since + patience).max(trusted.unwrap_or(since))
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
