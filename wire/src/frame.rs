//! Framing of the `api` carrier: a byte stream through port-forward that carries WireGuard datagrams.
//!
//! One frame is a length (two bytes, big-endian, 1 to 65535) and that many bytes of datagram; nothing else, no greeting. The
//! datagrams authenticate themselves, so a stream that went wrong is simply closed.
//!
//! A length of zero begins a control frame: a kind (one byte, not 0), the length of what follows (one byte), and that. The client sends
//! the first one, and only to a gateway whose grant says that it knows them
//! ([`SessionGrant::stream_control`](crate::control::SessionGrant::stream_control)); the gateway only answers. Kinds that are not known are
//! skipped, and so are bytes beyond those that a kind is known to have. Control frames are not authenticated: whoever can forge them
//! can cut the stream as well.

mod control;
mod deframer;

pub use control::Control;
pub use deframer::{Deframer, Frame};

/// Bytes before each datagram.
pub const HEADER: usize = 2;

/// The longest datagram a frame can carry.
pub const MAX_DATAGRAM: usize = u16::MAX as usize;

/// The stream is not, or no longer, one of frames. Close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the api carrier's stream is not one of frames")]
pub struct Malformed;

/// The header for a datagram of `len` bytes; `None` for 0 and above [`MAX_DATAGRAM`].
pub fn header(len: usize) -> Option<[u8; HEADER]> {
    let len = u16::try_from(len).ok().filter(|&len| len > 0)?;
    Some(len.to_be_bytes())
}

/// Appends `datagram` as a frame; false, and nothing appended, when it is empty or longer than [`MAX_DATAGRAM`].
pub fn encode(datagram: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(header) = header(datagram.len()) else {
        return false;
    };
    out.extend_from_slice(&header);
    out.extend_from_slice(datagram);
    true
}

#[cfg(test)]
mod tests;
