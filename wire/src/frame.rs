//! Framing of the `api` carrier: a byte stream through port-forward that carries WireGuard datagrams.
//!
//! One frame is a length (two bytes, big-endian, 1 to 65535) and that many bytes of datagram; nothing else, no greeting. The
//! datagrams authenticate themselves, so a stream that went wrong is simply closed.

/// Bytes before each datagram.
pub const HEADER: usize = 2;

/// The longest datagram a frame can carry.
pub const MAX_DATAGRAM: usize = u16::MAX as usize;

/// A frame of length zero: the stream is not, or no longer, one of frames. Close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame of length zero on the api carrier")]
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

/// Cuts a stream into datagrams.
///
/// Read into [`Deframer::space`] and tell [`Deframer::filled`], or [`Deframer::push`] what was read; then call [`Deframer::next`]
/// until it gives `None`. Memory stays below one frame and one read.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
    /// Where the next frame begins.
    start: usize,
    /// Where the bytes received end.
    end: usize,
}

/// How much room there is at least for a read.
const READ: usize = 16 * 1024;

impl Deframer {
    /// A deframer at the beginning of a stream; takes no memory before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for the next read, never empty.
    pub fn space(&mut self) -> &mut [u8] {
        self.make_room(READ);
        &mut self.buffer[self.end..]
    }

    /// Takes over the first `n` bytes of what [`Deframer::space`] gave; more than that is cut to that.
    pub fn filled(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buffer.len());
    }

    /// Takes over bytes read elsewhere.
    pub fn push(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.buffer[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// The next whole datagram. After an error every further call gives the same error.
    #[expect(
        clippy::should_implement_trait,
        reason = "it lends from itself, which Iterator cannot"
    )]
    pub fn next(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let Some((header, rest)) = self.buffer[self.start..self.end].split_first_chunk() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*header));
        if len == 0 {
            return Err(Malformed);
        }
        if rest.len() < len {
            return Ok(None);
        }
        let datagram = self.start + HEADER..self.start + HEADER + len;
        self.start = datagram.end;
        Ok(Some(&self.buffer[datagram]))
    }

    /// Moves what is left to the front and makes room for `len` more bytes.
    fn make_room(&mut self, len: usize) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let wanted = self.end + len;
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(deframer: &mut Deframer) -> Result<Vec<Vec<u8>>, Malformed> {
        let mut datagrams = Vec::new();
        while let Some(datagram) = deframer.next()? {
            datagrams.push(datagram.to_vec());
        }
        Ok(datagrams)
    }

    #[test]
    fn the_wire_form_is_length_and_bytes() {
        let mut stream = Vec::new();
        assert!(encode(b"abc", &mut stream));
        assert_eq!(stream, [0, 3, b'a', b'b', b'c']);
    }

    #[test]
    fn what_does_not_fit_the_length_is_refused() {
        let mut stream = Vec::new();
        assert!(!encode(b"", &mut stream) && !encode(&[0; MAX_DATAGRAM + 1], &mut stream));
        assert!(stream.is_empty());
        assert!(encode(&[0; MAX_DATAGRAM], &mut stream));
    }

    #[test]
    fn a_length_of_zero_ends_the_stream() {
        let mut deframer = Deframer::new();
        deframer.push(&[0, 1, 7, 0, 0, 0, 1, 7]);
        assert_eq!(deframer.next(), Ok(Some(&[7][..])));
        assert_eq!(deframer.next(), Err(Malformed));
        assert_eq!(deframer.next(), Err(Malformed));
    }

    #[test]
    fn memory_stays_below_a_frame_and_a_read() {
        let mut deframer = Deframer::new();
        let mut stream = Vec::new();
        encode(&[7; MAX_DATAGRAM], &mut stream);
        for chunk in stream.repeat(20).chunks(1000) {
            let space = deframer.space();
            space[..chunk.len()].copy_from_slice(chunk);
            deframer.filled(chunk.len());
            drain(&mut deframer).unwrap();
        }
        assert!(
            deframer.buffer.len() <= HEADER + MAX_DATAGRAM + READ,
            "{}",
            deframer.buffer.len()
        );
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_datagrams(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..20),
            cut in 1usize..700,
        ) {
            let mut stream = Vec::new();
            for datagram in &datagrams {
                prop_assert!(encode(datagram, &mut stream));
            }
            let mut deframer = Deframer::new();
            let mut got = Vec::new();
            for chunk in stream.chunks(cut) {
                deframer.push(chunk);
                got.extend(drain(&mut deframer).unwrap());
            }
            prop_assert_eq!(got, datagrams);
        }
    }
}
