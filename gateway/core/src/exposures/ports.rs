//! The gateway's ports that exposures may have, for TCP and for UDP each.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use kvpn_wire::exposure::Protocol;
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
    taken: BTreeSet<(Protocol, u16)>,
    /// Something else in the pod has them.
    excluded: BTreeSet<(Protocol, u16)>,
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
    pub(super) fn take(
        &mut self,
        protocol: Protocol,
        wanted: Option<u16>,
    ) -> Result<u16, ExposureRefused> {
        let port = match wanted {
            Some(port) if OWN.contains(&port) || !self.is_free(protocol, port) => {
                return Err(ExposureRefused::PortInUse(port));
            }
            Some(port) => port,
            None => self.any(protocol).ok_or(ExposureRefused::NoPortLeft)?,
        };
        self.taken.insert((protocol, port));
        Ok(port)
    }

    fn any(&mut self, protocol: Protocol) -> Option<u16> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let mut candidates = (self.next..=last).chain(first..self.next);
        let port = candidates.find(|port| self.is_free(protocol, *port))?;
        self.next = if port == last { first } else { port + 1 };
        Some(port)
    }

    fn is_free(&self, protocol: Protocol, port: u16) -> bool {
        let port = (protocol, port);
        !self.taken.contains(&port) && !self.excluded.contains(&port)
    }

    pub(super) fn give_back(&mut self, protocol: Protocol, port: u16) {
        self.taken.remove(&(protocol, port));
    }

    pub(super) fn exclude(&mut self, protocol: Protocol, port: u16) {
        self.taken.remove(&(protocol, port));
        self.excluded.insert((protocol, port));
    }
}
