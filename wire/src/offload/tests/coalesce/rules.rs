//! One test a rule: two packets that would join, and the one thing that keeps them apart.

use super::*;

const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// Where the TCP header begins, in packets of [`train`].
fn tcp_at(packet: &[u8]) -> usize {
    if packet[0] == 0x45 { 20 } else { 40 }
}

/// Two packets of a flow, the second of which was changed before its checksums were computed.
fn pair(ends: (SocketAddr, SocketAddr), change: impl Fn(&mut [u8])) -> [Vec<u8>; 2] {
    let mut packets = train(ends, &[1000, 1000]);
    change(&mut packets[1]);
    mend(&mut packets[1]);
    let mut packets = packets.into_iter();
    [packets.next().unwrap(), packets.next().unwrap()]
}

fn assert_apart(packets: &[Vec<u8>], why: &str) {
    let supers = coalesced(packets);
    assert_eq!(supers.len(), packets.len(), "{why}");
    for ((packet, kind), wanted) in supers.iter().zip(packets) {
        assert_eq!((packet, *kind), (wanted, Segmentation::Whole), "{why}");
    }
}

fn assert_joined(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut supers = coalesced(packets);
    assert_eq!(supers.len(), 1);
    assert_eq!(apart(&supers), packets);
    supers.remove(0).0
}

#[test]
fn any_other_byte_of_the_headers_keeps_packets_apart() {
    for ends in [v4(), v6()] {
        let [_, original] = pair(ends, |_| {});
        let at = tcp_at(&original);
        let free = match at {
            // Total length, identification, checksum.
            20 => vec![2, 3, 4, 5, 10, 11, at + 16, at + 17],
            _ => vec![4, 5, at + 16, at + 17],
        };
        for byte in (0..at + 32).filter(|byte| !free.contains(byte)) {
            for bit in 0..8 {
                let [first, mut second] = pair(ends, |_| {});
                second[byte] ^= 1 << bit;
                if Ip::parse(&second).is_ok_and(|ip| ip.tcp().is_some()) {
                    mend(&mut second);
                }
                let joins = byte == at + 13 && [0, 3].contains(&bit);
                if joins {
                    // FIN and PSH: the last segment's.
                    assert_joined(&[first, second]);
                } else {
                    assert_apart(&[first, second], &format!("byte {byte} bit {bit}"));
                }
            }
        }
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    for ends in [v4(), v6()] {
        for damaged in [0, 1] {
            let mut packets = pair(ends, |_| {});
            let at = tcp_at(&packets[0]);
            for byte in [at + 16, at + 17, at + 32, at + 500, at + 1031] {
                packets[damaged][byte] ^= 0x10;
                assert_apart(&packets, &format!("packet {damaged} byte {byte}"));
                packets[damaged][byte] ^= 0x10;
            }
            if at == 20 {
                packets[damaged][10] ^= 1;
                assert_apart(&packets, "IPv4 header checksum");
                packets[damaged][10] ^= 1;
            }
            assert_joined(&packets);
        }
    }
}

#[test]
fn the_other_form_of_a_checksum_stays_as_it_is() {
    // The window is chosen so that the TCP checksum is 0, of which the other form is 0xffff.
    let [first, mut second] = pair(v6(), |_| {});
    let sum = u16::from_be_bytes([second[56], second[57]]);
    let mut payload = u16::from_be_bytes([second[1000], second[1001]]);
    payload = checksum::updated(!payload, 0, sum);
    second[1000..1002].copy_from_slice(&(!payload).to_be_bytes());
    mend(&mut second);
    assert_eq!(second[56..58], [0, 0]);
    assert_joined(&[first.clone(), second.clone()]);
    second[56..58].fill(0xff);
    assert!(checksum::verify(&Ip::parse(&second).unwrap()));
    assert_apart(&[first, second], "0xffff would become 0");
}

#[test]
fn the_other_form_of_the_ipv4_checksum_stays_as_it_is() {
    let mut packets = train(v4(), &[1000, 1000]);
    let sum = u16::from_be_bytes([packets[0][10], packets[0][11]]);
    for packet in &mut packets {
        // The addresses make up for what the sum lacks, so that it is 0 for the first packet.
        let address = u16::from_be_bytes([packet[18], packet[19]]) + sum;
        packet[18..20].copy_from_slice(&address.to_be_bytes());
        mend(packet);
    }
    assert_eq!(packets[0][10..12], [0, 0]);
    assert_joined(&packets);
    packets[0][10..12].fill(0xff);
    assert!(checksum::verify(&Ip::parse(&packets[0]).unwrap()));
    assert_apart(&packets, "0xffff would become 0");
}

#[test]
fn the_first_packet_must_be_plain_too() {
    for ends in [v4(), v6()] {
        for flags in [
            0,
            TcpFlags::PSH.0,
            TcpFlags::FIN.0,
            TcpFlags::SYN.0,
            TcpFlags::RST.0,
            URG,
            CWR,
            CWR | ECE,
        ] {
            let mut packets = train(ends, &[1000, 1000]);
            let at = tcp_at(&packets[0]);
            for packet in &mut packets {
                packet[at + 13] = if flags == 0 { 0 } else { ACK.0 | flags };
                mend(packet);
            }
            assert_apart(&packets, &format!("flags {flags:x}"));
        }
    }
}

#[test]
fn congestion_echo_joins_its_like() {
    for ends in [v4(), v6()] {
        let mut packets = train(ends, &[1000, 1000]);
        for packet in &mut packets {
            let at = tcp_at(packet);
            packet[at + 13] |= ECE;
            mend(packet);
        }
        assert_joined(&packets);
    }
}

#[test]
fn push_and_fin_end_a_super_packet_and_stay_at_its_end() {
    for flag in [TcpFlags::PSH, TcpFlags::FIN] {
        let mut packets = train(v4(), &[1000, 1000, 1000]);
        packets[1][33] |= flag.0;
        mend(&mut packets[1]);
        let supers = coalesced(&packets);
        assert_eq!(supers.len(), 2);
        let flags = Ip::parse(&supers[0].0).unwrap().tcp().unwrap().flags();
        assert_eq!(flags, ACK.with(flag));
        assert_eq!(apart(&supers), packets);
    }
}

#[test]
fn a_shorter_segment_is_the_last_and_a_longer_one_the_next() {
    let lengths = |sizes: &[usize]| -> Vec<usize> {
        let packets = train(v6(), sizes);
        let supers = coalesced(&packets);
        assert_eq!(apart(&supers), packets);
        supers.iter().map(|(packet, _)| packet.len() - 72).collect()
    };
    assert_eq!(lengths(&[1000, 999, 999]), [1999, 999]);
    assert_eq!(lengths(&[1000, 1001, 1001]), [1000, 2002]);
    assert_eq!(lengths(&[1000, 1, 1000]), [1001, 1000]);
    assert_eq!(lengths(&[1000, 0, 1000]), [1000, 0, 1000]);
    // Payloads shorter than their headers are not worth it.
    assert_eq!(lengths(&[71, 71, 72, 72]), [71, 71, 144]);
}

#[test]
fn the_identification_counts_up_or_means_nothing() {
    let with = |idents: [u16; 3], dont_fragment: bool| {
        let mut packets = train(v4(), &[1000; 3]);
        for (packet, ident) in packets.iter_mut().zip(idents) {
            packet[6] = if dont_fragment { 0x40 } else { 0 };
            set_ident(packet, ident);
        }
        coalesced(&packets).len()
    };
    assert_eq!(with([7, 8, 9], false), 1);
    assert_eq!(with([65_535, 0, 1], false), 1);
    assert_eq!(with([7, 7, 7], false), 3);
    assert_eq!(with([7, 9, 11], false), 3);
    assert_eq!(with([9, 8, 7], false), 3);
    assert_eq!(with([7, 8, 9], true), 1);
    assert_eq!(with([0, 0, 0], true), 1);
    assert_eq!(with([7, 9, 11], true), 3);
}

#[test]
fn fragments_and_unusual_headers_pass() {
    let fragments = |field: u16| {
        let mut packets = train(v4(), &[1000, 1000]);
        for packet in &mut packets {
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            mend_ip(packet);
        }
        packets
    };
    assert_apart(&fragments(0x2000), "more fragments");
    assert_apart(&fragments(0x0001), "a later fragment");
    assert_apart(&fragments(0x8000), "the reserved bit");
    let options = train(v4(), &[1000, 1000]).into_iter();
    let options: Vec<Vec<u8>> = options.map(|packet| with_ipv4_option(&packet)).collect();
    assert_apart(&options, "IPv4 options");
    let extended = train(v6(), &[1000, 1000]).into_iter();
    let extended: Vec<Vec<u8>> = extended.map(|packet| with_extension(&packet)).collect();
    assert_apart(&extended, "IPv6 extension headers");
}

#[test]
fn a_length_that_lies_keeps_packets_apart() {
    for ends in [v4(), v6()] {
        for lying in [0, 1] {
            for longer in [true, false] {
                let mut packets = pair(ends, |_| {});
                if longer {
                    packets[lying].extend([0; 16]);
                } else {
                    packets[lying].truncate(1000);
                }
                assert_apart(&packets, "the IP length is not the packet's");
            }
        }
    }
}

#[test]
fn datagrams_join_only_their_like() {
    for ends in [v4(), v6()] {
        let base =
            || -> Vec<Vec<u8>> { (0..2).map(|n| udp_packet(ends, &bytes(n, 900))).collect() };
        let at = tcp_at(&base()[0]);
        assert_eq!(coalesced(&base()).len(), 1);
        let mut changed = base();
        changed[1][at] ^= 1;
        mend(&mut changed[1]);
        assert_apart(&changed, "another port");
        let mut changed = base();
        for packet in &mut changed {
            packet[at + 6..at + 8].fill(0);
        }
        assert_apart(&changed, "no checksum");
        let mut changed = base();
        changed[1][at + 6..at + 8].fill(0);
        assert_apart(&changed, "no checksum on the second");
        let mut changed = base();
        changed[1][at + 100] ^= 1;
        assert_apart(&changed, "a wrong checksum");
        for lying in [0, 1] {
            let mut changed = base();
            changed[lying][at + 5] -= 1;
            assert_apart(&changed, "the UDP length is not IP's");
        }
        let empty: Vec<Vec<u8>> = (0..2).map(|_| udp_packet(ends, &[])).collect();
        assert_apart(&empty, "no payload");
    }
}

/// Makes only the IPv4 header's checksum right.
fn mend_ip(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}
