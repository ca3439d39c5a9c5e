//! Packets through a translation and back.

use std::net::SocketAddr;

use kvpn_wire::offload::{Segmentation, Split};
use kvpn_wire::packet::build::{self, Unreachable};
use kvpn_wire::packet::checksum;
use proptest::prelude::*;

use super::*;

fn netmap() -> Netmap {
    let mapping = |real: &str, shown: &str| {
        Mapping::new(real.parse().unwrap(), shown.parse().unwrap()).unwrap()
    };
    Netmap::new(
        vec![
            mapping("10.96.0.0/12", "100.64.0.0/12"),
            mapping("10.244.7.9/32", "100.80.0.0/32"),
            mapping("fd00:10:96::/108", "fd6b:7670:7000::/108"),
        ],
        vec!["10.96.0.1/32".parse().unwrap()],
    )
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(ip: &Ip<'_>) -> (IpAddr, IpAddr) {
    (ip.src(), ip.dst())
}

/// A laptop's address, and a virtual one.
fn ends() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let v4 = (0..1_u32 << 20).prop_map(|n| {
        let shown = Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 0, 0).to_bits() | n);
        (address("198.19.0.2"), shown.into())
    });
    let v6 = (0..1_u128 << 20).prop_map(|n| {
        let first = Ipv6Addr::new(0xfd6b, 0x7670, 0x7000, 0, 0, 0, 0, 0);
        (
            address("fd6b:7670:6e00::2"),
            Ipv6Addr::from_bits(first.to_bits() | n).into(),
        )
    });
    prop_oneof![v4, v6]
}

/// TCP, UDP and an echo reply, of one sender for one receiver.
fn packets(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<Vec<u8>> {
    let mut out = [0; 4096];
    let segment = build::Segment {
        payload,
        ..build::Segment::default()
    };
    let mut all = Vec::new();
    let n = build::tcp(src, dst, &segment, &mut out).unwrap();
    all.push(out[..n].to_vec());
    let n = build::udp(src, dst, payload, &mut out).unwrap();
    all.push(out[..n].to_vec());
    let n = build::icmp_echo_request(src.ip(), dst.ip(), 7, 9, payload, &mut out).unwrap();
    all.push(out[..n].to_vec());
    all
}

proptest! {
    /// The cluster answers a translated packet with the same packet turned around: the program has to see it come from where it sent its own.
    #[test]
    fn out_and_in_is_the_identity_and_checksums_stay_right(
        ends in ends(), ports: [u16; 2], payload in proptest::collection::vec(any::<u8>(), 0..1400),
    ) {
        let netmap = netmap();
        let (laptop, shown) = ends;
        let real = netmap.real(shown).unwrap();
        let there = |address| SocketAddr::new(address, ports[1]);
        let here = SocketAddr::new(laptop, ports[0]);
        for (mut packet, expected) in packets(here, there(shown), &payload).into_iter().zip(packets(here, there(real), &payload)) {
            prop_assert!(netmap.outgoing(&mut packet));
            prop_assert!(checksum::verify(&Ip::parse(&packet).unwrap()));
            prop_assert_eq!(packet, expected);
        }
        for (mut packet, expected) in packets(there(real), here, &payload).into_iter().zip(packets(there(shown), here, &payload)) {
            netmap.incoming(&mut packet);
            prop_assert!(checksum::verify(&Ip::parse(&packet).unwrap()));
            prop_assert_eq!(packet, expected);
        }
    }

    #[test]
    fn a_super_packets_segments_are_those_of_a_translated_one(
        ends in ends(), size in 1..900_u16, payload in proptest::collection::vec(any::<u8>(), 900..3000), udp: bool,
    ) {
        let netmap = netmap();
        let (laptop, shown) = ends;
        let real = netmap.real(shown).unwrap();
        let segmentation = if udp { Segmentation::Udp { size } } else { Segmentation::Tcp { size } };
        let cut = |packet: &[u8]| {
            let mut split = Split::new(packet, segmentation).unwrap();
            let mut all = Vec::new();
            let mut out = [0; 4096];
            while let Some(n) = split.next(&mut out) {
                assert!(checksum::verify(&Ip::parse(&out[..n]).unwrap()));
                all.push(out[..n].to_vec());
            }
            all
        };
        let (here, index) = (SocketAddr::new(laptop, 4000), usize::from(udp));
        let mut packet = packets(here, SocketAddr::new(shown, 80), &payload).swap_remove(index);
        let expected = packets(here, SocketAddr::new(real, 80), &payload).swap_remove(index);
        prop_assert!(netmap.outgoing(&mut packet));
        prop_assert_eq!(cut(&packet), cut(&expected));
        let mut back = packets(SocketAddr::new(real, 80), here, &payload).swap_remove(index);
        let expected = packets(SocketAddr::new(shown, 80), here, &payload).swap_remove(index);
        netmap.incoming(&mut back);
        prop_assert_eq!(cut(&back), cut(&expected));
    }

    /// An error is about a packet as the one who sent it knows it, whoever tells of it.
    #[test]
    fn errors_speak_of_the_packet_that_was_sent(
        ends in ends(), by_another: bool, payload in proptest::collection::vec(any::<u8>(), 0..900),
    ) {
        let netmap = netmap();
        let (laptop, shown) = ends;
        let real = netmap.real(shown).unwrap();
        let router = address(if laptop.is_ipv4() { "198.19.0.1" } else { "fd6b:7670:6e00::1" });
        let mut out = [0; 2048];
        let (here, reporter) = (SocketAddr::new(laptop, 5), if by_another { router } else { real });
        for sent in packets(here, SocketAddr::new(shown, 6), &payload) {
            let mut seen = sent.clone();
            prop_assert!(netmap.outgoing(&mut seen));
            let n = build::icmp_packet_too_big(1300, reporter, &seen, &mut out).unwrap();
            let error = &mut out[..n];
            netmap.incoming(error);
            let ip = Ip::parse(error).unwrap();
            prop_assert!(checksum::verify(&ip));
            prop_assert_eq!(addresses(&ip), (netmap.shown(reporter).unwrap_or(reporter), laptop));
            let quoted = ip.icmp().unwrap().quoted().unwrap();
            prop_assert_eq!(quoted, &sent[..quoted.len()]);
        }
        // The laptop's own about an answer, whose source it knows by its virtual address.
        let mut answer = packets(SocketAddr::new(real, 6), here, &payload).swap_remove(1);
        let as_sent = answer.clone();
        netmap.incoming(&mut answer);
        let n = build::icmp_unreachable(Unreachable::Port, laptop, &answer, &mut out).unwrap();
        prop_assert!(netmap.outgoing(&mut out[..n]));
        let ip = Ip::parse(&out[..n]).unwrap();
        prop_assert!(checksum::verify(&ip));
        prop_assert_eq!(addresses(&ip), (laptop, real));
        let quoted = ip.icmp().unwrap().quoted().unwrap();
        prop_assert_eq!(quoted, &as_sent[..quoted.len()]);
    }

    #[test]
    fn what_has_no_virtual_range_passes_unchanged(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut same = bytes.clone();
        prop_assert!(netmap().outgoing(&mut same));
        netmap().incoming(&mut same);
        prop_assert_eq!(same, bytes);
    }
}

#[test]
fn single_addresses_have_virtual_ones_too() {
    let netmap = netmap();
    assert_eq!(
        netmap.real(address("100.80.0.0")),
        Some(address("10.244.7.9"))
    );
    assert_eq!(netmap.shown(address("10.244.7.8")), None);
    assert_eq!(
        netmap.shown(address("10.111.1.2")),
        Some(address("100.79.1.2"))
    );
}

#[test]
fn a_real_address_of_a_mapped_range_is_not_the_clusters() {
    let (here, there) = (
        "198.19.0.2:1".parse().unwrap(),
        "10.96.0.10:53".parse().unwrap(),
    );
    for mut packet in packets(here, there, b"x") {
        assert!(!netmap().outgoing(&mut packet));
    }
}

#[test]
fn names_are_answered_with_what_programs_can_reach() {
    let netmap = netmap();
    let answered = |real| netmap.answered(address(real));
    assert_eq!(answered("10.96.0.10"), Some(address("100.64.0.10")));
    assert_eq!(answered("10.9.0.1"), Some(address("10.9.0.1")));
    assert_eq!(answered("10.96.0.1"), Some(address("10.96.0.1")), "outside");
    assert_eq!(answered("100.64.0.10"), None, "a virtual range lies there");
}

#[test]
fn a_part_of_a_range_has_an_image() {
    let netmap = netmap();
    let image = |part: &str| netmap.mappings()[0].image(part.parse().unwrap());
    assert_eq!(
        image("10.96.4.0/22"),
        Some("100.64.4.0/22".parse().unwrap())
    );
    assert_eq!(
        image("10.96.0.0/12"),
        Some("100.64.0.0/12".parse().unwrap())
    );
    assert_eq!(image("10.64.0.0/10"), None);
    assert_eq!(image("10.112.0.0/16"), None);
}
