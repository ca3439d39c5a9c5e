//! Super-packets cut into segments.

use super::*;

#[test]
fn segments_are_what_the_sender_would_have_sent() {
    for ends in [v4(), v6()] {
        let payload = bytes(3, 3000);
        let sequence = u32::MAX - 10;
        let flags = ACK.with(TcpFlags::PSH).with(TcpFlags::FIN);
        let packet = tcp_packet(
            ends,
            &Segment {
                flags,
                ..data(sequence, &payload)
            },
        );
        let split = Split::new(&packet, Segmentation::Tcp { size: 1300 }).unwrap();
        let wanted: Vec<Vec<u8>> = payload
            .chunks(1300)
            .enumerate()
            .map(|(n, chunk)| {
                let flags = if n == 2 { flags } else { ACK };
                let sequence = sequence.wrapping_add(u32::try_from(n * 1300).unwrap());
                let mut packet = tcp_packet(
                    ends,
                    &Segment {
                        flags,
                        ..data(sequence, chunk)
                    },
                );
                set_ident(&mut packet, u16::try_from(n).unwrap());
                packet
            })
            .collect();
        assert_eq!(split_all(split), wanted);
    }
}
