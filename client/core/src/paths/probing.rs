//! When a path is probed, and what follows when it does not answer. Which path is taken is decided next door.

use std::time::{Duration, Instant};

use kvpn_wire::pmtud;

use super::choice::MISSES_TO_LEAVE;
use super::entry::{Entry, Expectation};
use super::{Action, MISSES_TO_GIVE_UP, Paths};
use crate::event::Path;

/// The path in use is probed when nothing came on it for this long.
const IDLE: Duration = Duration::from_secs(5);

/// Pause between two signs of life: a gateway that had none for 5 s counts the laptop as gone.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Pause before the third probe of the path in use, so that a short stall does not end a session.
const STALL: Duration = Duration::from_secs(2);

/// Pauses between probes of a silent path: the first, and the longest for the path in use.
pub(super) const RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// The longest pause between probes of a UDP candidate.
pub(super) const MAX_CANDIDATE_RETRY: Duration = Duration::from_secs(300);

impl Paths {
    pub(super) fn check(&mut self, path: Path, now: Instant) {
        let Some(entry) = self.entries.get_mut(&path) else {
            return;
        };
        match entry.expect_answer(now) {
            Expectation::None => {}
            Expectation::Waiting => return,
            Expectation::Repeat { sequence, size } => {
                return self.actions.push_back(Action::Probe {
                    path,
                    sequence,
                    size,
                    fresh: false,
                });
            }
            Expectation::Missed => self.handle_miss(path, now),
        }
        let due = self
            .entries
            .get(&path)
            .and_then(|entry| self.probe_at(path, entry));
        if due.is_some_and(|at| at <= now) {
            self.probe(path, now);
        }
    }

    fn probe(&mut self, path: Path, now: Instant) {
        let wait = match self.entries.get(&path) {
            Some(entry) if self.is_urgent(path, entry) => entry.short_wait(),
            Some(entry) if self.established => entry.wait(),
            Some(entry) => entry.handshake_wait(),
            None => return,
        };
        let discovers_mtu = self.discovers_mtu;
        let Some(entry) = self.entries.get_mut(&path) else {
            return;
        };
        let size = match path {
            Path::Api => 0,
            // It may be the length that is at fault.
            Path::Udp(_) if discovers_mtu && (entry.misses % 2 == 1 || entry.mtu.is_in_doubt()) => {
                pmtud::MIN
            }
            Path::Udp(_) => entry.mtu.limit(),
        };
        self.sequence = self.sequence.wrapping_add(1);
        entry.probed(self.sequence, size, wait, now);
        let fresh = entry.misses >= MISSES_TO_LEAVE;
        self.actions.push_back(Action::Probe {
            path,
            sequence: self.sequence,
            size,
            fresh,
        });
    }

    /// Probes of the MTU of the path in use, beside those of whether it works.
    pub(super) fn probe_mtu(&mut self, now: Instant) {
        let Some((path, _)) = self.searched() else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&path) else {
            return;
        };
        let patience = entry.mtu_wait();
        if let Some(size) = entry.mtu.handle_timeout(patience, now) {
            self.sequence = self.sequence.wrapping_add(1);
            self.actions.push_back(Action::Probe {
                path,
                sequence: self.sequence,
                size,
                fresh: false,
            });
        }
    }

    /// The path whose MTU is looked for: the UDP path in use, while it works.
    pub(super) fn searched(&self) -> Option<(Path, &Entry)> {
        let path = self.current.filter(|path| *path != Path::Api)?;
        let entry = self.entries.get(&path)?;
        (self.discovers_mtu && self.is_healthy()).then_some((path, entry))
    }

    /// When `path` is to be probed, if no probe is under way.
    pub(super) fn probe_at(&self, path: Path, entry: &Entry) -> Option<Instant> {
        if path != Path::Api && self.waits_for_api() {
            return None;
        }
        if entry.next.is_some() || self.current != Some(path) {
            return entry.next;
        }
        let idle = if self.shows_life {
            entry.probed.unwrap_or(self.heard) + SIGN_OF_LIFE
        } else {
            entry.received.unwrap_or(self.heard) + IDLE
        };
        let unanswered = self.waiting_since.map(|since| entry.suspected_at(since));
        Some(unanswered.map_or(idle, |unanswered| unanswered.min(idle)))
    }

    /// Whether a short silence says something about `path`, and something can be done about it.
    fn is_urgent(&self, path: Path, entry: &Entry) -> bool {
        let in_use = self.established && self.current == Some(path) && path != Path::Api;
        in_use && entry.answered.is_some()
    }

    /// Whether the first handshake is under way on `api`.
    fn waits_for_api(&self) -> bool {
        let api = self.entries.get(&Path::Api).filter(|entry| entry.open);
        !self.established && api.is_some_and(|entry| entry.misses == 0)
    }

    fn handle_miss(&mut self, path: Path, now: Instant) {
        if !self.established {
            self.retry_at(path, now);
        } else if self.current == Some(path) {
            self.handle_current_miss(path, now);
        } else {
            self.handle_candidate_miss(path, now);
        }
    }

    fn handle_current_miss(&mut self, path: Path, now: Instant) {
        let misses = self.entries.get(&path).map_or(0, |entry| entry.misses);
        match misses {
            0 | 1 => {
                self.retry_at(path, now);
                self.probe_others(path, now);
                if self.choice.api() && !self.is_open(Path::Api) {
                    self.want_api(now);
                }
            }
            2 => self.retry_at(path, now + STALL),
            _ => self.retry_at(path, now + pause(misses - MISSES_TO_GIVE_UP, MAX_RETRY)),
        }
        if misses >= MISSES_TO_LEAVE
            && let Some(better) = self.answering_since_miss_of(path)
        {
            self.switch(better, now);
        }
    }

    fn handle_candidate_miss(&mut self, path: Path, now: Instant) {
        let (healthy, settled) = (self.is_healthy(), self.is_settled());
        let Some(entry) = self.entries.get_mut(&path).filter(|_| !settled) else {
            return;
        };
        if !healthy && entry.misses < MISSES_TO_GIVE_UP {
            entry.next = Some(now);
            return;
        }
        let longest = if healthy {
            MAX_CANDIDATE_RETRY
        } else {
            MAX_RETRY
        };
        entry.backoff = (entry.backoff * 2).min(longest);
        entry.next = Some(now + entry.backoff);
        if let Some(current) = self.current.filter(|_| healthy) {
            self.retry_at(current, now);
        }
    }

    pub(super) fn retry_at(&mut self, path: Path, at: Instant) {
        if let Some(entry) = self
            .entries
            .get_mut(&path)
            .filter(|entry| entry.outstanding.is_none())
        {
            entry.next = Some(at);
        }
    }

    fn probe_others(&mut self, than: Path, now: Instant) {
        let others = self
            .entries
            .iter_mut()
            .filter(|(path, entry)| **path != than && entry.open);
        for (_, entry) in others {
            if entry.outstanding.is_none() {
                entry.misses = 0;
                entry.next = Some(now);
            }
        }
    }
}

/// 5 s, doubled `times` times, at most `longest`.
fn pause(times: u32, longest: Duration) -> Duration {
    (RETRY * 2u32.pow(times.min(8))).min(longest)
}
