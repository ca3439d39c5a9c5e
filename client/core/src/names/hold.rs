//! Answers that wait until their addresses have host routes. Decides which addresses need one; adds none itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kvpn_wire::range;

/// An answer waits for its routes at most this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Host routes that are remembered; when there are more, they are asked for again (adding one twice does no harm).
const MAX_ROUTED: usize = 4096;

/// What waits (of type `T`), and which routes exist.
#[derive(Debug)]
pub(super) struct Hold<T> {
    enabled: bool,
    ranges: Vec<IpNetwork>,
    routed: BTreeSet<IpAddr>,
    held: BTreeMap<u64, Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    what: T,
    addresses: Vec<IpAddr>,
    deadline: Instant,
}

impl<T> Hold<T> {
    pub(super) fn new(enabled: bool, ranges: Vec<IpNetwork>) -> Self {
        Self {
            enabled,
            ranges,
            routed: BTreeSet::new(),
            held: BTreeMap::new(),
        }
    }

    pub(super) fn set_ranges(&mut self, ranges: Vec<IpNetwork>) {
        self.ranges = ranges;
    }

    /// The interface was made anew: host routes are gone.
    pub(super) fn forget_routes(&mut self) {
        self.routed.clear();
    }

    /// Those of `addresses` that would not go into the tunnel although they should.
    pub(super) fn missing(&self, addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        if !self.enabled {
            return Vec::new();
        }
        let missing: BTreeSet<IpAddr> = addresses
            .filter(|address| range::is_private(*address))
            .filter(|address| {
                !range::contains(&self.ranges, *address) && !self.routed.contains(address)
            })
            .collect();
        missing.into_iter().collect()
    }

    pub(super) fn hold(&mut self, ticket: u64, addresses: Vec<IpAddr>, what: T, now: Instant) {
        self.held.insert(
            ticket,
            Held {
                what,
                addresses,
                deadline: now + PATIENCE,
            },
        );
    }

    /// The routes of `ticket` are there (`ok`), or cannot be: what waited for them may go.
    pub(super) fn release(&mut self, ticket: u64, ok: bool) -> Option<T> {
        let held = self.held.remove(&ticket)?;
        if ok {
            if self.routed.len() + held.addresses.len() > MAX_ROUTED {
                self.routed.clear();
            }
            self.routed.extend(held.addresses);
        }
        Some(held.what)
    }

    /// What waited for too long.
    pub(super) fn expired(&mut self, now: Instant) -> Option<T> {
        let ticket = self
            .held
            .iter()
            .find(|(_, held)| held.deadline <= now)
            .map(|(ticket, _)| *ticket)?;
        self.release(ticket, false)
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.held
            .values()
            .map(|held| (held.deadline, "host routes"))
            .min()
    }
}
