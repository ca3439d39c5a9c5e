//! When which flow has to be looked at again. Only flows that are due are visited, however many there are.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::event::FlowId;

/// Wake-up times in order, at most one a flow. The flow keeps its own in a slot, so that moving it needs no search.
///
/// A retransmission timer moves later with every acknowledgement. Such moves are not made here: the flow is woken at
/// the earlier time, finds nothing due, and asks for the later one. That costs a wake-up, not work on every packet.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    due: BTreeSet<(Instant, FlowId)>,
}

impl Deadlines {
    /// Makes sure that `flow` is woken at `at` or before.
    pub(crate) fn wake_by(&mut self, flow: FlowId, slot: &mut Option<Instant>, at: Instant) {
        if slot.is_some_and(|scheduled| scheduled <= at) {
            return;
        }
        self.cancel(flow, slot);
        self.due.insert((at, flow));
        *slot = Some(at);
    }

    pub(crate) fn cancel(&mut self, flow: FlowId, slot: &mut Option<Instant>) {
        if let Some(at) = slot.take() {
            self.due.remove(&(at, flow));
        }
    }

    /// The next flow that is due. Its slot must be cleared by the caller.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<FlowId> {
        let &(at, _) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first().map(|(_, flow)| flow)
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as a start")]
    fn earlier_moves_later_does_not() {
        let start = Instant::now();
        let [one, two] = [1, 2].map(|s| start + Duration::from_secs(s));
        let flow = FlowId(7);
        let (mut deadlines, mut slot) = (Deadlines::default(), None);
        deadlines.wake_by(flow, &mut slot, two);
        deadlines.wake_by(flow, &mut slot, one);
        deadlines.wake_by(flow, &mut slot, two);
        assert_eq!(deadlines.next(), Some(one));
        assert_eq!(deadlines.pop(start), None);
        assert_eq!(deadlines.pop(one), Some(flow));
        assert_eq!(deadlines.next(), None);
        slot = None;
        deadlines.wake_by(flow, &mut slot, two);
        deadlines.cancel(flow, &mut slot);
        assert_eq!((deadlines.next(), slot), (None, None));
    }
}
