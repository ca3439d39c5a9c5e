//! Super-packets cut into segments.

use proptest::prelude::*;

use super::*;

const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

#[test]
fn segments_are_what_the_sender_would_have_sent() {
    for ends in [v4(), v6()] {
        let payload = bytes(3, 3000);
        let sequence = u32::MAX - 10;
        let flags = ACK.with(TcpFlags::PSH).with(TcpFlags::FIN);
        let segment = |n: usize, flags, payload| {
            let sequence = sequence.wrapping_add(u32::try_from(n).unwrap());
            Segment {
                flags,
                ..data(sequence, payload)
            }
        };
        let packet = tcp_packet(ends, &segment(0, flags, &payload));
        let split = Split::new(&packet, Segmentation::Tcp { size: 1300 }).unwrap();
        let wanted = payload.chunks(1300).enumerate().map(|(n, chunk)| {
            let flags = if n == 2 { flags } else { ACK };
            let mut packet = tcp_packet(ends, &segment(n * 1300, flags, chunk));
            set_ident(&mut packet, u16::try_from(n).unwrap());
            packet
        });
        assert_eq!(split_all(split), wanted.collect::<Vec<_>>());
    }
}

/// A super-packet of two segments, written out by hand: IPv4, no options, ports 1 and 2.
#[test]
fn a_hand_written_packet_is_cut_as_computed_by_hand() {
    let packet = [
        0x45, 0, 0, 44, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IP
        0, 1, 0, 2, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 9, 0x50, 0x98, 0, 100, 0, 0, 0, 0, // TCP
        b'a', b'b', b'c', b'd',
    ];
    let split = Split::new(&packet, Segmentation::Tcp { size: 3 }).unwrap();
    let packets = split_all(split);
    assert_eq!(
        packets[0],
        [
            0x45, 0, 0, 43, 0xff, 0xff, 0x40, 0, 64, 6, 0x26, 0xcb, 10, 0, 0, 1, 10, 0, 0,
            2, //
            0, 1, 0, 2, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 9, 0x50, 0x90, 0, 100, 0xd6, 0x7d, 0, 0,
            b'a', b'b', b'c',
        ]
    );
    assert_eq!(
        packets[1],
        [
            0x45, 0, 0, 41, 0x00, 0x00, 0x40, 0, 64, 6, 0x26, 0xcd, 10, 0, 0, 1, 10, 0, 0,
            2, //
            0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 0, 100, 0x37, 0x58, 0, 0, b'd',
        ]
    );
}

#[test]
fn congestion_bits_go_where_they_belong() {
    let mut packet = tcp_packet(v6(), &data(1, &bytes(1, 2500)));
    packet[1] |= 0x30;
    packet[53] |= CWR | ECE;
    let packets = split_all(Split::new(&packet, Segmentation::Tcp { size: 1000 }).unwrap());
    let flags: Vec<u8> = packets.iter().map(|packet| packet[53] & 0xc0).collect();
    assert_eq!(flags, [CWR | ECE, ECE, ECE]);
    assert!(
        packets
            .iter()
            .all(|packet| packet[..4] == [0x60, 0x30, 0, 0])
    );
}

#[test]
fn datagrams_get_lengths_and_checksums() {
    for ends in [v4(), v6()] {
        let payload = bytes(5, 2500);
        let mut packet = udp_packet(ends, &payload);
        let at = packet.len() - 2508;
        packet[at + 6..at + 8].fill(0);
        let split = Split::new(&packet, Segmentation::Udp { size: 1000 }).unwrap();
        let wanted = payload.chunks(1000).enumerate().map(|(n, chunk)| {
            let mut packet = udp_packet(ends, chunk);
            set_ident(&mut packet, u16::try_from(n).unwrap());
            packet
        });
        assert_eq!(split_all(split), wanted.collect::<Vec<_>>());
    }
}

#[test]
fn a_checksum_of_zero_is_written_in_its_other_form_for_udp_only() {
    let mut packet = udp_packet(v4(), &[0; 40]);
    let sum = u16::from_be_bytes([packet[26], packet[27]]);
    packet[28..30].copy_from_slice(&sum.to_be_bytes());
    let packets = split_all(Split::new(&packet, Segmentation::Udp { size: 100 }).unwrap());
    assert_eq!(packets[0][26..28], [0xff, 0xff]);
    let zeros = [0; 40];
    let mut packet = tcp_packet(v4(), &data(1, &zeros));
    let sum = u16::from_be_bytes([packet[36], packet[37]]);
    packet[52..54].copy_from_slice(&sum.to_be_bytes());
    let packets = split_all(Split::new(&packet, Segmentation::Tcp { size: 100 }).unwrap());
    assert_eq!(packets[0][36..38], [0, 0]);
}

#[test]
fn options_and_extension_headers_are_copied() {
    let payload = bytes(2, 900);
    for packet in [
        with_ipv4_option(&tcp_packet(v4(), &data(1, &payload))),
        with_extension(&tcp_packet(v6(), &data(1, &payload))),
    ] {
        let header = packet.len() - 900;
        let packets = split_all(Split::new(&packet, Segmentation::Tcp { size: 400 }).unwrap());
        assert_eq!(packets.len(), 3);
        for segment in &packets {
            let ip = Ip::parse(segment).unwrap();
            assert!(checksum::verify(&ip));
            assert_eq!(ip.header_len() + 32, header);
            assert_eq!(ip.tcp().unwrap().header_len(), 32);
        }
        let whole = packets.iter().flat_map(|segment| &segment[header..]);
        assert!(whole.eq(&payload));
    }
}

#[test]
fn a_whole_packet_comes_out_once_as_it_is() {
    let packet = bytes(1, 100);
    let mut out = [0; 200];
    let mut split = Split::new(&packet, Segmentation::Whole).unwrap();
    assert_eq!((split.remaining(), split.max_len()), (1, 100));
    assert_eq!(split.next(&mut out), Some(100));
    assert_eq!(out[..100], packet);
    assert_eq!((split.remaining(), split.next(&mut out)), (0, None));
    let (head, rest) = packet.split_at(40);
    let (front, back) = rest.split_at(13);
    let mut split = Split::of_parts(head, [front, back], Segmentation::Whole).unwrap();
    let whole = Some((100, Segmentation::Whole));
    assert_eq!(split.next_super(50, &mut out), whole);
    assert_eq!(out[..100], packet);
    assert_eq!(split.next_super(50, &mut out), None);
    let mut nothing = Split::new(&[], Segmentation::Whole).unwrap();
    assert_eq!((nothing.remaining(), nothing.next(&mut out)), (0, None));
}

#[test]
fn a_short_buffer_loses_nothing() {
    let packet = tcp_packet(v4(), &data(1, &bytes(1, 900)));
    let mut split = Split::new(&packet, Segmentation::Tcp { size: 400 }).unwrap();
    let mut out = [0; 1000];
    assert_eq!(split.next(&mut out[..451]), None);
    assert_eq!(split.next_super(1000, &mut out[..451]), None);
    assert_eq!(split.next(&mut out[..452]), Some(452));
    let segmentation = Segmentation::Tcp { size: 400 };
    assert_eq!(
        split.next_super(1000, &mut out[..551]),
        Some((452, Segmentation::Whole))
    );
    assert_eq!(split.next_super(1000, &mut out[..151]), None);
    assert_eq!(
        split.next_super(1000, &mut out[..152]),
        Some((152, Segmentation::Whole))
    );
    assert_eq!(split.next_super(1000, &mut out), None);
    let mut split = Split::new(&packet, segmentation).unwrap();
    assert_eq!(split.next_super(1000, &mut out), Some((852, segmentation)));
    assert_eq!(
        split.next_super(1000, &mut out),
        Some((152, Segmentation::Whole))
    );
    assert_eq!(split.next_super(1000, &mut out), None);
}

#[test]
fn a_payload_shorter_than_a_segment_is_one_packet_with_checksums() {
    for payload in [0, 1, 399, 400] {
        let packet = tcp_packet(v6(), &data(1, &bytes(1, payload)));
        let mut unfinished = packet.clone();
        unfinished[56..58].fill(0x55);
        let split = Split::new(&unfinished, Segmentation::Tcp { size: 400 }).unwrap();
        assert_eq!(split_all(split), [packet]);
    }
}

#[test]
fn what_cannot_be_segmented_is_refused() {
    let tcp = Segmentation::Tcp { size: 100 };
    let refused = |packet: &[u8], segmentation| Split::new(packet, segmentation).err();
    let packet = || tcp_packet(v4(), &data(1, &bytes(1, 900)));
    assert_eq!(
        refused(&packet(), Segmentation::Tcp { size: 0 }),
        Some(Malformed::Size)
    );
    assert_eq!(
        refused(&packet(), Segmentation::Udp { size: 100 }),
        Some(Malformed::Headers)
    );
    let datagram = udp_packet(v6(), &bytes(1, 900));
    assert_eq!(refused(&datagram, tcp), Some(Malformed::Headers));
    assert_eq!(
        refused(&datagram, Segmentation::Udp { size: 0 }),
        Some(Malformed::Size)
    );
    for flags in [TcpFlags::SYN.0, TcpFlags::RST.0, 0x20] {
        let mut packet = packet();
        packet[33] |= flags;
        assert_eq!(refused(&packet, tcp), Some(Malformed::Headers));
    }
    for (byte, value) in [(6, 0x20), (7, 1), (32, 0x40), (32, 0xf0), (9, 1), (0, 0x44)] {
        let mut packet = tcp_packet(v4(), &data(1, &bytes(1, 20)));
        packet[byte] = value;
        assert!(refused(&packet, tcp).is_some(), "byte {byte}");
    }
    assert_eq!(refused(&packet()[..900], tcp), Some(Malformed::Length));
    assert_eq!(
        refused(&[packet(), vec![0]].concat(), tcp),
        Some(Malformed::Length)
    );
    for len in 0..52 {
        assert!(refused(&packet()[..len], tcp).is_some());
    }
    let mut routed = with_ipv4_option(&packet());
    routed[20..24].copy_from_slice(&[131, 3, 4, 0]);
    assert_eq!(refused(&routed, tcp), Some(Malformed::Headers));
    let mut routed = with_extension(&tcp_packet(v6(), &data(1, &bytes(1, 900))));
    routed[6] = 43;
    assert_eq!(refused(&routed, tcp), Some(Malformed::Headers));
}

#[test]
fn parts_that_are_too_long_or_not_headers_are_refused() {
    let header = &tcp_packet(v4(), &data(1, &[]))[..];
    let tcp = Segmentation::Tcp { size: 1000 };
    let payload = bytes(1, MAX_PACKET);
    let fits = MAX_PACKET - 52;
    let (front, back) = payload[..fits].split_at(1234);
    let split = Split::of_parts(header, [front, back], tcp).unwrap();
    let packets = split_all(split);
    assert_eq!(packets.len(), fits.div_ceil(1000));
    let longer = Split::of_parts(header, [&payload[..=fits], &[]], tcp);
    assert_eq!(longer.err(), Some(Malformed::Length));
    let split = Split::of_parts(&[header, &[1]].concat(), [&payload[..10], &[]], tcp).err();
    assert_eq!(split, Some(Malformed::Length));
}

/// A super-packet of any kind, its headers' length, and into what it is to be cut.
fn super_packet() -> impl Strategy<Value = (Vec<u8>, usize, Segmentation)> {
    let kind = (any::<bool>(), any::<bool>(), any::<bool>());
    (kind, 0..9000_usize, 1..1500_u16, any::<u32>(), any::<u8>()).prop_map(
        |((v6_, udp, unusual), len, size, sequence, flags)| {
            let ends = if v6_ { v6() } else { v4() };
            let payload = bytes(usize::from(flags), len);
            let flags = TcpFlags(flags & !(TcpFlags::SYN.0 | TcpFlags::RST.0 | 0x20));
            let segment = Segment {
                flags,
                ..data(sequence, &payload)
            };
            let (packet, segmentation) = if udp {
                (udp_packet(ends, &payload), Segmentation::Udp { size })
            } else {
                (tcp_packet(ends, &segment), Segmentation::Tcp { size })
            };
            let mut packet = match (unusual, v6_) {
                (false, _) => packet,
                (true, false) => with_ipv4_option(&packet),
                (true, true) => with_extension(&packet),
            };
            set_ident(&mut packet, sequence as u16);
            let header = packet.len() - len;
            (packet, header, segmentation)
        },
    )
}

/// The payload of `packets`, whose headers are all right.
fn joined(packets: &[Vec<u8>], header: usize) -> Vec<u8> {
    for packet in packets {
        let ip = Ip::parse(packet).unwrap();
        assert_eq!(ip.total_len(), packet.len());
        assert!(checksum::verify(&ip));
    }
    packets
        .iter()
        .flat_map(|packet| packet[header..].to_vec())
        .collect()
}

proptest! {
    #[test]
    fn segments_are_sound_and_lose_nothing((packet, header, segmentation) in super_packet()) {
        let packets = split_all(Split::new(&packet, segmentation).unwrap());
        prop_assert_eq!(joined(&packets, header), &packet[header..]);
        let (Segmentation::Tcp { size } | Segmentation::Udp { size }) = segmentation else {
            unreachable!("it is one of these");
        };
        let (last, others) = packets.split_last().unwrap();
        prop_assert!(others.iter().all(|packet| packet.len() - header == usize::from(size)));
        prop_assert!(last.len() - header <= usize::from(size));
    }

    #[test]
    fn it_does_not_matter_where_the_ring_ends(
        (packet, header, segmentation) in super_packet(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (header, payload) = packet.split_at(header);
        let (front, back) = payload.split_at(cut.index(payload.len() + 1));
        let mut header = header.to_vec();
        // Its lengths do not matter either.
        let lengths = if header[0] >> 4 == 4 { 2..4 } else { 4..6 };
        let len = u16::try_from(header.len()).unwrap();
        header[lengths].copy_from_slice(&len.to_be_bytes());
        let parts = Split::of_parts(&header, [front, back], segmentation).unwrap();
        let whole = Split::new(&packet, segmentation).unwrap();
        prop_assert_eq!(split_all(parts), split_all(whole));
    }

    #[test]
    fn smaller_super_packets_have_the_same_segments(
        (packet, _, segmentation) in super_packet(),
        max in 0..10_000_usize,
        room in 3000..10_000_usize,
    ) {
        let wanted = split_all(Split::new(&packet, segmentation).unwrap());
        let mut split = Split::new(&packet, segmentation).unwrap();
        let mut out = vec![0; room];
        let mut supers = Vec::new();
        while let Some((len, segmentation)) = split.next_super(max, &mut out) {
            prop_assert!(len <= max || segmentation == Segmentation::Whole);
            prop_assert_eq!(Ip::parse(&out[..len]).unwrap().total_len(), len);
            supers.push((out[..len].to_vec(), segmentation));
        }
        prop_assert_eq!(split.remaining(), 0);
        prop_assert_eq!(apart(&supers), wanted);
    }

    #[test]
    fn segments_join_again((packet, _, segmentation) in super_packet()) {
        let packets = split_all(Split::new(&packet, segmentation).unwrap());
        prop_assert_eq!(apart(&coalesced(&packets)), packets);
    }

    #[test]
    fn any_bytes_are_survived(packet in prop::collection::vec(any::<u8>(), 0..200), size: u16) {
        for segmentation in [Segmentation::Tcp { size }, Segmentation::Udp { size }] {
            let _ = Split::new(&packet, segmentation).map(split_all);
            let _ = Split::of_parts(&packet, [b"more", b"bytes"], segmentation).map(split_all);
        }
    }
}
