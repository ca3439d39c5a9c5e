//! What the two ends of a stream tell each other about the stream itself.

use super::Malformed;

/// Bytes before what a control frame says: a length of zero, the kind, the length.
pub(super) const HEADER: usize = 4;

const RECEIVED: u8 = 1;
const REPORT_EVERY: u8 = 2;

/// A control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// How many bytes of the stream its receiver has taken since the beginning, framing included.
    Received(u64),
    /// The sender wants [`Control::Received`] whenever so many bytes more have come.
    ReportEvery(u32),
}

impl Control {
    /// Appends the frame.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Received(total) => append(RECEIVED, &total.to_be_bytes(), out),
            Self::ReportEvery(bytes) => append(REPORT_EVERY, &bytes.to_be_bytes(), out),
        }
    }

    /// Reads a whole frame that begins with a length of zero; `None` for a kind that is not known.
    pub(super) fn parse(frame: &[u8]) -> Result<Option<Self>, Malformed> {
        let (header, rest) = frame.split_first_chunk::<HEADER>().ok_or(Malformed)?;
        match header[2] {
            0 => Err(Malformed),
            RECEIVED => Ok(Some(Self::Received(u64::from_be_bytes(first(rest)?)))),
            REPORT_EVERY => Ok(Some(Self::ReportEvery(u32::from_be_bytes(first(rest)?)))),
            _ => Ok(None),
        }
    }
}

fn append(kind: u8, what: &[u8], out: &mut Vec<u8>) {
    let len = u8::try_from(what.len()).expect("control frames are short");
    out.extend_from_slice(&[0, 0, kind, len]);
    out.extend_from_slice(what);
}

fn first<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.first_chunk().copied().ok_or(Malformed)
}
