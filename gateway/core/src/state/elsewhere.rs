//! A state beside others: initiations that came to the wrong one, and what all share.

use std::time::Instant;

use super::{Elsewhere, GatewayState};
use crate::output::DropReason;
use crate::strangers::Stranger;

/// What a session's TCP buffers may hold however many sessions there are, in bytes.
const LEAST_MEMORY: usize = 256 << 10;

impl GatewayState {
    /// Takes an initiation that another part of the gateway has admitted: see [`Stranger`].
    pub fn handle_stranger(&mut self, stranger: &Stranger, now: Instant) {
        let Some(index) = self.sessions.with_key(&stranger.key) else {
            return self.output.totals.drops.count(DropReason::UnknownSession);
        };
        let mut packets = std::mem::take(&mut self.output.packets);
        self.open(
            index,
            stranger.path,
            &stranger.initiation,
            &mut packets,
            now,
        );
        self.output.packets = packets;
    }

    /// The next initiation whose sender has no session here: perhaps another part of the gateway has it.
    pub fn poll_stranger(&mut self) -> Option<Stranger> {
        self.strangers.next()
    }

    /// What the gateway's other parts have, which counts towards the limits and shares the memory for flows.
    pub fn set_elsewhere(&mut self, elsewhere: Elsewhere) {
        let share = self.elsewhere.with_flows != elsewhere.with_flows;
        self.elsewhere = elsewhere;
        if share {
            self.share_memory();
        }
    }

    /// How many sessions have, or had, flows of the userspace datapath.
    pub fn sessions_with_flows(&self) -> usize {
        self.with_flows
    }

    /// Gives each session that has flows its part of the memory for them.
    pub(super) fn share_memory(&mut self) {
        let sessions = self.sessions.iter();
        self.with_flows = sessions
            .filter(|session| session.netstack.is_some())
            .count();
        let count = self.with_flows + self.elsewhere.with_flows;
        let part = (self.config.limits.tcp_memory / count.max(1)).max(LEAST_MEMORY);
        for netstack in self
            .sessions
            .iter_mut()
            .filter_map(|session| session.netstack.as_mut())
        {
            netstack.set_memory(part);
        }
    }
}
