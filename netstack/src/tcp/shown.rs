//! What smoltcp is shown instead of what came: acknowledgements with another window, and ones that nobody sent.

use kvpn_wire::packet::{Ip, TcpFlags, build};

use crate::flows::Tuple;

/// Where the window field is in a TCP segment.
const WINDOW: usize = 14;

/// Puts another window field into a TCP packet. Its checksum is wrong then; smoltcp does not look at it.
pub(super) fn set_window(packet: &mut [u8], field: u16) {
    let header = Ip::parse(packet).map_or(packet.len(), |ip| ip.header_len());
    if let Some(window) = packet.get_mut(header + WINDOW..header + WINDOW + 2) {
        window.copy_from_slice(&field.to_be_bytes());
    }
}

/// A bare acknowledgement as the peer would send it, made in `out`.
pub(super) fn acknowledgement(
    tuple: &Tuple,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    out: &mut Vec<u8>,
) {
    let segment = build::Segment {
        sequence,
        acknowledgement,
        flags: TcpFlags::ACK,
        window,
        ..build::Segment::default()
    };
    out.resize(60, 0);
    let len = build::tcp(tuple.peer, tuple.own, &segment, out).unwrap_or(0);
    out.truncate(len);
}
