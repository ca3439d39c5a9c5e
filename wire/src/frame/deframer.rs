//! Cuts a stream into frames, in place as far as they lie in one read.

use super::control::{self, Control};
use super::{HEADER, Malformed};

/// What an idle stream keeps of its buffer at most, in bytes.
const IDLE: usize = 4 * 1024;

/// One frame of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A WireGuard datagram, never empty.
    Datagram(&'a [u8]),
    /// Something about the stream.
    Control(Control),
}

/// Cuts a stream into frames.
///
/// Only a frame that came in pieces is copied, so memory stays below one frame, and an idle stream has next to none.
#[derive(Debug, Default)]
pub struct Deframer {
    /// The beginning of a frame whose end has not come yet.
    pub(super) held: Vec<u8>,
    broken: bool,
}

impl Deframer {
    /// A deframer at the beginning of a stream; takes no memory before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream, of any number, and gives every frame that they complete.
    ///
    /// # Errors
    /// The stream is not one of frames. Every further call gives the same error.
    pub fn feed(&mut self, input: &[u8], take: impl FnMut(Frame<'_>)) -> Result<(), Malformed> {
        if self.broken {
            return Err(Malformed);
        }
        let cut = self.cut(input, take);
        self.broken = cut.is_err();
        cut
    }

    fn cut(&mut self, mut input: &[u8], mut take: impl FnMut(Frame<'_>)) -> Result<(), Malformed> {
        if !self.held.is_empty() {
            if !self.complete(&mut input) {
                return Ok(());
            }
            give(&self.held, &mut take)?;
            self.held.clear();
        }
        while input.len() >= wanted(input) {
            let (frame, rest) = input.split_at(wanted(input));
            give(frame, &mut take)?;
            input = rest;
        }
        self.hold(input);
        Ok(())
    }

    /// Moves bytes behind those that are held until they are a whole frame; false when there are too few.
    fn complete(&mut self, input: &mut &[u8]) -> bool {
        // The first bytes tell how many more there are.
        while self.held.len() < wanted(&self.held) {
            let missing = wanted(&self.held) - self.held.len();
            let Some((more, rest)) = input.split_at_checked(missing) else {
                self.held.extend_from_slice(input);
                return false;
            };
            self.held.extend_from_slice(more);
            *input = rest;
        }
        true
    }

    fn hold(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            if self.held.capacity() > IDLE {
                self.held = Vec::new();
            }
            return;
        }
        self.held.reserve(wanted(rest));
        self.held.extend_from_slice(rest);
    }
}

/// How long the frame at the beginning of `bytes` is at least; what is as long is whole.
fn wanted(bytes: &[u8]) -> usize {
    let Some((header, rest)) = bytes.split_first_chunk() else {
        return HEADER;
    };
    match (u16::from_be_bytes(*header), rest) {
        (0, [_, len, ..]) => control::HEADER + usize::from(*len),
        (0, _) => control::HEADER,
        (len, _) => HEADER + usize::from(len),
    }
}

fn give(frame: &[u8], take: &mut impl FnMut(Frame<'_>)) -> Result<(), Malformed> {
    if frame.starts_with(&[0, 0]) {
        if let Some(control) = Control::parse(frame)? {
            take(Frame::Control(control));
        }
    } else {
        take(Frame::Datagram(&frame[HEADER..]));
    }
    Ok(())
}
