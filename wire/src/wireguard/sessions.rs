//! Which sessions boringtun holds, how old they are, and which one is sent on.
//!
//! A mirror of the ring inside `Tunn`, which does not tell; no crypto here.

use std::time::{Duration, Instant};

use super::{REJECT_AFTER, REKEY_AFTER};

/// boringtun keeps eight sessions, at their index modulo eight.
const SLOTS: usize = 8;

/// One session: the pair of indices that a handshake agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    /// The index by which the peer addresses us.
    pub(super) ours: u32,
    /// The index by which we address the peer.
    pub(super) theirs: u32,
    /// When the keys were made.
    pub(super) born: Instant,
    /// Whether we started the handshake; then it is on us to ask for the next one.
    pub(super) initiator: bool,
    /// Whether the peer has proved that it has the keys: at once for the initiator, with the first data for the responder.
    pub(super) confirmed: bool,
}

impl Session {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.age(now) < REJECT_AFTER
    }

    /// Whether this end should ask for a new session because it sent on this one.
    pub(super) fn wants_successor(&self, now: Instant) -> bool {
        self.wants_successor_after(REKEY_AFTER, now)
    }

    /// Whether this end should ask for a new session, when the limit is `after`.
    pub(super) fn wants_successor_after(&self, after: Duration, now: Instant) -> bool {
        self.initiator && self.age(now) >= after
    }
}

/// All sessions of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: [Option<Session>; SLOTS],
    /// The index (ours) of the newest confirmed session.
    current: Option<u32>,
}

impl Sessions {
    pub(super) fn insert(&mut self, session: Session) {
        self.slots[slot(session.ours)] = Some(session);
        if session.confirmed {
            self.current = Some(session.ours);
        }
    }

    /// The session that the peer addresses by `ours`.
    pub(super) fn by_ours(&self, ours: u32) -> Option<&Session> {
        self.slots[slot(ours)]
            .as_ref()
            .filter(|session| session.ours == ours)
    }

    /// The session on which a datagram to the peer's index `theirs` was sealed.
    pub(super) fn by_theirs(&self, theirs: u32) -> Option<&Session> {
        let current = self.current().filter(|session| session.theirs == theirs);
        current.or_else(|| {
            self.slots
                .iter()
                .flatten()
                .find(|session| session.theirs == theirs)
        })
    }

    /// Notes that authenticated data came on `ours`; true when that was the first, which completes the handshake.
    pub(super) fn confirm(&mut self, ours: u32) -> bool {
        let current_born = self.current().map(|session| session.born);
        match &mut self.slots[slot(ours)] {
            Some(session) if session.ours == ours && !session.confirmed => {
                session.confirmed = true;
                if current_born.is_none_or(|born| session.born >= born) {
                    self.current = Some(ours);
                }
                true
            }
            Some(_) | None => false,
        }
    }

    /// The session that is sent on.
    pub(super) fn current(&self) -> Option<&Session> {
        self.by_ours(self.current?)
            .filter(|session| session.confirmed)
    }

    /// Forgets what nothing may be sent on any more; unconfirmed ones stay.
    pub(super) fn forget_confirmed(&mut self) {
        for slot in &mut self.slots {
            *slot = slot.take().filter(|session| !session.confirmed);
        }
        self.current = None;
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn slot(ours: u32) -> usize {
    ours as usize % SLOTS
}
