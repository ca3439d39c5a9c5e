//! TCP options: those that decide how a flow works (RFC 9293 section 3.2, RFC 7323 section 2, RFC 2018). What is malformed is ignored from
//! there on.
//!
//! Timestamps (RFC 7323 section 3) are neither offered nor taken up. They cost 12 bytes of each segment; round trips are timed
//! from the scoreboard, and segments of a former turn of the sequence numbers cannot come out of a WireGuard tunnel, which drops what is older
//! than some thousand packets.

use super::ranges::MAX_TOLD;
use super::sequence::Seq;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
/// Bytes of options in a segment.
const MOST: usize = 40;
/// The largest shift (RFC 7323 section 2.3).
const MAX_SHIFT: u8 = 14;

/// Selective acknowledgements of one segment.
pub(super) type Blocks = [Option<(Seq, Seq)>; MAX_TOLD];

/// What a segment's options say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Of a SYN: the most bytes a segment to its sender may carry.
    pub(super) mss: Option<u16>,
    /// Of a SYN: by how much its sender's later window fields are scaled.
    pub(super) shift: Option<u8>,
    /// Of a SYN: its sender understands selective acknowledgements.
    pub(super) sack: bool,
    /// What arrived behind the acknowledged bytes, or arrived again (RFC 2883).
    pub(super) blocks: Blocks,
}

impl Options {
    /// Reads the bytes between a TCP header's fixed part and the payload.
    pub(super) fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        while let Some(&kind) = bytes.first() {
            let len = match (kind, bytes.get(1)) {
                (END, _) => break,
                (NO_OPERATION, _) => 1,
                (_, Some(&len)) if len >= 2 && usize::from(len) <= bytes.len() => usize::from(len),
                _ => break,
            };
            options.take(kind, bytes.get(2..len).unwrap_or_default());
            bytes = &bytes[len..];
        }
        options
    }

    fn take(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (MSS, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            (WINDOW_SCALE, &[shift]) => self.shift = Some(shift.min(MAX_SHIFT)),
            (SACK_PERMITTED, &[]) => self.sack = true,
            (SACK, blocks) => {
                let (blocks, _) = blocks.as_chunks::<8>();
                for (block, slot) in blocks.iter().zip(&mut self.blocks) {
                    let &[a, b, c, d, e, f, g, h] = block;
                    let ends = [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes);
                    *slot = Some((Seq(ends[0]), Seq(ends[1])));
                }
            }
            _ => {}
        }
    }
}

/// Options on their way out.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: [u8; MOST],
    len: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            bytes: [0; MOST],
            len: 0,
        }
    }
}

impl Writer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn syn(mss: u16, shift: Option<u8>, sack: bool) -> Self {
        let mut writer = Self::default();
        let [high, low] = mss.to_be_bytes();
        writer.put(&[MSS, 4, high, low]);
        if let Some(shift) = shift {
            writer.put(&[NO_OPERATION, WINDOW_SCALE, 3, shift]);
        }
        if sack {
            writer.put(&[NO_OPERATION, NO_OPERATION, SACK_PERMITTED, 2]);
        }
        writer
    }

    pub(super) fn sack(blocks: &Blocks) -> Self {
        let mut writer = Self::default();
        let count = blocks.iter().flatten().count() as u8;
        if count == 0 {
            return writer;
        }
        writer.put(&[NO_OPERATION, NO_OPERATION, SACK, 2 + 8 * count]);
        for (start, end) in blocks.iter().flatten() {
            writer.put(&start.0.to_be_bytes());
            writer.put(&end.0.to_be_bytes());
        }
        writer
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let syn = Writer::syn(1320, Some(7), true);
        assert_eq!(syn.bytes().len(), 12);
        let expected = Options {
            mss: Some(1320),
            shift: Some(7),
            sack: true,
            blocks: Blocks::default(),
        };
        assert_eq!(Options::parse(syn.bytes()), expected);
        let blocks = [1, 10, 20, 30].map(|at| Some((Seq(at), Seq(at + 5))));
        let sack = Writer::sack(&blocks);
        assert_eq!(sack.bytes().len(), 36);
        assert_eq!(Options::parse(sack.bytes()).blocks, blocks);
        assert!(Writer::sack(&Blocks::default()).bytes().is_empty());
    }

    #[test]
    fn nonsense_is_ignored() {
        assert_eq!(Options::parse(&[3, 3, 200]).shift, Some(MAX_SHIFT));
        for bytes in [
            &[2, 0][..],
            &[2],
            &[2, 9, 1],
            &[5, 3, 1],
            &[0, 2, 4, 5, 5],
            &[77, 4, 1, 1],
        ] {
            assert_eq!(Options::parse(bytes), Options::default(), "{bytes:?}");
        }
    }
}
