//! The timers of the WireGuard paper, section 6, on the caller's clock. Knows no keys and no packets.

use std::time::{Duration, Instant};

use super::{KEEPALIVE, REJECT_AFTER, REKEY_ATTEMPT, REKEY_TIMEOUT};

/// The longest jitter, exclusive, in milliseconds.
const JITTER: u64 = 334;

/// A handshake under way.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    /// When it began, or was last asked for by a packet.
    started: Instant,
    /// When the next initiation goes out.
    next: Instant,
}

/// What is due, as found by [`Timers::due`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Wipe all sessions.
    Forget,
    /// Give the handshake up, drop what waits for it.
    GiveUp,
    /// Send an initiation.
    Initiate,
    /// Send an empty packet, if there is a session.
    Keepalive,
    /// Send an empty packet; without a session, start a handshake.
    PersistentKeepalive,
}

/// All timers of one tunnel.
#[derive(Debug)]
pub(super) struct Timers {
    seed: u64,
    persistent: Option<Duration>,
    attempt: Option<Attempt>,
    last_handshake_sent: Option<Instant>,
    /// When traffic asked for a new session.
    rekey: Option<Instant>,
    /// When data that went out must have been answered.
    answer_due: Option<Instant>,
    /// When data that came in must have been answered.
    keepalive_due: Option<Instant>,
    persistent_due: Option<Instant>,
    forget_due: Option<Instant>,
}

impl Timers {
    pub(super) fn new(seed: u64, persistent: Option<Duration>, now: Instant) -> Self {
        Self {
            seed,
            persistent,
            attempt: None,
            last_handshake_sent: None,
            rekey: None,
            answer_due: None,
            keepalive_due: None,
            persistent_due: persistent.map(|interval| now + interval),
            forget_due: None,
        }
    }

    /// The earliest thing to come, and what it is for.
    pub(super) fn poll(&self) -> Option<(Instant, &'static str)> {
        let attempt = self
            .attempt
            .map(|attempt| attempt.next.min(attempt.started + REKEY_ATTEMPT));
        let timers = [
            (attempt, "handshake retry"),
            (self.rekey, "rekey"),
            (self.answer_due, "no answer"),
            (self.keepalive_due, "keepalive"),
            (self.persistent_due, "persistent keepalive"),
            (self.forget_due, "forget keys"),
        ];
        timers
            .into_iter()
            .filter_map(|(at, why)| Some((at?, why)))
            .min_by_key(|(at, _)| *at)
    }

    /// The next thing that is due, which is then no longer due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        let passed = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        if passed(self.forget_due) {
            self.forget_due = None;
            return Some(Due::Forget);
        }
        if let Some(attempt) = self.attempt {
            if now >= attempt.started + REKEY_ATTEMPT {
                self.attempt = None;
                self.answer_due = None;
                return Some(Due::GiveUp);
            }
            if now >= attempt.next {
                return Some(Due::Initiate);
            }
        }
        if passed(self.rekey) || passed(self.answer_due) {
            self.rekey = None;
            self.answer_due = None;
            if self.attempt.is_none() && self.begin(now) {
                return Some(Due::Initiate);
            }
        }
        if passed(self.keepalive_due) {
            self.keepalive_due = None;
            return Some(Due::Keepalive);
        }
        if passed(self.persistent_due) {
            self.rearm_persistent(now);
            return Some(Due::PersistentKeepalive);
        }
        None
    }

    /// A packet needs a session: begins a handshake, or gives the one under way another 90 s. True when an initiation
    /// is to be sent at once; otherwise one was sent less than 5 s ago, and [`Timers::due`] tells when the next is.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        if let Some(attempt) = &mut self.attempt {
            attempt.started = now;
            return false;
        }
        let earliest = self.last_handshake_sent.map(|sent| sent + REKEY_TIMEOUT);
        let next = match earliest {
            Some(earliest) if now < earliest => earliest + self.jitter(),
            Some(_) | None => now,
        };
        self.attempt = Some(Attempt { started: now, next });
        next <= now
    }

    /// Traffic shows that the session grows old: a handshake is due at once.
    pub(super) fn want_rekey(&mut self, now: Instant) {
        if self.attempt.is_none() {
            self.rekey.get_or_insert(now);
        }
    }

    pub(super) fn initiation_sent(&mut self, now: Instant) {
        let next = now + REKEY_TIMEOUT + self.jitter();
        let started = self.attempt.map_or(now, |attempt| attempt.started);
        self.attempt = Some(Attempt { started, next });
        self.rekey = None;
        self.last_handshake_sent = Some(now);
        self.sent(now);
    }

    pub(super) fn response_sent(&mut self, now: Instant) {
        self.last_handshake_sent = Some(now);
        self.sent(now);
    }

    /// New keys exist, confirmed or not.
    pub(super) fn session_made(&mut self, now: Instant) {
        self.forget_due = Some(now + 3 * REJECT_AFTER);
    }

    /// Both ends have the new keys.
    pub(super) fn handshake_complete(&mut self) {
        self.attempt = None;
        self.rekey = None;
        self.answer_due = None;
    }

    pub(super) fn data_sent(&mut self, now: Instant) {
        if self.answer_due.is_none() {
            self.answer_due = Some(now + KEEPALIVE + REKEY_TIMEOUT + self.jitter());
        }
        self.sent(now);
    }

    /// Something authenticated went out.
    pub(super) fn sent(&mut self, now: Instant) {
        self.keepalive_due = None;
        self.rearm_persistent(now);
    }

    pub(super) fn data_received(&mut self, now: Instant) {
        self.received(now);
        self.keepalive_due.get_or_insert(now + KEEPALIVE);
    }

    /// Something authenticated came in.
    pub(super) fn received(&mut self, now: Instant) {
        self.answer_due = None;
        self.rearm_persistent(now);
    }

    fn rearm_persistent(&mut self, now: Instant) {
        self.persistent_due = self.persistent.map(|interval| now + interval);
    }

    /// SplitMix64: enough to keep peers from falling into step.
    fn jitter(&mut self) -> Duration {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis((z ^ (z >> 31)) % JITTER)
    }
}
