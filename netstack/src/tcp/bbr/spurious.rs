//! Losses that were none: what followed from them is taken back (draft-ietf-ccwg-bbr section 5.5.10.4, BBRHandleSpuriousLossDetection).

use super::{Bbr, Phase};

/// What losses change.
#[derive(Debug)]
pub(super) struct Undo {
    phase: Phase,
    bandwidth_low: u64,
    inflight_low: u32,
    inflight_high: u32,
}

impl Bbr {
    /// The first loss of another recovery is about to have its effect.
    pub(super) fn remember(&mut self) {
        self.undo = Some(Undo {
            phase: self.phase,
            bandwidth_low: self.bandwidth_low,
            inflight_low: self.inflight_low,
            inflight_high: self.inflight_high,
        });
    }

    /// All that was sent again in the last recovery had arrived before.
    pub(in crate::tcp) fn lost_nothing(&mut self) {
        let Some(undo) = self.undo.take() else {
            return;
        };
        self.latest.forget_losses();
        self.full.reset(0);
        self.bandwidth_low = self.bandwidth_low.max(undo.bandwidth_low);
        self.inflight_low = self.inflight_low.max(undo.inflight_low);
        self.inflight_high = self.inflight_high.max(undo.inflight_high);
        if undo.phase == Phase::Startup && self.phase != Phase::ProbeRtt {
            self.full.reached = false;
            self.phase = Phase::Startup;
        }
    }
}
