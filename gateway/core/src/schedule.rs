//! Which session is to be woken when. Deadlines that move later are left where they are: the session wakes
//! early, finds nothing to do and says anew; that is cheaper than moving an entry with every packet.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::event::SessionIndex;

/// When the session wants to be woken, and what for (for logs).
pub(crate) type Deadline = (Instant, &'static str);

/// The wake-ups of all sessions: at most one a session.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    entries: BTreeMap<(Instant, SessionIndex), &'static str>,
    by_session: BTreeMap<SessionIndex, Instant>,
}

impl Schedule {
    /// Makes sure that `session` is woken no later than at `deadline`.
    pub(crate) fn wake_by(&mut self, session: SessionIndex, deadline: Deadline) {
        let (at, why) = deadline;
        match self.by_session.get(&session) {
            Some(&earlier) if earlier <= at => return,
            Some(&later) => drop(self.entries.remove(&(later, session))),
            None => {}
        }
        self.entries.insert((at, session), why);
        self.by_session.insert(session, at);
    }

    /// Takes the next session whose wake-up is due at `now`.
    pub(crate) fn due(&mut self, now: Instant) -> Option<SessionIndex> {
        let entry = self
            .entries
            .first_entry()
            .filter(|entry| entry.key().0 <= now)?;
        let (_, session) = entry.remove_entry().0;
        self.by_session.remove(&session);
        Some(session)
    }

    /// Forgets a session.
    pub(crate) fn remove(&mut self, session: SessionIndex) {
        if let Some(at) = self.by_session.remove(&session) {
            self.entries.remove(&(at, session));
        }
    }

    /// The earliest wake-up.
    pub(crate) fn next(&self) -> Option<Deadline> {
        self.entries
            .first_key_value()
            .map(|(&(at, _), &why)| (at, why))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn keeps_the_earliest_wake_up_of_each_session() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::default();
        schedule.wake_by(SessionIndex(1), (after(10), "lease"));
        schedule.wake_by(SessionIndex(1), (after(20), "late"));
        schedule.wake_by(SessionIndex(2), (after(15), "other"));
        assert_eq!(schedule.next(), Some((after(10), "lease")));
        schedule.wake_by(SessionIndex(2), (after(5), "sooner"));
        assert_eq!(schedule.due(after(4)), None);
        assert_eq!(schedule.due(after(30)), Some(SessionIndex(2)));
        schedule.remove(SessionIndex(1));
        assert_eq!(schedule.due(after(30)), None);
        assert_eq!(schedule.next(), None);
    }
}
