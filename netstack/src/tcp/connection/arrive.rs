//! What a segment that comes in does to a connection (RFC 9293 section 3.10.7, with RFC 5961).

use super::{CHALLENGES, Connection, Context, SECOND, Stage};
use crate::tcp::segment::Segment;
use crate::tcp::sequence::Seq;

/// What became of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Taken,
    /// It belongs to something that this connection is not: the answer is a RST.
    Stray,
    /// There was no memory for it; the peer will send it again.
    NoMemory,
}

impl Connection {
    /// Takes a segment in.
    pub(in crate::tcp) fn arrive(
        &mut self,
        segment: &Segment,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Arrival {
        match self.stage {
            Stage::SynSent => self.arrive_at_syn_sent(segment, context),
            Stage::SynReceived => self.arrive_at_syn_received(segment, payload, context),
            Stage::Open => self.arrive_at_open(segment, payload, context),
            Stage::Finished | Stage::Reset => Arrival::Taken,
        }
    }

    /// RFC 9293 section 3.10.7.3.
    fn arrive_at_syn_sent(&mut self, segment: &Segment, context: &mut Context<'_>) -> Arrival {
        let right = |ack: Seq| ack == self.iss.plus(1) && self.syns > 0;
        let acknowledged = segment.ack.is_some_and(right);
        if segment.ack.is_some() && !acknowledged {
            return if segment.rst {
                Arrival::Taken
            } else {
                Arrival::Stray
            };
        }
        if segment.rst {
            self.stage = if acknowledged {
                Stage::Reset
            } else {
                self.stage
            };
        } else if segment.syn && !segment.fin {
            self.agree(segment, context);
            if acknowledged {
                self.connect(context);
                self.receiver.owe();
            } else {
                self.stage = Stage::SynReceived;
                self.syn_due = true;
            }
        }
        Arrival::Taken
    }

    fn arrive_at_syn_received(
        &mut self,
        segment: &Segment,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Arrival {
        let repeated = segment.syn && segment.seq.plus(1) == self.receiver.nxt();
        if segment.rst {
            if segment.seq == self.receiver.nxt() {
                self.stage = Stage::Reset;
            }
            return Arrival::Taken;
        }
        if segment.opens() {
            self.syn_due |= repeated;
            return Arrival::Taken;
        }
        if segment.ack != Some(self.iss.plus(1)) || self.syns == 0 {
            let late = segment.ack.is_none();
            return if late { Arrival::Taken } else { Arrival::Stray };
        }
        if !repeated && !self.receiver.accepts(segment) {
            self.syn_due = true;
            return Arrival::Taken;
        }
        self.connect(context);
        if repeated {
            // Both sides sent a SYN at once, this is the peer's again (RFC 9293 section 3.5, figure 8).
            self.receiver.owe();
            return Arrival::Taken;
        }
        self.arrive_at_open(segment, payload, context)
    }

    fn connect(&mut self, context: &Context<'_>) {
        self.stage = Stage::Open;
        self.syn_due = false;
        if self.syns == 1 {
            let trip = context.now.since(self.syn_at);
            self.sender.timed(trip, context.now);
        }
        self.sender.round_trip.answered();
    }

    fn arrive_at_open(
        &mut self,
        segment: &Segment,
        payload: &[u8],
        context: &mut Context<'_>,
    ) -> Arrival {
        if !self.receiver.accepts(segment) {
            self.refuse(segment, context);
            return Arrival::Taken;
        }
        if segment.rst {
            self.reset(segment, context);
            return Arrival::Taken;
        }
        let Some(ack) = segment.ack.filter(|_| !segment.syn) else {
            if segment.syn {
                self.challenge(context);
            }
            return Arrival::Taken;
        };
        if !self
            .sender
            .acknowledged(segment, ack, context.memory, context.now)
        {
            self.challenge(context);
            return Arrival::Taken;
        }
        let kept = (segment.len == 0 && !segment.fin) || self.receive(segment, payload, context);
        self.end_if_both_finished();
        if kept {
            Arrival::Taken
        } else {
            Arrival::NoMemory
        }
    }

    fn receive(&mut self, segment: &Segment, payload: &[u8], context: &mut Context<'_>) -> bool {
        let kept = self.receiver.receive(segment, payload, context.memory);
        if self.receiver.is_finished() && !self.sender.fin_sent() {
            self.passive = true;
        }
        self.receiver
            .tune(self.sender.round_trip.smoothed(), context.now);
        kept
    }

    fn end_if_both_finished(&mut self) {
        if self.passive && self.sender.fin_acknowledged() {
            self.stage = Stage::Finished;
        }
    }

    /// A segment outside of the window is answered by an acknowledgement that says what is expected.
    fn refuse(&mut self, segment: &Segment, context: &Context<'_>) {
        if segment.rst {
            return;
        }
        let old = segment.len > 0 && !segment.end().is_after(self.receiver.nxt());
        if segment.syn || !old {
            return self.challenge(context);
        }
        self.receiver.came_again(segment);
    }

    /// RFC 5961 section 3: only the exact number resets.
    fn reset(&mut self, segment: &Segment, context: &Context<'_>) {
        if segment.seq != self.receiver.nxt() {
            return self.challenge(context);
        }
        // The peer finished, has everything but perhaps our FIN, and forgot the flow before its last word came through; or something
        // old made it say so (RFC 1337).
        let ends_well = self.receiver.is_finished()
            && self.sender.fin_sent()
            && self.sender.outgoing.is_empty();
        self.stage = if ends_well {
            Stage::Finished
        } else {
            Stage::Reset
        };
    }

    /// Says where we stand, not too often: two ends that find each other's segments wrong would never stop.
    fn challenge(&mut self, context: &Context<'_>) {
        if context.now.since(self.challenges_since) >= SECOND {
            self.challenges_since = context.now;
            self.challenges = CHALLENGES;
        }
        if self.challenges > 0 {
            self.challenges -= 1;
            self.receiver.owe();
        }
    }
}
