//! One episode of repairing losses: when it ends, and whether its first repetition went out. How much goes out is for `bbr.rs` to say.

use super::sequence::Seq;

/// One episode of repairing.
#[derive(Debug)]
pub(super) struct Recovery {
    /// It ends when this is acknowledged: SND.NXT when it began.
    pub(super) until: Seq,
    /// A retransmission timeout began it.
    pub(super) by_timeout: bool,
    /// The first repetition goes out whatever the window says.
    pub(super) first_due: bool,
}

impl Recovery {
    pub(super) fn new(until: Seq, by_timeout: bool) -> Self {
        Self {
            until,
            by_timeout,
            first_due: true,
        }
    }
}
