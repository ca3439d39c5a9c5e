//! What is known of one flow from the segments that pass: where it stands, and how its sender fares. The device tells
//! it what goes out, the connection what comes in.

use smoltcp::time::Instant;

use super::Segment;
use super::numbers::{Numbers, Sent, is_after};
use super::sender::Sender;
use crate::flows::Tuple;

/// The numbers and the sender of one flow.
#[derive(Debug)]
pub(crate) struct Track {
    tuple: Tuple,
    pub(super) numbers: Numbers,
    pub(super) sender: Sender,
    /// Where smoltcp goes on.
    position: u32,
    /// smoltcp is being rewound on purpose.
    pub(super) rewinding: bool,
    /// smoltcp's own timer ran out, and the window that it was shown is too large now.
    pub(super) timed_out: bool,
}

impl Track {
    pub(super) fn new(tuple: Tuple) -> Self {
        Self {
            tuple,
            numbers: Numbers::default(),
            sender: Sender::default(),
            position: 0,
            rewinding: false,
            timed_out: false,
        }
    }

    /// Takes note of a packet that goes out, and corrects it; returns how much of it is to be sent.
    pub(crate) fn sent(&mut self, packet: &mut [u8], now: Instant) -> usize {
        let before = self.numbers;
        let Some(sent) = self.numbers.sent(packet) else {
            return packet.len();
        };
        if sent.syn {
            self.sender.sent_syn(sent.end, now);
            return packet.len();
        }
        if self
            .sender
            .first()
            .is_some_and(|first| is_after(first, sent.sequence))
        {
            // A keep-alive, which repeats what was acknowledged on purpose.
            return packet.len();
        }
        self.watch_timer(&sent);
        if self.sender.sent(&sent, now) {
            return packet.len();
        }
        if self.numbers.acknowledges_like(&before) {
            return 0;
        }
        // The data is there already, but smoltcp counts on the acknowledgement that it carries.
        self.acknowledgement(packet).unwrap_or(packet.len())
    }

    /// Notices when smoltcp goes back to the first missing byte by itself.
    fn watch_timer(&mut self, sent: &Sent) {
        let first = self.sender.first() == Some(sent.sequence);
        let back = is_after(self.position, sent.sequence);
        self.position = sent.end;
        if first && back && !self.rewinding {
            self.sender.timed_out(sent.before);
            self.timed_out = true;
        }
    }

    /// Takes note of an acknowledgement that comes in; returns the window field that smoltcp may be shown.
    pub(super) fn acknowledged(&mut self, segment: &Segment, now: Instant) -> u16 {
        self.numbers.heard(segment);
        self.sender.acknowledged(segment, self.numbers.next(), now);
        segment.window.min(self.as_field(segment.syn))
    }

    /// The window that smoltcp may use now, as a window field: what congestion and the peer allow.
    pub(super) fn allowed_field(&self) -> u16 {
        let room = self
            .sender
            .first()
            .map_or(0, |first| self.numbers.room(first));
        let room = u16::try_from(room >> self.numbers.shift()).unwrap_or(u16::MAX);
        self.as_field(false).min(room)
    }

    fn as_field(&self, syn: bool) -> u16 {
        let shift = if syn { 0 } else { self.numbers.shift() };
        let allowed = self.sender.allowed(self.numbers.next());
        u16::try_from(allowed >> shift).unwrap_or(u16::MAX).max(1)
    }

    /// Makes a bare acknowledgement in `out`; returns its length.
    pub(super) fn acknowledgement(&self, out: &mut [u8]) -> Option<usize> {
        self.numbers.acknowledgement(&self.tuple, out)
    }
}
