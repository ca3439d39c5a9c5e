//! One end of the `api` carrier's stream: what goes out is framed and kept within the [`Window`], what comes in is cut into
//! datagrams and reported. Both ends use it; the socket is the shell's.
//!
//! ```text
//! bytes read --> receive() --> datagrams          push() --> unsent() --> bytes written --> taken()
//!                report()                         room() and piece() say how much to push
//! ```
//!
//! Between ends that do not both know control frames only the bytes that wait for the socket are bounded.

mod outgoing;

use std::time::Instant;

use self::outgoing::Outgoing;
use crate::frame::{self, Control, Deframer, Frame, Malformed};
use crate::window::Window;

/// Bytes that may wait for the socket: what is sealed can no longer be overtaken.
const UNSENT: usize = 256 << 10;
/// The longest piece on a stream without reports, in bytes.
const BLIND_PIECE: usize = 16 << 10;

/// One end of a stream.
#[derive(Debug, Default)]
pub struct Stream {
    deframer: Deframer,
    receipts: Receipts,
    outgoing: Outgoing,
    /// Bytes pushed since the beginning.
    pushed: u64,
    /// There once both ends are known to know control frames.
    window: Option<Window>,
    /// The interval of reports that the other end was asked for, in bytes.
    asked: usize,
}

/// Bytes taken from the other end, and what it wants to hear of them.
#[derive(Debug, Default)]
struct Receipts {
    received: u64,
    reported: u64,
    /// After how many bytes it wants a report, if it wants any.
    every: Option<u32>,
}

impl Stream {
    /// The end that sends no control frame before it got one: the gateway's, and a client's whose gateway knows none.
    pub fn new() -> Self {
        Self::default()
    }

    /// The end of a client whose gateway knows control frames.
    pub fn with_control(now: Instant) -> Self {
        let mut stream = Self::new();
        stream.agree(now);
        stream
    }

    /// Takes the next bytes of the stream, and gives every datagram that they complete.
    ///
    /// # Errors
    /// The stream is not one of frames: close it.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        now: Instant,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Malformed> {
        self.receipts.received += bytes.len() as u64;
        let (mut every, mut received) = (None, None);
        self.deframer.feed(bytes, |frame| match frame {
            Frame::Datagram(datagram) => take(datagram),
            Frame::Control(Control::ReportEvery(bytes)) => every = Some(bytes),
            Frame::Control(Control::Received(total)) => received = Some(total),
        })?;
        if every.is_some() {
            self.receipts.every = every;
            self.agree(now);
        }
        if let (Some(total), Some(window)) = (received, &mut self.window) {
            window.received(total, now);
            self.ask(now);
        }
        Ok(())
    }

    /// Tells the other end how much has come, if it is time to: to be called when a round's reads are done.
    pub fn report(&mut self, now: Instant) {
        let Receipts {
            received,
            reported,
            every,
        } = self.receipts;
        if every.is_some_and(|every| received - reported >= u64::from(every)) {
            self.receipts.reported = received;
            self.push_control(Control::Received(received), now);
        }
    }

    /// Frames a datagram; false when its length cannot be framed. Heeding [`Stream::room`] is up to the caller: handshakes
    /// and probes go in any case.
    pub fn push(&mut self, datagram: &[u8], now: Instant) -> bool {
        let framed = frame::encode(datagram, self.outgoing.buffer());
        if framed {
            self.count(frame::HEADER + datagram.len(), now);
        }
        framed
    }

    /// How many bytes may be pushed now.
    pub fn room(&self) -> usize {
        let room = UNSENT.saturating_sub(self.unsent().len());
        (self.window.as_ref()).map_or(room, |window| window.room().min(room))
    }

    /// How long the longest datagram with data in it is to be, in bytes.
    pub fn piece(&self) -> usize {
        self.window.as_ref().map_or(BLIND_PIECE, Window::piece)
    }

    /// What the socket is to be given next.
    pub fn unsent(&self) -> &[u8] {
        self.outgoing.unsent()
    }

    /// The socket has taken the first `bytes` of [`Stream::unsent`].
    pub fn taken(&mut self, bytes: usize) {
        self.outgoing.taken(bytes);
    }

    /// The window, if the other end reports.
    pub fn window(&self) -> Option<&Window> {
        self.window.as_ref()
    }

    /// Both ends know control frames.
    fn agree(&mut self, now: Instant) {
        if self.window.is_none() {
            self.window = Some(Window::new(self.pushed, now));
            self.ask(now);
        }
    }

    /// Asks for reports that fit the window as it is now.
    fn ask(&mut self, now: Instant) {
        let Some(window) = &self.window else { return };
        let every = window.report_every();
        if every < self.asked / 2 || every > self.asked {
            self.asked = every;
            let every = u32::try_from(every).expect("an interval is short");
            self.push_control(Control::ReportEvery(every), now);
        }
    }

    fn push_control(&mut self, control: Control, now: Instant) {
        let buffer = self.outgoing.buffer();
        let before = buffer.len();
        control.encode(buffer);
        let len = buffer.len() - before;
        self.count(len, now);
    }

    fn count(&mut self, bytes: usize, now: Instant) {
        self.pushed += bytes as u64;
        if let Some(window) = &mut self.window {
            window.sent(bytes, now);
        }
    }
}

#[cfg(test)]
mod tests;
