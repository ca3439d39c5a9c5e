//! Explicit congestion notification in the IP header (RFC 3168).

use super::{checksum, ipv4, ipv6};

/// Both bits of the field: congestion was met. Neither: the ends do not know such marks.
const CONGESTED: u8 = 0b11;

/// Marks an IP packet as having met congestion; false, and nothing changed, when its ends do not know such marks. What is
/// marked already stays so.
pub fn mark_congested(packet: &mut [u8]) -> bool {
    let class = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= ipv4::MIN_HEADER => packet[1],
        Some(6) if packet.len() >= ipv6::HEADER => packet[1] >> 4,
        _ => return false,
    };
    if class & CONGESTED == 0 {
        return false;
    }
    if packet[0] >> 4 == 6 {
        packet[1] |= CONGESTED << 4;
        return true;
    }
    let old = u16::from_be_bytes([packet[0], packet[1]]);
    packet[1] |= CONGESTED;
    let new = u16::from_be_bytes([packet[0], packet[1]]);
    let sum = checksum::updated(u16::from_be_bytes([packet[10], packet[11]]), old, new);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Ip, build};

    fn packet(addresses: [&str; 2], ecn: u8) -> Vec<u8> {
        let [src, dst] = addresses.map(|address| address.parse().unwrap());
        let mut packet = [0; 100];
        let n = build::udp(src, dst, b"data", &mut packet).unwrap();
        let mut packet = packet[..n].to_vec();
        if packet[0] >> 4 == 6 {
            packet[1] |= ecn << 4;
        } else {
            packet[1] |= ecn;
            packet[10..12].fill(0);
            let sum = checksum::of(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    #[test]
    fn a_capable_packet_is_marked_and_stays_right() {
        for addresses in [["10.0.0.1:1", "10.0.0.2:2"], ["[fd00::1]:1", "[fd00::2]:2"]] {
            for ecn in [1, 2, 3] {
                let mut marked = packet(addresses, ecn);
                assert!(mark_congested(&mut marked));
                assert_eq!(marked, packet(addresses, 3));
                assert!(checksum::verify(&Ip::parse(&marked).unwrap()));
            }
        }
    }

    #[test]
    fn others_are_left_alone() {
        for addresses in [["10.0.0.1:1", "10.0.0.2:2"], ["[fd00::1]:1", "[fd00::2]:2"]] {
            let mut unmarked = packet(addresses, 0);
            assert!(!mark_congested(&mut unmarked));
            assert_eq!(unmarked, packet(addresses, 0));
        }
        for short in [&mut [][..], &mut [0x45, 1], &mut [0x65, 0x10]] {
            assert!(!mark_congested(short));
        }
    }
}
