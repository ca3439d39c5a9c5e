//! The gateway's ports that exposures may have. A number is given once, for TCP or for UDP.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use kvpn_wire::{API_CARRIER_PORT, CONTROL_PORT, HEALTH_PORT, WIREGUARD_PORT};

use super::ExposureRefused;

/// Ports of the gateway's own, which nobody gets by asking.
const OWN: [u16; 5] = [
    53,
    CONTROL_PORT,
    API_CARRIER_PORT,
    HEALTH_PORT,
    WIREGUARD_PORT,
];

/// Which ports are taken.
#[derive(Debug)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    taken: BTreeSet<u16>,
    /// Something else in the pod has them.
    excluded: BTreeSet<u16>,
    /// Where to look first: a port is used again as late as possible, because callers' connections to it linger.
    next: u16,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self {
            next: *range.start(),
            range,
            taken: BTreeSet::new(),
            excluded: BTreeSet::new(),
        }
    }

    /// The wanted port (of any range: callers of a headless Service know it already), or any that is free.
    pub(super) fn take(&mut self, wanted: Option<u16>) -> Result<u16, ExposureRefused> {
        let port = match wanted {
            Some(port) if OWN.contains(&port) || !self.is_free(port) => {
                return Err(ExposureRefused::PortInUse(port));
            }
            Some(port) => port,
            None => self.any().ok_or(ExposureRefused::NoPortLeft)?,
        };
        self.taken.insert(port);
        Ok(port)
    }

    fn any(&mut self) -> Option<u16> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let mut candidates = (self.next..=last).chain(first..self.next);
        let port = candidates.find(|port| self.is_free(*port))?;
        self.next = if port == last { first } else { port + 1 };
        Some(port)
    }

    fn is_free(&self, port: u16) -> bool {
        !self.taken.contains(&port) && !self.excluded.contains(&port)
    }

    pub(super) fn give_back(&mut self, port: u16) {
        self.taken.remove(&port);
    }

    pub(super) fn exclude(&mut self, port: u16) {
        self.taken.remove(&port);
        self.excluded.insert(port);
    }
}
