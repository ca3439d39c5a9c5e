//! When a flow may send: bytes in proportion to time, in portions that are worth a wake-up (draft-ietf-ccwg-bbr section 5.6.2). It reads
//! no clock and does not know why the rate is what it is.

use crate::clock::Time;

/// Microseconds.
const SECOND: u64 = 1_000_000;
/// What is sent at once, as time at the rate: as long as the timers of the programs around the stack are exact.
const PORTION: u64 = 1_000;
/// Time that may be made up for at once when the timer that was waited for is late. On an idle machine that is a portion; on a busy one
/// programs wait longer for a processor, and a flow that lost this time would deliver less, take that for the path's bandwidth, and slow down
/// further.
const LATE: u64 = 10_000;
/// Most bytes of a portion: a super-packet.
const MOST: u64 = 64 * 1024;
/// Segments that may go out at once at any rate: a first flight (RFC 6928).
const AT_ONCE: u64 = 10;

/// What one flow may send.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Millionths of a byte, so that a rate times microseconds leaves no remainder.
    credit: u64,
    at: Time,
    /// What is sent at once, in bytes.
    portion: u64,
    /// Nothing but time keeps the flow from sending.
    waiting: bool,
}

impl Pacer {
    pub(super) fn new(mss: u32, now: Time) -> Self {
        Self {
            credit: AT_ONCE * u64::from(mss) * SECOND,
            at: now,
            portion: u64::from(mss),
            waiting: false,
        }
    }

    /// Bytes that are sent at once at this rate.
    pub(super) fn portion(rate: u64, mss: u32) -> u64 {
        (rate * PORTION / SECOND).clamp(2 * u64::from(mss), MOST)
    }

    /// How many of the `wanted` bytes may go out now, at `rate` bytes a second; when less than a portion may, nothing.
    ///
    /// Time in which something else kept the flow from sending earns a portion and no more: what comes at once when that is over would
    /// be a burst.
    pub(super) fn allows(&mut self, wanted: u32, rate: u64, mss: u32, now: Time) -> u32 {
        self.earn(rate, mss, now);
        let credit = self.credit / SECOND;
        self.waiting = credit < u64::from(wanted);
        if !self.waiting {
            wanted
        } else if credit >= self.portion {
            credit as u32
        } else {
            0
        }
    }

    fn earn(&mut self, rate: u64, mss: u32, now: Time) {
        self.portion = Self::portion(rate, mss);
        let passed = now.since(self.at);
        if passed == 0 {
            return;
        }
        let late = if self.waiting {
            rate * LATE / SECOND
        } else {
            0
        };
        let most = (self.portion + late).max(AT_ONCE * u64::from(mss)) * SECOND;
        let earned = rate.saturating_mul(passed);
        self.credit = self.credit.saturating_add(earned).min(most);
        self.at = now;
    }

    pub(super) fn spend(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_sub(u64::from(bytes) * SECOND);
    }

    /// When a portion may go out.
    pub(super) fn ready_at(&self, rate: u64) -> Time {
        let missing = (self.portion * SECOND).saturating_sub(self.credit);
        self.at.plus(missing.div_ceil(rate.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;
    /// 100 bytes a microsecond.
    const RATE: u64 = 100_000_000;

    fn at(micros: u64) -> Time {
        Time::default().plus(micros)
    }

    /// Sends as much as it may, `late` microseconds after it may; returns bytes in `until` microseconds and the largest burst.
    fn send(rate: u64, late: u64, until: u64) -> (u64, u64) {
        let (mut pacer, mut now) = (Pacer::new(MSS, at(0)), at(0));
        let (mut sent, mut largest) = (0, 0);
        while now < at(until) {
            let mut burst = 0;
            loop {
                let len = pacer.allows(64_000, rate, MSS, now) / MSS * MSS;
                if len == 0 {
                    break;
                }
                pacer.spend(len);
                burst += u64::from(len);
            }
            sent += burst;
            largest = largest.max(burst);
            now = pacer.ready_at(rate).plus(late);
        }
        (sent, largest)
    }

    #[test]
    fn as_many_bytes_as_the_rate_says() {
        for rate in [50_000, 1_000_000, RATE, 10 * RATE] {
            for late in [0, 900, 5_000, LATE] {
                let (sent, largest) = send(rate, late, 1_000_000);
                let most = rate * (late + PORTION) / SECOND + 12 * u64::from(MSS);
                assert!(sent.abs_diff(rate) <= most, "{sent} at {rate}, {late}");
                assert!(largest <= most, "{largest} at {rate}, {late}");
            }
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut pacer = Pacer::new(MSS, at(0));
        let most = u64::from(pacer.allows(0, RATE, MSS, at(10_000_000)));
        assert_eq!(most, 0);
        let burst = pacer.allows(u32::MAX, RATE, MSS, at(10_000_000));
        assert_eq!(u64::from(burst), MOST);
    }

    #[test]
    fn little_goes_out_at_once() {
        let mut pacer = Pacer::new(MSS, at(0));
        assert_eq!(pacer.allows(10 * MSS, 1000, MSS, at(0)), 10 * MSS);
        pacer.spend(10 * MSS);
        assert_eq!(pacer.allows(1, 1000, MSS, at(0)), 0);
        assert_eq!(pacer.ready_at(1000), at(2 * SECOND));
    }
}
