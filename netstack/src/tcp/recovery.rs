//! How much may go out while losses are being repaired: proportional rate reduction (RFC 6937). Numbers only, in bytes.

use super::sequence::Seq;

/// One episode of repairing.
#[derive(Debug)]
pub(super) struct Recovery {
    /// It ends when this is acknowledged: SND.NXT when it began.
    pub(super) until: Seq,
    /// A retransmission timeout began it: slow start decides how much goes out.
    pub(super) by_timeout: bool,
    /// The first repetition goes out whatever the window says.
    pub(super) first_due: bool,
    /// Bytes in flight when it began.
    began_with: u32,
    delivered: u32,
    sent: u32,
}

impl Recovery {
    pub(super) fn new(until: Seq, flight: u32, by_timeout: bool) -> Self {
        Self {
            until,
            by_timeout,
            first_due: true,
            began_with: flight.max(1),
            delivered: 0,
            sent: 0,
        }
    }

    pub(super) fn sent(&mut self, bytes: u32) {
        self.sent = self.sent.saturating_add(bytes);
        self.first_due = false;
    }

    /// So many bytes arrived; returns the window to keep to.
    pub(super) fn window(&mut self, delivered: u32, pipe: u32, threshold: u32, mss: u32) -> u32 {
        self.delivered = self.delivered.saturating_add(delivered);
        let more = if pipe > threshold {
            let share = u64::from(self.delivered) * u64::from(threshold);
            let share = share.div_ceil(u64::from(self.began_with));
            u32::try_from(share)
                .unwrap_or(u32::MAX)
                .saturating_sub(self.sent)
        } else {
            let limit = self.delivered.saturating_sub(self.sent).max(delivered) + mss;
            (threshold - pipe).min(limit)
        };
        pipe.saturating_add(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6937 section 4, figure 3: of 20 segments the first is lost; 7/10 of them are left in the end.
    #[test]
    fn the_window_sinks_in_proportion() {
        let mss = 100;
        let mut recovery = Recovery::new(Seq(2000), 2000, false);
        let (mut pipe, mut sent) = (1900, 0);
        for _ in 0..19 {
            pipe -= mss;
            let window = recovery.window(mss, pipe, 1400, mss);
            while pipe + mss <= window {
                pipe += mss;
                sent += 1;
                recovery.sent(mss);
            }
        }
        assert!((13..=14).contains(&sent), "{sent}");
        assert!((1300..=1400).contains(&pipe), "{pipe}");
    }

    /// When most was lost, it does not send more than slow start would.
    #[test]
    fn after_a_heavy_loss_it_grows_slowly() {
        let mut recovery = Recovery::new(Seq(2000), 2000, false);
        assert_eq!(recovery.window(100, 200, 1400, 100), 400);
        recovery.sent(200);
        assert_eq!(recovery.window(100, 300, 1400, 100), 500);
    }
}
