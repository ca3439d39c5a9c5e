//! Which path is taken: when another one is better, and what is known of the one that is left.

use std::time::{Duration, Instant};

use super::entry::Entry;
use super::probing::{MAX_CANDIDATE_RETRY, RETRY};
use super::{ASK_AGAIN, Action, Paths, Wanted};
use crate::event::{Event, Path};

/// Missed probes after which another path that answered takes over.
pub(super) const MISSES_TO_LEAVE: u32 = 2;

/// A path that was in use for this long is trusted again at once.
const PROVEN: Duration = Duration::from_secs(60);

impl Paths {
    /// Whether the path in use works as far as is known.
    pub(super) fn is_healthy(&self) -> bool {
        let current = self.current.and_then(|path| self.entries.get(&path));
        self.established
            && !self.quiet
            && current.is_some_and(|entry| entry.open && entry.misses == 0)
    }

    /// Whether no better path needs to be looked for. Probes elsewhere would only draw the gateway away from this one.
    pub(super) fn is_settled(&self) -> bool {
        let current = self.current.filter(|path| *path != Path::Api);
        let proven = current
            .and_then(|path| self.entries.get(&path)?.answered)
            .is_some();
        proven && self.is_healthy()
    }

    pub(super) fn is_open(&self, path: Path) -> bool {
        self.entries.get(&path).is_some_and(|entry| entry.open)
    }

    pub(super) fn open_paths(&self) -> impl Iterator<Item = Path> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.open)
            .map(|(path, _)| *path)
    }

    /// Whether `path`, which has just answered, is to be taken instead of the path in use.
    pub(super) fn should_leave_for(&self, path: Path) -> bool {
        let Some((current, entry)) = self
            .current
            .and_then(|current| Some((current, self.entries.get(&current)?)))
        else {
            return true;
        };
        let better = current == Path::Api && path != Path::Api;
        better
            || self.quiet
            || !entry.open
            || entry.answered.is_none()
            || entry.misses >= MISSES_TO_LEAVE
    }

    /// Another path that answered since the path in use stopped to.
    pub(super) fn answering_since_miss_of(&self, current: Path) -> Option<Path> {
        let since = self.entries.get(&current)?.first_miss?;
        let answering = self.entries.iter().filter(|(path, entry)| {
            **path != current
                && entry.open
                && entry.answered.is_some_and(|answered| answered >= since)
        });
        answering
            .min_by_key(|(path, entry)| (**path == Path::Api, entry.rtt))
            .map(|(path, _)| *path)
    }

    pub(super) fn establish(&mut self, path: Path, now: Instant) {
        self.established = true;
        self.quiet = false;
        for entry in self.entries.values_mut() {
            entry.outstanding = None;
            entry.misses = 0;
        }
        self.take(path, now);
        self.retry_at(path, now);
        self.told = Some(path);
        self.actions
            .push_back(Action::Tell(Event::Established { path }));
    }

    pub(super) fn switch(&mut self, to: Path, now: Instant) {
        if self.current != Some(to) {
            self.take(to, now);
        }
        if let Some(from) = self.told.replace(to).filter(|from| *from != to) {
            self.actions
                .push_back(Action::Tell(Event::PathChanged { from, to }));
        }
    }

    /// From now on packets take `path`. A UDP path that is left is tried again later, the sooner the longer it served.
    pub(super) fn take(&mut self, path: Path, now: Instant) {
        if let Some(left) = self.current.replace(path).filter(|left| *left != path)
            && let Some(entry) = self.entries.get_mut(&left)
        {
            let proven = entry
                .taken
                .is_some_and(|taken| now.saturating_duration_since(taken) >= PROVEN);
            entry.backoff = if proven {
                RETRY
            } else {
                (entry.backoff * 2).clamp(RETRY, MAX_CANDIDATE_RETRY)
            };
            entry.taken = None;
            entry.mtu.pause();
        }
        for (other, entry) in &mut self.entries {
            if *other == path {
                entry.recovered();
                entry.taken = Some(now);
            } else if *other == Path::Api || path != Path::Api {
                entry.next = None;
            } else if entry.outstanding.is_none() {
                entry.next = Some(now + entry.wait_as_candidate());
            }
        }
        self.wait_for_nothing();
    }

    /// The path in use is gone: whichever answers first is taken.
    pub(super) fn leave_current(&mut self, now: Instant) {
        self.current = None;
        self.wait_for_nothing();
        for entry in self.entries.values_mut().filter(|entry| entry.open) {
            entry.renew(Entry::open(now));
        }
    }

    /// What was sent so far went another way.
    pub(super) fn wait_for_nothing(&mut self) {
        self.waiting_since = None;
        self.sent = None;
    }

    pub(super) fn want_api(&mut self, now: Instant) {
        self.api_wanted.get_or_insert(Wanted {
            ask_at: now,
            pause: ASK_AGAIN,
        });
    }
}
