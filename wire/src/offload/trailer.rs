//! How the segment size of a super-packet travels inside a WireGuard message, behind the packet and its padding.
//!
//! ```text
//! IP packet | zeros | size, big-endian (2) | 0x6b | kind: 1 TCP, 2 UDP
//! ```
//!
//! The plaintext is a multiple of 16 bytes long. Ordinary peers pad with zeros only (WireGuard paper, section 5.4.6),
//! fewer than 16, so no padding reads as a trailer. Whether the peer understands trailers is for the caller to know; it
//! must not look into packets here.

use super::Segmentation;

/// The longest plaintext whose message can be framed with a 16-bit length: 65,535 less WireGuard's own 32 bytes, cut to blocks.
pub const MAX_PLAINTEXT: usize = (65_535 - 32) / BLOCK * BLOCK;

/// The longest super-packet to which a trailer can be appended.
pub const MAX_SUPER: usize = MAX_PLAINTEXT - TRAILER;

/// WireGuard pads to this.
const BLOCK: usize = 16;

const TRAILER: usize = 4;
const MARK: u8 = 0x6b;
const TCP: u8 = 1;
const UDP: u8 = 2;

/// Pads the packet in `buf[..packet_len]` and appends its segmentation; gives the length of the plaintext to seal.
///
/// A whole packet is padded with zeros only. `None` when `buf` is too short, or the plaintext would exceed
/// [`MAX_PLAINTEXT`]; at most 19 bytes are added.
pub fn append(buf: &mut [u8], packet_len: usize, segmentation: Segmentation) -> Option<usize> {
    let (kind, size) = match segmentation {
        Segmentation::Whole => (0, 0),
        Segmentation::Tcp { size } => (TCP, size),
        Segmentation::Udp { size } => (UDP, size),
    };
    let trailer = if kind == 0 { 0 } else { TRAILER };
    let len = packet_len.checked_add(trailer)?.next_multiple_of(BLOCK);
    if len > MAX_PLAINTEXT {
        return None;
    }
    let padding = buf.get_mut(packet_len..len)?;
    padding.fill(0);
    if let Some(end) = padding.last_chunk_mut::<TRAILER>().filter(|_| kind != 0) {
        let [high, low] = size.to_be_bytes();
        *end = [high, low, MARK, kind];
    }
    Some(len)
}

/// What the plaintext says about the packet in its first `packet_len` bytes; [`Segmentation::Whole`] when there is no
/// valid trailer.
pub fn read(plaintext: &[u8], packet_len: usize) -> Segmentation {
    let padding = plaintext.get(packet_len..).unwrap_or_default();
    let Some((zeros, &[high, low, MARK, kind])) = padding.split_last_chunk::<TRAILER>() else {
        return Segmentation::Whole;
    };
    let size = u16::from_be_bytes([high, low]);
    let regular = plaintext.len().is_multiple_of(BLOCK)
        && zeros.len() < BLOCK
        && zeros.iter().all(|byte| *byte == 0);
    match kind {
        TCP if regular && size > 0 => Segmentation::Tcp { size },
        UDP if regular && size > 0 => Segmentation::Udp { size },
        _ => Segmentation::Whole,
    }
}
