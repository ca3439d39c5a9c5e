//! Lowering the segment size that a TCP opening announces, so that segments fit the tunnel.

use super::{Ip, Protocol, TcpFlags, checksum};

/// Lowers the MSS option of a SYN (or SYN-ACK) in `packet` to `mss` bytes and mends the checksum.
///
/// True when something was changed. A SYN without the option is left alone: 536 or 1220 bytes then hold, which fit.
pub fn clamp_mss(packet: &mut [u8], mss: u16) -> bool {
    let Some((at, old)) = announced(packet) else {
        return false;
    };
    if old <= mss {
        return false;
    }
    let Ok(ip) = Ip::parse(packet) else {
        return false;
    };
    let tcp = ip.header_len();
    let field = &packet[tcp + 16..tcp + 18];
    let mut sum = u16::from_be_bytes([field[0], field[1]]);
    if at % 2 == 0 {
        sum = checksum::updated(sum, old, mss);
    } else {
        // The option lies across two words of the sum, each byte in the other half.
        sum = checksum::updated(sum, old.swap_bytes(), mss.swap_bytes());
    }
    packet[tcp + at..tcp + at + 2].copy_from_slice(&mss.to_be_bytes());
    packet[tcp + 16..tcp + 18].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Where in the segment the MSS of an opening lies, and what it says.
fn announced(packet: &[u8]) -> Option<(usize, u16)> {
    let ip = Ip::parse(packet).ok()?;
    if ip.protocol() != Protocol::Tcp {
        return None;
    }
    let tcp = ip.tcp()?;
    if tcp.flags().contains(TcpFlags::SYN) {
        tcp.mss_option()
    } else {
        None
    }
}
