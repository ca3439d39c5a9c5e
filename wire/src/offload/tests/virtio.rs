//! The header before every packet of a TUN.

use proptest::prelude::*;

use super::*;
use crate::offload::virtio::{self, HEADER};

/// A header of these fields, as the kernel writes it.
fn header(flags: u8, kind: u8, words: [u16; 4]) -> [u8; HEADER] {
    let mut header = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    for (field, word) in header[2..].chunks_exact_mut(2).zip(words) {
        field.copy_from_slice(&word.to_le_bytes());
    }
    header
}

/// The sum over the pseudo header, as the kernel leaves it in the checksum field.
fn partial(packet: &mut [u8]) {
    let ip = Ip::parse(packet).unwrap();
    let (at, udp) = (ip.header_len(), ip.udp().is_some());
    let len = ip.payload().len();
    let sum = checksum::Sum::default().pseudo_header(ip.src(), ip.dst(), ip.protocol(), len);
    let field = at + if udp { 6 } else { 16 };
    packet[field..field + 2].copy_from_slice(&sum.folded().to_be_bytes());
}

#[test]
fn an_ordinary_packet_is_left_alone() {
    let mut packet = bytes(1, 60);
    for flags in [0, 2] {
        let read = virtio::read(&header(flags, 0, [0; 4]), &mut packet);
        assert_eq!(read, Ok(Segmentation::Whole));
    }
    assert_eq!(virtio::write(&mut packet, Segmentation::Whole), [0; HEADER]);
    assert_eq!(packet, bytes(1, 60));
}

#[test]
fn a_partial_checksum_is_completed() {
    for ends in [v4(), v6()] {
        for (packet, offset) in [
            (tcp_packet(ends, &data(1, &bytes(1, 333))), 16),
            (udp_packet(ends, &bytes(2, 100)), 6),
        ] {
            let start = if ends == v4() { 20 } else { 40 };
            let mut unfinished = packet.clone();
            partial(&mut unfinished);
            assert_ne!(unfinished, packet);
            let read = virtio::read(&header(1, 0, [0, 0, start, offset]), &mut unfinished);
            assert_eq!(read, Ok(Segmentation::Whole));
            assert_eq!(unfinished, packet);
        }
    }
}

#[test]
fn a_completed_udp_checksum_is_never_zero() {
    let mut packet = udp_packet(v4(), &[0; 40]);
    let sum = [packet[26], packet[27]];
    packet[28..30].copy_from_slice(&sum);
    partial(&mut packet);
    assert!(virtio::read(&header(1, 0, [0, 0, 20, 6]), &mut packet).is_ok());
    assert_eq!(packet[26..28], [0xff, 0xff]);
}

#[test]
fn a_super_packet_is_written_as_the_kernel_wants_it() {
    let (mut packet, segmentation) = coalesced(&train(v4(), &[1300, 1300, 700])).remove(0);
    let written = virtio::write(&mut packet, segmentation);
    assert_eq!(written, header(1, 1, [52, 1300, 20, 16]));
    let mut wanted = packet.clone();
    partial(&mut wanted);
    assert_eq!(packet, wanted);
    assert_eq!(Ip::parse(&packet).unwrap().total_len(), 3352);

    let (mut packet, segmentation) = coalesced(&train(v6(), &[1300, 1300])).remove(0);
    let written = virtio::write(&mut packet, segmentation);
    assert_eq!(written, header(1, 4, [72, 1300, 40, 16]));

    let datagrams: Vec<Vec<u8>> = (0..3).map(|n| udp_packet(v6(), &bytes(n, 900))).collect();
    let (mut packet, segmentation) = coalesced(&datagrams).remove(0);
    let written = virtio::write(&mut packet, segmentation);
    assert_eq!(written, header(1, 5, [48, 900, 40, 6]));
    let mut wanted = packet.clone();
    partial(&mut wanted);
    assert_eq!(packet, wanted);
}

#[test]
fn lengths_and_the_ip_checksum_need_not_be_right_before() {
    let (packet, segmentation) = coalesced(&train(v4(), &[1300, 1300, 700])).remove(0);
    let mut unfinished = packet.clone();
    unfinished[2..4].fill(0);
    unfinished[10..12].fill(0);
    let mut finished = packet;
    let written = virtio::write(&mut finished, segmentation);
    assert_eq!(virtio::write(&mut unfinished, segmentation), written);
    assert_eq!(unfinished, finished);
}

#[test]
fn a_super_packet_written_is_read_again() {
    for ends in [v4(), v6()] {
        let datagrams: Vec<Vec<u8>> = (0..3).map(|n| udp_packet(ends, &bytes(n, 900))).collect();
        for packets in [train(ends, &[1300, 1300, 700]), datagrams] {
            let supers = coalesced(&packets);
            let (mut packet, segmentation) = supers[0].clone();
            let header = virtio::write(&mut packet, segmentation);
            assert_eq!(virtio::read(&header, &mut packet), Ok(segmentation));
            assert_eq!(apart(&[(packet, segmentation)]), apart(&supers));
        }
    }
}

#[test]
fn congestion_window_reduced_is_told_and_taken() {
    let mut packet = tcp_packet(v4(), &data(1, &bytes(1, 2000)));
    packet[33] |= 0x80;
    let segmentation = Segmentation::Tcp { size: 1000 };
    let written = virtio::write(&mut packet, segmentation);
    assert_eq!(written, header(1, 0x81, [52, 1000, 20, 16]));
    assert_eq!(virtio::read(&written, &mut packet), Ok(segmentation));
    for kind in [0x80, 0x85] {
        let written = header(1, kind, [52, 1000, 20, 16]);
        assert!(virtio::read(&written, &mut packet).is_err());
    }
}

#[test]
fn one_segment_alone_becomes_an_ordinary_packet() {
    for (kind, ends) in [(1, v4()), (4, v6())] {
        let packet = tcp_packet(ends, &data(1, &bytes(1, 1000)));
        let start = if kind == 1 { 20 } else { 40 };
        let mut unfinished = packet.clone();
        partial(&mut unfinished);
        let single = header(1, kind, [52, 1000, start, 16]);
        assert_eq!(
            virtio::read(&single, &mut unfinished),
            Ok(Segmentation::Whole)
        );
        assert_eq!(unfinished, packet);
    }
}

/// Linux drops a super-packet of one segment: seen with 6.18, forwarding between two TUNs.
#[test]
fn one_segment_alone_is_written_as_an_ordinary_packet() {
    for (ends, start) in [(v4(), 20), (v6(), 40)] {
        for size in [1000, 1001, u16::MAX] {
            let packet = tcp_packet(ends, &data(1, &bytes(1, 1000)));
            let mut unfinished = packet.clone();
            let written = virtio::write(&mut unfinished, Segmentation::Tcp { size });
            assert_eq!(written, header(1, 0, [0, 0, start, 16]));
            let read = virtio::read(&written, &mut unfinished);
            assert_eq!((read, unfinished), (Ok(Segmentation::Whole), packet));
        }
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let packet = || tcp_packet(v4(), &data(1, &bytes(1, 2000)));
    let refused = |flags, kind, words| {
        let mut packet = packet();
        let error = virtio::read(&header(flags, kind, words), &mut packet).err();
        assert_eq!(packet, tcp_packet(v4(), &data(1, &bytes(1, 2000))));
        error
    };
    assert_eq!(refused(1, 1, [52, 1000, 20, 16]), None);
    // A longer hint at the headers' length is what Linux gives for forwarded packets.
    assert_eq!(refused(1, 1, [2052, 1000, 20, 16]), None);
    assert_eq!(refused(1, 1, [2053, 1000, 20, 16]), Some(Malformed::Length));
    assert_eq!(refused(0, 0, [2053, 0, 0, 0]), Some(Malformed::Length));
    assert_eq!(refused(1, 1, [52, 0, 20, 16]), Some(Malformed::Size));
    assert_eq!(refused(1, 1, [52, 1000, 24, 16]), Some(Malformed::Checksum));
    assert_eq!(refused(1, 1, [52, 1000, 20, 6]), Some(Malformed::Checksum));
    assert_eq!(refused(0, 1, [52, 1000, 24, 6]), None);
    for kind in [2, 3, 4, 6, 0x7f, 0x84, 0xff] {
        assert_eq!(refused(1, kind, [52, 1000, 20, 16]), Some(Malformed::Kind));
    }
    assert_eq!(refused(1, 5, [52, 1000, 20, 16]), Some(Malformed::Headers));
    for (start, offset) in [
        (0, 16),
        (19, 0),
        (2051, 0),
        (20, 2031),
        (2052, 0),
        (u16::MAX, u16::MAX),
    ] {
        assert_eq!(
            refused(1, 0, [0, 0, start, offset]),
            Some(Malformed::Checksum)
        );
    }
    let mut short = packet();
    short.truncate(1000);
    let error = virtio::read(&header(1, 1, [52, 500, 20, 16]), &mut short);
    assert_eq!(error, Err(Malformed::Length));
    assert!(virtio::read(&header(1, 1, [0, 500, 20, 16]), &mut []).is_err());
    assert!(virtio::read(&header(1, 0, [0; 4]), &mut []).is_err());
}

#[test]
fn what_is_no_super_packet_is_written_as_it_is() {
    for segmentation in [
        Segmentation::Tcp { size: 0 },
        Segmentation::Udp { size: 100 },
    ] {
        let mut packet = tcp_packet(v4(), &data(1, &bytes(1, 200)));
        let before = packet.clone();
        assert_eq!(virtio::write(&mut packet, segmentation), [0; HEADER]);
        assert_eq!(packet, before);
    }
}

proptest! {
    #[test]
    fn any_header_is_survived(
        header: [u8; HEADER],
        mut packet in prop::collection::vec(any::<u8>(), 0..200),
        kind in prop::sample::select(vec![0_u8, 1, 4, 5]),
    ) {
        for kind in [header[1], kind] {
            let header = [header[0], kind, header[2], 0, header[4], header[5], header[6], 0, header[8], 0];
            if let Ok(segmentation) = virtio::read(&header, &mut packet) {
                let split = Split::new(&packet, segmentation);
                split_all(split.expect("what was read can be split"));
            }
        }
    }
}
