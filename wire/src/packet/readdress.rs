//! Replacing an address of a packet, as a translator from prefix to prefix does (RFC 3022, RFC 6296): in place, the checksums
//! updated by the difference (RFC 1624), so that a wrong one stays wrong. It does not know which address stands for which.

use std::net::IpAddr;

use super::checksum::{self, Sum};
use super::{Ip, Protocol, be16, icmp};

/// Where the checksum of an IPv4 header is (RFC 791).
const IPV4_CHECKSUM: usize = 10;

/// One of the two addresses of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who sent it.
    Source,
    /// Whom it is for.
    Destination,
}

/// Replaces an address of a packet, or of the beginning of one that an ICMP error quotes, and mends the checksums that cover it:
/// the IPv4 header's, and those of TCP, UDP and ICMPv6 through their pseudo header.
///
/// False, and nothing changed, when it is no packet, or one of the other family. In a super-packet the content of the transport's
/// checksum means nothing, before and after.
pub fn readdress(packet: &mut [u8], end: End, address: IpAddr) -> bool {
    let Ok(ip) = Ip::parse_quoted(packet) else {
        return false;
    };
    let former = match end {
        End::Source => ip.src(),
        End::Destination => ip.dst(),
    };
    if former.is_ipv4() != address.is_ipv4() {
        return false;
    }
    let (transport, is_udp) = (transport_checksum(&ip), ip.protocol() == Protocol::Udp);
    let (old, new) = (sum(former), sum(address));
    put(packet, end, address);
    if address.is_ipv4() {
        mend(packet, IPV4_CHECKSUM, old, new);
    }
    if let Some(at) = transport {
        mend(packet, at, old, new);
        // A UDP checksum of 0 would mean that there is none (RFC 768).
        if is_udp && be16(packet, at) == 0 {
            packet[at..at + 2].fill(0xff);
        }
    }
    true
}

/// The same for the packet that the ICMP error in `packet` is about, the error's own checksum included. False, and nothing
/// changed, when it is no error that quotes one.
pub fn readdress_quoted(packet: &mut [u8], end: End, address: IpAddr) -> bool {
    let Ok(ip) = Ip::parse(packet) else {
        return false;
    };
    if ip.icmp().is_none_or(|icmp| icmp.quoted().is_none()) {
        return false;
    }
    let (message, total) = (ip.header_len(), ip.total_len());
    let quoted = message + icmp::HEADER..total;
    let old = Sum::default().bytes(&packet[quoted.clone()]).folded();
    if !readdress(&mut packet[quoted.clone()], end, address) {
        return false;
    }
    let new = Sum::default().bytes(&packet[quoted]).folded();
    mend(packet, message + 2, old, new);
    true
}

/// Where the checksum is that covers the addresses, if the packet has one.
fn transport_checksum(ip: &Ip<'_>) -> Option<usize> {
    let within = match ip.protocol() {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
        Protocol::Icmpv6 => 2,
        Protocol::Icmpv4 | Protocol::Other(_) => return None,
    };
    let at = ip.header_len() + within;
    let is_there = ip.has_transport_header() && at + 2 <= ip.bytes().len();
    let is_none = ip.protocol() == Protocol::Udp && be16(ip.bytes(), at) == 0;
    (is_there && !is_none).then_some(at)
}

fn sum(address: IpAddr) -> u16 {
    let sum = Sum::default();
    match address {
        IpAddr::V4(address) => sum.bytes(&address.octets()),
        IpAddr::V6(address) => sum.bytes(&address.octets()),
    }
    .folded()
}

fn put(packet: &mut [u8], end: End, address: IpAddr) {
    match (address, end) {
        (IpAddr::V4(address), End::Source) => packet[12..16].copy_from_slice(&address.octets()),
        (IpAddr::V4(address), End::Destination) => {
            packet[16..20].copy_from_slice(&address.octets());
        }
        (IpAddr::V6(address), End::Source) => packet[8..24].copy_from_slice(&address.octets()),
        (IpAddr::V6(address), End::Destination) => {
            packet[24..40].copy_from_slice(&address.octets());
        }
    }
}

fn mend(packet: &mut [u8], at: usize, old: u16, new: u16) {
    let sum = checksum::updated(be16(packet, at), old, new);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::packet::build::{self, Unreachable};

    /// One of each kind, between addresses of one family: TCP, UDP, echo, an error about the reverse of the UDP packet.
    fn packets(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<Vec<u8>> {
        let mut out = [0; 2048];
        let mut all = Vec::new();
        let segment = build::Segment {
            payload,
            ..build::Segment::default()
        };
        let n = build::tcp(src, dst, &segment, &mut out).unwrap();
        all.push(out[..n].to_vec());
        let n = build::icmp_echo_reply(src.ip(), dst.ip(), 7, 9, payload, &mut out).unwrap();
        all.push(out[..n].to_vec());
        let n = build::udp(dst, src, payload, &mut out).unwrap();
        let about = out[..n].to_vec();
        let n = build::icmp_unreachable(Unreachable::Port, src.ip(), &about, &mut out).unwrap();
        all.push(out[..n].to_vec());
        let n = build::udp(src, dst, payload, &mut out).unwrap();
        all.push(out[..n].to_vec());
        all
    }

    fn same_family() -> impl Strategy<Value = [IpAddr; 3]> {
        prop_oneof![
            any::<[[u8; 3]; 3]>().prop_map(|all| all.map(|[a, b, c]| IpAddr::from([10, a, b, c]))),
            any::<[[u16; 7]; 3]>().prop_map(|all| {
                all.map(|[a, b, c, d, e, f, g]| IpAddr::from([0xfd00, a, b, c, d, e, f, g]))
            }),
        ]
    }

    proptest! {
        #[test]
        fn checksums_stay_right_and_there_and_back_is_the_same(
            addresses in same_family(), ports: [u16; 2], payload in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let [src, dst, other] = addresses;
            for packet in packets(SocketAddr::new(src, ports[0]), SocketAddr::new(dst, ports[1]), &payload) {
                for (end, former) in [(End::Source, src), (End::Destination, dst)] {
                    let mut changed = packet.clone();
                    prop_assert!(readdress(&mut changed, end, other));
                    let ip = Ip::parse(&changed).unwrap();
                    prop_assert_eq!(if end == End::Source { ip.src() } else { ip.dst() }, other);
                    prop_assert!(checksum::verify(&ip));
                    prop_assert!(readdress(&mut changed, end, former));
                    prop_assert!(checksum::verify(&Ip::parse(&changed).unwrap()));
                }
            }
        }

        #[test]
        fn what_an_error_quotes_stays_right_too(
            addresses in same_family(), ports: [u16; 2], payload in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let [src, dst, other] = addresses;
            let [.., mut error, _] = <[Vec<u8>; 4]>::try_from(
                packets(SocketAddr::new(src, ports[0]), SocketAddr::new(dst, ports[1]), &payload)).unwrap();
            prop_assert!(readdress_quoted(&mut error, End::Destination, other));
            let ip = Ip::parse(&error).unwrap();
            prop_assert!(checksum::verify(&ip));
            let quoted = Ip::parse_quoted(ip.icmp().unwrap().quoted().unwrap()).unwrap();
            prop_assert_eq!((quoted.src(), quoted.dst()), (dst, other));
            if quoted.bytes().len() == quoted.total_len() {
                prop_assert!(checksum::verify(&quoted));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool, kind: u8) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            let at = if v6 { 6 } else { 9 };
            if let Some(protocol) = bytes.get_mut(at) {
                *protocol = [1, 6, 17, 58, kind][usize::from(kind) % 5];
            }
            for address in ["10.0.0.1", "fd00::1"] {
                let address = address.parse().unwrap();
                readdress(&mut bytes, End::Source, address);
                readdress_quoted(&mut bytes, End::Destination, address);
            }
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_and_none_stays_none() {
        let (src, dst) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let other = "100.64.0.9".parse().unwrap();
        for mut packet in packets(src, dst, b"data") {
            *packet.last_mut().unwrap() ^= 1;
            let before = checksum::verify(&Ip::parse(&packet).unwrap());
            assert!(readdress(&mut packet, End::Destination, other));
            assert_eq!(checksum::verify(&Ip::parse(&packet).unwrap()), before);
        }
        let mut packet = packets(src, dst, b"data").pop().unwrap();
        packet[26..28].fill(0);
        assert!(readdress(&mut packet, End::Destination, other));
        assert_eq!(packet[26..28], [0, 0]);
    }

    #[test]
    fn another_family_and_what_is_no_error_are_left_alone() {
        let (src, dst) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let packet = packets(src, dst, b"data").pop().unwrap();
        let mut same = packet.clone();
        assert!(!readdress(
            &mut same,
            End::Source,
            "fd00::1".parse().unwrap()
        ));
        assert!(!readdress_quoted(&mut same, End::Source, src.ip()));
        assert_eq!(same, packet);
    }

    #[test]
    fn of_fragments_only_the_first_has_a_transport_checksum() {
        let (src, dst) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let mut packet = packets(src, dst, b"some data").pop().unwrap();
        packet[6..8].copy_from_slice(&2_u16.to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum::of(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let payload = packet[20..].to_vec();
        assert!(readdress(&mut packet, End::Source, dst.ip()));
        assert_eq!(packet[20..], payload);
        assert!(checksum::verify(&Ip::parse(&packet).unwrap()));
    }
}
