//! Which path packets take: what is known of each, when to probe it, when to take another, when all are silent.
//!
//! Decisions only; a probe is a round trip through the gateway that somebody else makes. The rules:
//!
//! - a path that carried nothing back for 5 s is probed (each second, whatever it carries, where the gateway waits for signs of life), and one that did not answer data for about a round trip and a
//!   half, though not much oftener than once a second;
//! - a UDP path in use whose round trip is known gets little time for an answer, and each probe twice: a cut is found in
//!   about half a second, while one datagram of twenty lost on the way leads nowhere;
//! - after its first miss all others are probed too, after the second the one that answered takes over;
//! - UDP is better than `api`: while `api` is in use, UDP candidates are probed with growing pauses;
//! - a handshake, which is short, proves that the session works, but not that the path carries long datagrams: that takes
//!   a probe. So handshakes go over `api` first, and a path without a proof is left for any that has one;
//! - the gateway answers where it was last heard, so after a candidate's miss the path in use is probed at once,
//!   to lead the gateway back;
//! - a probe on UDP is as long as the longest packet sent there, so that a path which loses those is not taken; after a miss
//!   a short one tells whether the path is dead or only narrower. How long packets may be on the path in use is searched by
//!   further probes, where the gateway answers such ([`kvpn_wire::pmtud`]);
//! - when every open path missed three probes and nothing came for 8 s, the session is quiet.

mod choice;
mod entry;
mod probing;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::entry::Entry;
use crate::config::CarrierChoice;
use crate::event::{Event, Path};
use crate::status::PathStatus;

/// Missed probes after which a path counts as silent.
const MISSES_TO_GIVE_UP: u32 = 3;

/// Without anything for this long, silent paths make a quiet session.
const QUIET: Duration = Duration::from_secs(8);

/// The longest pause between probes of a silent path that data waits for.
const WANTED_AGAIN: Duration = Duration::from_secs(1);

/// Pauses between calls for an `api` carrier: the first, and the longest.
const ASK_AGAIN: Duration = Duration::from_secs(2);
const MAX_ASK_AGAIN: Duration = Duration::from_secs(30);

/// What the paths want done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make a round trip on `path`.
    Probe {
        path: Path,
        /// Which probe; the answer bears it too.
        sequence: u16,
        /// How long a packet it has to be, in bytes; 0 where length does not matter.
        size: usize,
        /// The keys may be at fault: make a handshake as well.
        fresh: bool,
    },
    /// Tell the shell.
    Tell(Event),
}

/// All paths of a session.
#[derive(Debug)]
pub(crate) struct Paths {
    choice: CarrierChoice,
    /// Whether the gateway answers probes of a path's MTU.
    discovers_mtu: bool,
    entries: BTreeMap<Path, Entry>,
    current: Option<Path>,
    /// The path that the shell was told last.
    told: Option<Path>,
    established: bool,
    quiet: bool,
    /// The first data that was not answered by anything yet, as far as is known.
    waiting_since: Option<Instant>,
    /// The last data on the path in use.
    sent: Option<Instant>,
    /// When something authentic last came on any path, or the session began.
    heard: Instant,
    sequence: u16,
    /// The gateway wants a sign of life each second.
    shows_life: bool,
    api_wanted: Option<Wanted>,
    actions: VecDeque<Action>,
}

/// An `api` carrier is missing. Stays while one is open that never answered: one that opens and breaks, again and
/// again, is asked for no faster than one that cannot be opened.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    ask_at: Instant,
    pause: Duration,
}

impl Paths {
    pub(crate) fn new(
        choice: CarrierChoice,
        discovers_mtu: bool,
        candidates: &[SocketAddr],
        now: Instant,
    ) -> Self {
        let mut paths = Self {
            choice,
            discovers_mtu,
            entries: BTreeMap::new(),
            current: None,
            told: None,
            established: false,
            quiet: false,
            waiting_since: None,
            sent: None,
            heard: now,
            sequence: 0,
            shows_life: false,
            api_wanted: None,
            actions: VecDeque::new(),
        };
        if choice.api() {
            paths.entries.insert(Path::Api, Entry::closed());
        }
        paths.set_candidates(candidates, now);
        paths
    }

    /// Replaces the UDP candidates; known ones keep what is known of them.
    pub(crate) fn set_candidates(&mut self, candidates: &[SocketAddr], now: Instant) {
        let wanted = |path: &Path| match path {
            Path::Api => true,
            Path::Udp(address) => candidates.contains(address),
        };
        if self.current.is_some_and(|path| !wanted(&path)) {
            self.leave_current(now);
        }
        self.entries.retain(|path, _| wanted(path));
        if self.choice.udp() {
            let settled = self.is_settled();
            let new = || {
                if settled {
                    Entry::standby()
                } else {
                    Entry::open(now)
                }
            };
            for address in candidates {
                self.entries.entry(Path::Udp(*address)).or_insert_with(new);
            }
        }
        self.handle_timeout(now);
    }

    /// Whether the path in use is probed each second, as a sign of life, and not only when it is idle.
    pub(crate) fn show_life(&mut self, show: bool) {
        self.shows_life = show;
    }

    /// The path that packets take.
    pub(crate) fn current(&self) -> Option<Path> {
        self.current
    }

    pub(crate) fn established(&self) -> bool {
        self.established && !self.quiet
    }

    /// The longest packet that the path in use carries, in bytes; `None` for `api`, where it does not matter.
    pub(crate) fn limit(&self) -> Option<usize> {
        let path = self.current.filter(|path| *path != Path::Api)?;
        self.limit_of(path)
    }

    /// The same of any UDP path.
    pub(crate) fn limit_of(&self, path: Path) -> Option<usize> {
        let entry = self.entries.get(&path).filter(|_| path != Path::Api)?;
        Some(entry.mtu.limit())
    }

    /// The round trip on the path in use.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.entries.get(&self.current?)?.rtt
    }

    pub(crate) fn status(&self, now: Instant) -> Vec<PathStatus> {
        self.entries
            .iter()
            .map(|(path, entry)| entry.status(*path, now))
            .collect()
    }

    /// All open paths in the order in which handshakes go out. The last one has its handshake for itself: `api`, which is
    /// known to work, else UDP candidates take turns there.
    pub(crate) fn handshake_order(&self) -> Vec<Path> {
        let mut udp: Vec<Path> = self
            .open_paths()
            .filter(|path| *path != Path::Api)
            .collect();
        let round = usize::from(self.sequence) / self.entries.len().max(1);
        let turn = round % udp.len().max(1);
        udp.rotate_left(turn);
        udp.extend(self.is_open(Path::Api).then_some(Path::Api));
        udp
    }

    /// A new session on the same carriers.
    pub(crate) fn restart(&mut self, discovers_mtu: bool, now: Instant) {
        self.discovers_mtu = discovers_mtu;
        self.current = None;
        self.told = None;
        self.established = false;
        self.quiet = false;
        self.heard = now;
        self.probe_all(now);
    }

    /// The laptop's network changed or it slept: nothing known holds.
    pub(crate) fn probe_all(&mut self, now: Instant) {
        self.wait_for_nothing();
        for entry in self.entries.values_mut().filter(|entry| entry.open) {
            entry.renew(Entry::open(now));
        }
        if let Some(wanted) = &mut self.api_wanted {
            *wanted = Wanted {
                ask_at: now,
                pause: ASK_AGAIN,
            };
        }
        self.handle_timeout(now);
    }

    pub(crate) fn opened(&mut self, path: Path, now: Instant) {
        let allowed = match path {
            Path::Api => self.choice.api(),
            Path::Udp(_) => self.choice.udp(),
        };
        if !allowed {
            return;
        }
        let fresh = if self.is_settled() {
            Entry::standby()
        } else {
            Entry::open(now)
        };
        let entry = self.entries.entry(path).or_insert_with(Entry::closed);
        entry.renew(fresh);
        if path == Path::Api && self.established && self.current.is_none() {
            self.take(path, now);
            self.retry_at(path, now);
        }
        self.handle_timeout(now);
    }

    pub(crate) fn closed(&mut self, path: Path, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&path) {
            entry.renew(Entry::closed());
        }
        if self.current == Some(path) {
            self.leave_current(now);
        }
        if path == Path::Api && self.choice.api() {
            self.want_api(now);
        }
        self.handle_timeout(now);
    }

    /// Data went out on the path in use.
    pub(crate) fn data_sent(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
        self.sent = Some(now);
    }

    /// Data waits because no path is known to work: none is left alone for long then.
    pub(crate) fn data_waits(&mut self, now: Instant) {
        for entry in self.entries.values_mut().filter(|entry| entry.open) {
            entry.next = entry.next.map(|at| at.min(now + WANTED_AGAIN));
        }
    }

    /// Something authentic came on `path`.
    pub(crate) fn received(&mut self, path: Path, now: Instant) {
        let Some(entry) = self.entries.get_mut(&path).filter(|entry| entry.open) else {
            return;
        };
        // What was sent less than a round trip ago cannot be what is answered here.
        let round_trip = entry.rtt.unwrap_or_default();
        self.waiting_since = self.sent.filter(|sent| *sent + round_trip > now);
        self.heard = now;
        entry.received = Some(now);
        if path == Path::Api {
            self.api_wanted = None;
        }
        if self.current == Some(path) {
            entry.alive();
        }
        if !self.established || self.quiet {
            self.establish(path, now);
        }
    }

    /// The probe `sequence` was answered on `path`, by a packet of `size` bytes.
    pub(crate) fn probe_answered(&mut self, path: Path, sequence: u16, size: usize, now: Instant) {
        let in_use = self.current == Some(path);
        let Some(entry) = self.entries.get_mut(&path).filter(|entry| entry.open) else {
            return;
        };
        if self.discovers_mtu && path != Path::Api {
            entry.carried(size, in_use, now);
        }
        if entry.measure(sequence, now) {
            self.answered(path, now);
        }
    }

    fn answered(&mut self, path: Path, now: Instant) {
        let Some(entry) = self.entries.get_mut(&path).filter(|entry| entry.open) else {
            return;
        };
        entry.recovered();
        entry.answered = Some(now);
        if self.current == Some(path) || self.should_leave_for(path) {
            self.switch(path, now);
        }
        self.handle_timeout(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for path in self.handshake_order() {
            self.check(path, now);
        }
        self.probe_mtu(now);
        if self.quiet_at().is_some_and(|at| at <= now) {
            self.quiet = true;
            self.actions.push_back(Action::Tell(Event::Quiet));
            if self.choice.api() && !self.is_open(Path::Api) {
                self.want_api(now);
            }
        }
        let api_is_open = self.is_open(Path::Api);
        if let Some(wanted) = self
            .api_wanted
            .as_mut()
            .filter(|wanted| wanted.ask_at <= now && !api_is_open)
        {
            wanted.ask_at = now + wanted.pause;
            wanted.pause = (wanted.pause * 2).min(MAX_ASK_AGAIN);
            self.actions
                .push_back(Action::Tell(Event::ApiCarrierWanted));
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let probes = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.open)
            .filter_map(|(path, entry)| {
                entry
                    .answer_due()
                    .map(|at| (at, "probe unanswered"))
                    .or_else(|| Some((self.probe_at(*path, entry)?, "probe")))
            });
        let mtu = self
            .searched()
            .and_then(|(_, entry)| entry.mtu.poll_timeout())
            .map(|at| (at, "path mtu"));
        let quiet = self.quiet_at().map(|at| (at, "quiet"));
        let wanted = self.api_wanted.filter(|_| !self.is_open(Path::Api));
        let wanted = wanted.map(|wanted| (wanted.ask_at, "api carrier"));
        probes
            .chain(mtu)
            .chain(quiet)
            .chain(wanted)
            .min_by_key(|(at, _)| *at)
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When the session counts as quiet, if nothing comes until then.
    fn quiet_at(&self) -> Option<Instant> {
        let mut open = self.entries.values().filter(|entry| entry.open).peekable();
        open.peek()?;
        let silent = !self.quiet && open.all(|entry| entry.misses >= MISSES_TO_GIVE_UP);
        silent.then(|| self.heard + QUIET)
    }
}

#[cfg(test)]
mod tests;
