//! Views of built and of hand-written packets, and no bytes that panic.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::build::{Segment, Unreachable};
use super::*;

const V4: [&str; 2] = ["10.0.0.1:1234", "10.96.0.10:53"];
const V6: [&str; 2] = ["[fd00::1]:1234", "[fd00:96::a]:53"];

fn ends([src, dst]: [&str; 2]) -> (SocketAddr, SocketAddr) {
    (src.parse().unwrap(), dst.parse().unwrap())
}

fn udp(family: [&str; 2], payload: &[u8]) -> Vec<u8> {
    let (src, dst) = ends(family);
    let mut out = vec![0xaa; 2048];
    let n = build::udp(src, dst, payload, &mut out).unwrap();
    out.truncate(n);
    out
}

fn tcp(family: [&str; 2], segment: &Segment<'_>) -> Vec<u8> {
    let (src, dst) = ends(family);
    let mut out = vec![0xaa; 2048];
    let n = build::tcp(src, dst, segment, &mut out).unwrap();
    out.truncate(n);
    out
}

/// `packet` (IPv6) with extension headers in front of its payload; the first kind goes into the fixed header.
fn with_extensions(packet: &[u8], headers: &[(u8, &[u8])]) -> Vec<u8> {
    let mut kinds: Vec<u8> = headers.iter().map(|(kind, _)| *kind).collect();
    kinds.push(packet[6]);
    let mut out = packet[..40].to_vec();
    out[6] = kinds[0];
    for ((_, body), next) in headers.iter().zip(&kinds[1..]) {
        out.push(*next);
        out.extend_from_slice(&body[1..]);
    }
    out.extend_from_slice(&packet[40..]);
    let len = u16::try_from(out.len() - 40).unwrap();
    out[4..6].copy_from_slice(&len.to_be_bytes());
    out
}

#[test]
fn a_udp_datagram_is_read_as_it_was_built() {
    for family in [V4, V6] {
        let packet = udp(family, b"hello");
        let ip = Ip::parse(&packet).unwrap();
        let (src, dst) = ends(family);
        assert!(checksum::verify(&ip));
        assert_eq!(
            (ip.total_len(), ip.bytes(), ip.hop_limit()),
            (packet.len(), &packet[..], 64)
        );
        assert_eq!(ip.udp().unwrap().payload(), b"hello");
        let flow = FiveTuple::of(&ip).unwrap();
        assert_eq!(
            flow,
            FiveTuple {
                protocol: Protocol::Udp,
                src,
                dst
            }
        );
        assert_eq!(
            (flow.reversed().src, flow.reversed().reversed()),
            (dst, flow)
        );
    }
}

#[test]
fn the_ipv4_header_checksum_is_known() {
    // The example of RFC 1071's many readers: 4500 0073 0000 4000 4011 .... c0a8 0001 c0a8 00c7.
    let header = [
        0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7,
    ];
    assert_eq!(checksum::of(&header), 0xb861);
}

#[test]
fn trailing_bytes_are_not_part_of_a_packet() {
    let mut packet = udp(V4, b"hello");
    let len = packet.len();
    packet.extend_from_slice(&[0; 11]);
    assert_eq!(Ip::parse(&packet).unwrap().bytes().len(), len);
}

#[test]
fn short_and_odd_headers_are_refused() {
    let packet = udp(V4, b"hello");
    for n in 0..packet.len() {
        assert_eq!(Ip::parse(&packet[..n]), Err(Malformed::Truncated), "{n}");
    }
    let broken = |at: usize, byte: u8| {
        let mut packet = packet.clone();
        packet[at] = byte;
        Ip::parse(&packet).unwrap_err()
    };
    assert_eq!(broken(0, 0x55), Malformed::Version);
    assert_eq!(broken(0, 0x44), Malformed::HeaderLength);
    assert_eq!(broken(3, 19), Malformed::HeaderLength);
    assert_eq!(Ip::parse(&udp(V6, b"x")[..47]), Err(Malformed::Truncated));
}

#[test]
fn ipv4_options_are_skipped_and_source_routes_seen() {
    let plain = udp(V4, b"hello");
    for (options, routed) in [
        ([1, 1, 1, 0], false),
        ([7, 4, 4, 0], false),
        ([1, 131, 3, 4], true),
        ([137, 3, 4, 0], true),
    ] {
        let mut packet = plain[..20].to_vec();
        packet[0] = 0x46;
        packet[3] += 4;
        packet.extend_from_slice(&options);
        packet.extend_from_slice(&plain[20..]);
        let ip = Ip::parse(&packet).unwrap();
        assert_eq!(
            (ip.header_len(), ip.is_source_routed()),
            (24, routed),
            "{options:?}"
        );
        assert_eq!(ip.udp().unwrap().payload(), b"hello");
    }
}

#[test]
fn fragments_are_recognised() {
    let mut packet = udp(V4, b"hello");
    packet[6] = 0x20;
    let ip = Ip::parse(&packet).unwrap();
    assert!(ip.is_fragment() && ip.has_transport_header() && ip.udp().is_none());
    assert!(FiveTuple::of(&ip).is_some());
    packet[6..8].copy_from_slice(&[0x00, 0x02]);
    let ip = Ip::parse(&packet).unwrap();
    assert_eq!(
        ip.fragment(),
        Some(Fragment {
            id: 0,
            offset: 16,
            more: false
        })
    );
    assert!(!ip.has_transport_header());
    assert_eq!(FiveTuple::of(&ip), None);
}

#[test]
fn ipv6_extension_headers_lead_to_the_payload() {
    let plain = udp(V6, b"hello");
    let options: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    let authentication: &[u8] = &[
        0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
    ];
    let packet = with_extensions(&plain, &[(0, options), (60, options), (51, authentication)]);
    let ip = Ip::parse(&packet).unwrap();
    assert_eq!(
        (ip.protocol(), ip.header_len()),
        (Protocol::Udp, 40 + 8 + 8 + 24)
    );
    assert_eq!(ip.udp().unwrap().payload(), b"hello");
    assert!(!ip.is_source_routed());
    let routed = with_extensions(&plain, &[(43, options)]);
    assert!(Ip::parse(&routed).unwrap().is_source_routed());
}

#[test]
fn ipv6_fragments_stop_the_walk() {
    let plain = udp(V6, b"hello");
    let later = with_extensions(&plain, &[(44, &[0, 0, 0, 8, 0, 0, 0, 7])]);
    let ip = Ip::parse(&later).unwrap();
    assert_eq!(
        ip.fragment(),
        Some(Fragment {
            id: 7,
            offset: 8,
            more: false
        })
    );
    assert_eq!((ip.protocol(), FiveTuple::of(&ip)), (Protocol::Udp, None));
    let atomic = with_extensions(&plain, &[(44, &[0, 0, 0, 0, 0, 0, 0, 7])]);
    assert!(!Ip::parse(&atomic).unwrap().is_fragment());
}

#[test]
fn unreasonable_extension_headers_are_refused() {
    let plain = udp(V6, b"hello");
    let options: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    let late = with_extensions(&plain, &[(60, options), (0, options)]);
    assert_eq!(Ip::parse(&late), Err(Malformed::ExtensionHeaders));
    let many = with_extensions(&plain, &[(60, options); 9]);
    assert_eq!(Ip::parse(&many), Err(Malformed::ExtensionHeaders));
    let long = with_extensions(&plain, &[(60, &[0, 200, 1, 4, 0, 0, 0, 0])]);
    assert_eq!(Ip::parse(&long), Err(Malformed::Truncated));
}

#[test]
fn a_refused_opening_is_reset_with_its_number_acknowledged() {
    for family in [V4, V6] {
        let syn = Segment {
            sequence: 99,
            flags: TcpFlags::SYN,
            window: 1000,
            ..Segment::default()
        };
        let mut out = [0; 128];
        let n = build::tcp_reset(&tcp(family, &syn), &mut out).unwrap();
        let ip = Ip::parse(&out[..n]).unwrap();
        let reset = ip.tcp().unwrap();
        assert!(checksum::verify(&ip));
        assert_eq!(reset.flags(), TcpFlags::RST.with(TcpFlags::ACK));
        assert_eq!((reset.sequence(), reset.acknowledgement()), (0, 100));
        assert_eq!(ip.dst(), ends(family).0.ip());
        assert_eq!(build::tcp_reset(&out[..n], &mut [0; 128]), None);
    }
}

#[test]
fn an_unknown_segment_is_reset_where_it_expects_it() {
    let data = Segment {
        sequence: 5,
        acknowledgement: 77,
        flags: TcpFlags::ACK,
        payload: b"xy",
        ..Segment::default()
    };
    let mut out = [0; 128];
    let n = build::tcp_reset(&tcp(V4, &data), &mut out).unwrap();
    let reset = Ip::parse(&out[..n]).unwrap().tcp().unwrap();
    assert_eq!((reset.flags(), reset.sequence()), (TcpFlags::RST, 77));
}

#[test]
fn the_segment_size_is_lowered_and_the_checksum_mended() {
    for (options, at_odd) in [
        (&[2, 4, 5, 220][..], false),
        (&[1, 2, 4, 5, 220, 1, 1, 0][..], true),
    ] {
        for family in [V4, V6] {
            let syn = Segment {
                flags: TcpFlags::SYN,
                options,
                ..Segment::default()
            };
            let mut packet = tcp(family, &syn);
            assert!(clamp_mss(&mut packet, 1300), "odd: {at_odd}");
            let ip = Ip::parse(&packet).unwrap();
            assert_eq!(ip.tcp().unwrap().mss(), Some(1300));
            assert!(checksum::verify(&ip));
            assert!(!clamp_mss(&mut packet, 1300) && !clamp_mss(&mut packet, 1400));
        }
    }
}

#[test]
fn only_openings_are_clamped() {
    let ack = Segment {
        flags: TcpFlags::ACK,
        options: &[2, 4, 5, 220],
        ..Segment::default()
    };
    assert!(!clamp_mss(&mut tcp(V4, &ack), 100));
    assert!(!clamp_mss(&mut udp(V4, b"hello"), 100));
    let syn = Segment {
        flags: TcpFlags::SYN,
        ..Segment::default()
    };
    assert!(!clamp_mss(&mut tcp(V4, &syn), 100));
}

#[test]
fn echo_goes_both_ways_and_has_one_flow() {
    for family in [V4, V6] {
        let (src, dst) = ends(family);
        let (mut request, mut reply) = ([0; 128], [0; 128]);
        let n = build::icmp_echo_request(src.ip(), dst.ip(), 7, 8, b"ping", &mut request).unwrap();
        let m = build::icmp_echo_reply(dst.ip(), src.ip(), 7, 8, b"ping", &mut reply).unwrap();
        let (request, reply) = (
            Ip::parse(&request[..n]).unwrap(),
            Ip::parse(&reply[..m]).unwrap(),
        );
        assert!(checksum::verify(&request) && checksum::verify(&reply));
        let (ident, sequence, payload) = (7, 8, &b"ping"[..]);
        assert_eq!(
            request.icmp().unwrap().message(),
            IcmpMessage::EchoRequest {
                ident,
                sequence,
                payload
            }
        );
        assert_eq!(
            reply.icmp().unwrap().message(),
            IcmpMessage::EchoReply {
                ident,
                sequence,
                payload
            }
        );
        assert_eq!(
            FiveTuple::of(&request).map(FiveTuple::reversed),
            FiveTuple::of(&reply)
        );
    }
}

#[test]
fn an_error_quotes_the_packet_and_belongs_to_its_flow() {
    for (family, gateway, code) in [(V4, "10.0.0.9", 13), (V6, "fd00::9", 1)] {
        let gateway: IpAddr = gateway.parse().unwrap();
        let original = udp(family, &[7; 1500]);
        let mut out = [0; 2048];
        let n =
            build::icmp_unreachable(Unreachable::Prohibited, gateway, &original, &mut out).unwrap();
        let ip = Ip::parse(&out[..n]).unwrap();
        assert!(checksum::verify(&ip) && n <= 1280);
        assert_eq!(ip.icmp().unwrap().code(), code);
        assert_eq!(
            FiveTuple::quoted_by(&ip),
            FiveTuple::of(&Ip::parse(&original).unwrap())
        );
        assert_eq!(FiveTuple::of(&ip), None);
        assert_eq!(
            build::icmp_unreachable(Unreachable::Host, gateway, &out[..n], &mut [0; 2048]),
            None
        );
    }
}

#[test]
fn packet_too_big_tells_the_size() {
    for (family, gateway) in [(V4, "10.0.0.9"), (V6, "fd00::9")] {
        let mut out = [0; 2048];
        let original = udp(family, &[7; 1500]);
        let n = build::icmp_packet_too_big(1360, gateway.parse().unwrap(), &original, &mut out)
            .unwrap();
        let message = Ip::parse(&out[..n]).unwrap().icmp().unwrap().message();
        assert!(
            matches!(message, IcmpMessage::PacketTooBig { mtu: 1360, .. }),
            "{message:?}"
        );
    }
}

#[test]
fn errors_are_not_sent_where_no_single_host_listens() {
    let gateway: IpAddr = "10.0.0.9".parse().unwrap();
    for ends in [
        ["10.0.0.1:1", "224.0.0.1:2"],
        ["0.0.0.0:1", "10.0.0.2:2"],
        ["10.0.0.1:1", "255.255.255.255:2"],
    ] {
        let original = udp(ends, b"x");
        assert_eq!(
            build::icmp_unreachable(Unreachable::Port, gateway, &original, &mut [0; 2048]),
            None,
            "{ends:?}"
        );
    }
}

#[test]
fn builders_refuse_what_does_not_fit() {
    let (src, dst) = ends(V4);
    assert_eq!(build::udp(src, dst, b"hello", &mut [0; 32]), None);
    assert_eq!(build::udp(src, ends(V6).1, b"hello", &mut [0; 128]), None);
    assert_eq!(build::udp(src, dst, &[0; 65_536], &mut [0; 70_000]), None);
    let odd = Segment {
        options: &[1, 1, 1],
        ..Segment::default()
    };
    assert_eq!(build::tcp(src, dst, &odd, &mut [0; 128]), None);
}

#[test]
fn a_dns_header_is_read() {
    let message = [0x12, 0x34, 0x85, 0x83, 0, 1, 0, 2, 0, 3, 0, 4];
    let header = DnsHeader::parse(&message).unwrap();
    assert_eq!(
        (header.id(), header.opcode(), header.response_code()),
        (0x1234, 0, 3)
    );
    assert!(header.is_response() && header.is_authoritative() && header.recursion_desired());
    assert!(header.recursion_available() && !header.is_truncated());
    let counts = (
        header.questions(),
        header.answers(),
        header.authorities(),
        header.additionals(),
    );
    assert_eq!(counts, (1, 2, 3, 4));
    assert_eq!(DnsHeader::parse(&message[..11]), Err(Malformed::Truncated));
}

/// Everything that can be asked of a packet.
fn ask_everything(bytes: &[u8]) {
    let mut out = [0; 2048];
    let mut copy = bytes.to_vec();
    clamp_mss(&mut copy, 1000);
    build::tcp_reset(bytes, &mut out);
    build::icmp_unreachable(
        Unreachable::Port,
        IpAddr::from([10, 0, 0, 1]),
        bytes,
        &mut out,
    );
    for ip in [Ip::parse(bytes), Ip::parse_quoted(bytes)]
        .into_iter()
        .flatten()
    {
        checksum::verify(&ip);
        FiveTuple::of(&ip);
        FiveTuple::quoted_by(&ip);
        assert!(ip.payload().len() <= bytes.len());
        if let Some(tcp) = ip.tcp() {
            tcp.mss();
            tcp.sequence_len();
        }
    }
}

/// As RFC 1071 defines it, word by word.
fn sum_by_words(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| {
        let low = word.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([word[0], low]))
    });
    let sum = words.fold(0, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    u16::try_from(sum).unwrap()
}

#[test]
fn a_sum_does_not_depend_on_how_many_bytes_are_added_at_once() {
    let mut bytes: Vec<u8> = (0..65_536_u32).map(|n| (n * n / 7 % 256) as u8).collect();
    for len in (0..700).chain([1299, 1300, 65_535, 65_536]) {
        let sum = checksum::Sum::default().bytes(&bytes[..len]);
        assert_eq!(sum.folded(), sum_by_words(&bytes[..len]), "{len}");
        let half = len / 4 * 2;
        let parts = checksum::Sum::default().bytes(&bytes[..half]);
        assert_eq!(parts.bytes(&bytes[half..len]).folded(), sum.folded());
    }
    bytes.fill(0xff);
    assert_eq!(checksum::of(&bytes), 0);
    assert_eq!(checksum::Sum::default().folded(), 0);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        ask_everything(&bytes);
        prop_assert_eq!(DnsHeader::parse(&bytes).is_ok(), bytes.len() >= 12);
    }

    #[test]
    fn no_damage_panics(v6 in any::<bool>(), kind in 0usize..3, damage in prop::collection::vec((0usize..120, any::<u8>()), 0..8)) {
        let family = if v6 { V6 } else { V4 };
        let syn = Segment { flags: TcpFlags::SYN, options: &[2, 4, 5, 220, 1, 1, 4, 2], ..Segment::default() };
        let mut bytes = match kind {
            0 => udp(family, &[1; 40]),
            1 => tcp(family, &syn),
            _ => {
                let mut out = vec![0; 256];
                let gateway = ends(family).1.ip();
                let n = build::icmp_unreachable(Unreachable::Host, gateway, &udp(family, &[1; 40]), &mut out).unwrap();
                out.truncate(n);
                out
            }
        };
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        ask_everything(&bytes);
    }

    #[test]
    fn an_updated_checksum_is_a_fresh_one(mut bytes in prop::collection::vec(any::<u8>(), 4..64), at in 0usize..31, new in any::<u16>()) {
        let at = (at * 2).min((bytes.len() - 2) & !1);
        let old = be16(&bytes, at);
        let before = checksum::of(&bytes);
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        let (fresh, updated) = (checksum::of(&bytes), checksum::updated(before, old, new));
        // Zero has two forms; either verifies.
        prop_assert!(fresh == updated || (fresh == 0xffff && updated == 0) || (fresh == 0 && updated == 0xffff));
    }
}
