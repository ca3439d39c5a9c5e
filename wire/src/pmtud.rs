//! How long a packet one path carries: Datagram Packetization Layer Path MTU Discovery (RFC 8899) for the `udp` carrier.
//!
//! All lengths are of inner packets. The client sends probes, echo requests from its stub's address that programs cannot use,
//! and the gateway answers each by one just as long: what is found holds for both directions. The client's findings go to the
//! gateway in the probes themselves, so that each end knows what it may send.
//!
//! It sends nothing and knows no path: it says which probe is due, and is told what was answered.

use std::time::{Duration, Instant};

/// The least that a path has to carry, in bytes: with 80 around it (IPv6 40, UDP 8, WireGuard 32) the least IPv6 path of 1280.
pub const MIN: usize = 1200;
/// What is assumed at the start (`BASE_PLPMTU`): with 80 around it 1440 bytes, less than most overlays and tunnels leave of 1500.
pub const BASE: usize = 1360;
/// The most that is tried: with 60 around it (IPv4) 1500 bytes.
pub const MAX: usize = 1440;

/// Sizes differ by this. WireGuard pads to it, so no packet that fits a limit is sealed longer than the limit's probe was.
const STEP: usize = 16;
/// Probes of one size that are lost before it counts as too long (`MAX_PROBES`).
const MAX_PROBES: u32 = 3;
/// The same of a size that passed before: a path that loses one of ten each way must not seem to have narrowed.
const MAX_CONFIRMATIONS: u32 = 6;
/// What was found is confirmed this often (`CONFIRMATION_TIMER`); a little later than an idle path is probed anyway.
const CONFIRM: Duration = Duration::from_secs(6);
/// What was too long is tried again after this (`PMTU_RAISE_TIMER`).
const RAISE: Duration = Duration::from_secs(600);

/// Where in a probe's payload its sender's limit stands, in two bytes of network order.
const REPORT: std::ops::Range<usize> = 8..10;
/// The shortest payload of a probe, in bytes.
pub const MIN_PAYLOAD: usize = REPORT.end;

/// Says in a probe's payload of at least [`MIN_PAYLOAD`] bytes what its sender's limit is.
pub fn write_limit(payload: &mut [u8], limit: usize) {
    let limit = u16::try_from(limit).unwrap_or(u16::MAX);
    payload[REPORT].copy_from_slice(&limit.to_be_bytes());
}

/// What a probe says of its sender's limit, within [`MIN`] and [`MAX`].
pub fn read_limit(payload: &[u8]) -> Option<usize> {
    let bytes = payload.get(REPORT)?.try_into().ok()?;
    Some(usize::from(u16::from_be_bytes(bytes)).clamp(MIN, MAX))
}

/// What is known of one path.
#[derive(Debug, Clone)]
pub struct Pmtud {
    limit: usize,
    /// Whether something of that length passed.
    confirmed: bool,
    /// The least length that did not pass; more than [`MAX`] when there is none.
    ceiling: usize,
    /// The limit itself is probed before anything longer: it is in doubt, or fell, of which the other end has to hear.
    in_doubt: bool,
    probe: Option<Probe>,
    /// When the next probe goes out; none before the path answered at all.
    next: Option<Instant>,
    raise: Option<Instant>,
}

/// A probe under way.
#[derive(Debug, Clone, Copy)]
struct Probe {
    size: usize,
    tries: u32,
    /// When it counts as lost.
    due: Instant,
}

impl Default for Pmtud {
    fn default() -> Self {
        Self {
            limit: BASE,
            confirmed: false,
            ceiling: MAX + STEP,
            in_doubt: false,
            probe: None,
            next: None,
            raise: None,
        }
    }
}

impl Pmtud {
    /// The longest packet that may be sent, in bytes, a multiple of 16.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether something as long as the limit was lost, and it is not known yet whether by its length; or it fell just now.
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// A probe of `size` bytes was answered.
    pub fn acknowledged(&mut self, size: usize, now: Instant) {
        let changed = size > self.limit || !self.confirmed;
        if changed {
            self.limit = size.clamp(MIN, MAX);
            self.confirmed = true;
        }
        if size < self.limit {
            return;
        }
        self.in_doubt = changed && size < BASE;
        self.ceiling = self.ceiling.max(self.limit + STEP);
        self.probe.take_if(|probe| probe.size <= size);
        // After a change at once, which tells the other end.
        let settled = !changed && self.longer().is_none();
        let pause = if settled { CONFIRM } else { Duration::ZERO };
        self.next = Some(now + pause);
    }

    /// The path carries `size` bytes, while something longer was lost: nothing longer is sent until it was answered.
    pub fn fall_to(&mut self, size: usize, now: Instant) {
        self.limit = size.clamp(MIN, MAX);
        self.confirmed = true;
        self.in_doubt = true;
        self.probe = None;
        self.next = Some(now);
    }

    /// Something as long as the limit was lost: it is looked at now.
    pub fn doubt(&mut self, now: Instant) {
        if self.confirmed && !self.in_doubt && self.limit > MIN {
            self.in_doubt = true;
            self.probe = None;
            self.next = Some(now);
        }
    }

    /// Nothing at all is answered, which says nothing about lengths.
    pub fn pause(&mut self) {
        self.probe = None;
        self.in_doubt = false;
    }

    /// The length of the probe to send now, if one is due; its answer is waited for as long as `patience`.
    pub fn handle_timeout(&mut self, patience: Duration, now: Instant) -> Option<usize> {
        let tries = match self.probe {
            Some(probe) if probe.due > now => return None,
            Some(probe) if probe.tries < self.max_tries(probe.size) => probe.tries,
            Some(probe) => {
                self.lost(probe.size, now);
                0
            }
            None => 0,
        };
        if self.raise.take_if(|at| *at <= now).is_some() {
            self.ceiling = MAX + STEP;
            self.next = Some(now);
        }
        if self.next.is_none_or(|at| at > now) {
            return None;
        }
        let again = self.probe.map(|probe| probe.size);
        let size = again.unwrap_or_else(|| {
            self.longer()
                .filter(|_| !self.in_doubt)
                .unwrap_or(self.limit)
        });
        self.probe = Some(Probe {
            size,
            tries: tries + 1,
            due: now + patience,
        });
        Some(size)
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.probe {
            Some(probe) => Some(probe.due),
            None => self.next.into_iter().chain(self.raise).min(),
        }
    }

    /// All probes of a size were lost.
    fn lost(&mut self, size: usize, now: Instant) {
        self.probe = None;
        self.next = Some(now);
        if size > self.limit {
            self.ceiling = self.ceiling.min(size);
            self.raise = Some(now + RAISE);
        } else if size > MIN {
            // A black hole (RFC 8899, section 4.3), if it was not bad luck: the search begins anew.
            self.limit = MIN;
            self.ceiling = MAX + STEP;
            self.in_doubt = true;
        } else {
            self.next = Some(now + CONFIRM);
        }
    }

    fn max_tries(&self, size: usize) -> u32 {
        if size > self.limit {
            MAX_PROBES
        } else {
            MAX_CONFIRMATIONS
        }
    }

    /// The next longer size to try: that of the start, the longest, then half-way to what is known to be too long.
    fn longer(&self) -> Option<usize> {
        let room = self.ceiling - self.limit;
        let size = match () {
            () if room <= STEP => return None,
            () if self.limit < BASE && BASE < self.ceiling => BASE,
            () if self.ceiling > MAX => MAX,
            () => self.limit + room / 2 / STEP * STEP,
        };
        Some(size)
    }
}

#[cfg(test)]
mod tests;
