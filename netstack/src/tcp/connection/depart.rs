//! What a connection sends next.

use kvpn_wire::packet::{TcpFlags, build};

use super::{Connection, Context, Stage};
use crate::flows::Tuple;
use crate::outbox::Outbox;
use crate::tcp::header::{Departure, max_payload};
use crate::tcp::options::Writer;
use crate::tcp::receiver::shift_for;
use crate::tcp::sender::Outbound;
use crate::tcp::sequence::Seq;

/// The longest bare segment: IPv6 and TCP headers.
const MAX_BARE: usize = 60;

impl Connection {
    /// The next segment, or several in one; it counts as sent. `most`: bytes of payload, but at least one segment's.
    pub(in crate::tcp) fn depart(
        &mut self,
        most: usize,
        context: &mut Context<'_>,
    ) -> Option<Departure> {
        match self.stage {
            Stage::SynSent | Stage::SynReceived => self.depart_syn(context),
            Stage::Open => self.depart_open(most, context),
            Stage::Finished => self
                .receiver
                .owes()
                .then(|| self.bare(self.sender.nxt(), context)),
            Stage::Reset => None,
        }
    }

    fn depart_syn(&mut self, context: &mut Context<'_>) -> Option<Departure> {
        if !std::mem::take(&mut self.syn_due) {
            return None;
        }
        self.syns += 1;
        self.syn_at = context.now;
        let answering = self.stage == Stage::SynReceived;
        let (shift, sack) = match answering {
            true => (
                self.receiver.scaled().then(|| shift_for(context.buffer)),
                self.sender.has_sack(),
            ),
            false => (Some(shift_for(context.buffer)), true),
        };
        self.told_window = self.receiver.syn_window();
        Some(Departure {
            seq: self.iss,
            ack: answering.then(|| self.receiver.nxt()),
            flags: TcpFlags::SYN,
            window: self.told_window,
            options: Writer::syn(context.mss as u16, shift, sack),
            len: 0,
            size: 0,
        })
    }

    fn depart_open(&mut self, most: usize, context: &mut Context<'_>) -> Option<Departure> {
        let options = Writer::sack(&self.receiver.blocks());
        let len = options.bytes().len() as u32;
        let size = self.sender.segment_size(context.mss, len);
        let longest = max_payload(self.v4, len);
        let most = u32::try_from(most).map_or(longest, |most| most.min(longest));
        // Whole segments, so that none is cut short.
        let most = (most / size * size).max(size);
        if let Some(outbound) = self.sender.next(size, most, context.now) {
            return Some(self.data(&outbound, size, options, context));
        }
        let probing = self.sender.persist(context.now) | std::mem::take(&mut self.asking);
        if probing {
            // A number that the peer has: it answers with where it stands (RFC 9293 section 3.8.4).
            return Some(self.bare(self.sender.una().minus(1), context));
        }
        let due = self.receiver.owes() || self.receiver.has_news(context.memory);
        due.then(|| self.bare(self.sender.nxt(), context))
    }

    fn data(
        &mut self,
        outbound: &Outbound,
        size: u32,
        options: Writer,
        context: &mut Context<'_>,
    ) -> Departure {
        let mut flags = TcpFlags::ACK;
        if outbound.fin {
            flags = flags.with(TcpFlags::FIN);
        }
        if outbound.push && outbound.len > 0 {
            flags = flags.with(TcpFlags::PSH);
        }
        Departure {
            len: outbound.len,
            size: size as u16,
            flags,
            options,
            ..self.bare(outbound.seq, context)
        }
    }

    fn bare(&mut self, seq: Seq, context: &mut Context<'_>) -> Departure {
        let options = Writer::sack(&self.receiver.blocks());
        self.told_window = self.receiver.window_field(context.memory);
        self.receiver.acknowledged();
        Departure {
            seq,
            ack: Some(self.receiver.nxt()),
            flags: TcpFlags::ACK,
            window: self.told_window,
            options,
            len: 0,
            size: 0,
        }
    }

    /// The payload of what [`Connection::depart`] gave.
    pub(in crate::tcp) fn payload(&self, departure: &Departure) -> [&[u8]; 2] {
        self.sender.payload(departure.seq, departure.len)
    }

    /// Ends it with a RST, at once.
    pub(in crate::tcp) fn abort(&mut self, tuple: &Tuple, outbox: &mut Outbox) {
        let known = match self.stage {
            Stage::SynReceived | Stage::Open => self.syns > 0,
            Stage::SynSent | Stage::Finished | Stage::Reset => false,
        };
        self.stage = Stage::Reset;
        if !known {
            return;
        }
        let segment = build::Segment {
            sequence: self.sender.nxt().0,
            acknowledgement: self.receiver.nxt().0,
            flags: TcpFlags::RST.with(TcpFlags::ACK),
            ..build::Segment::default()
        };
        outbox.push_with(MAX_BARE, |buf| {
            build::tcp(tuple.own, tuple.peer, &segment, buf).unwrap_or(0)
        });
    }
}
