//! Fragments in the wrong order, twice, too many, overlapping.

use proptest::prelude::*;

use super::*;

/// An IPv4 fragment of UDP between fixed hosts.
fn fragment(id: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
    packet[9] = 17;
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend_from_slice(payload);
    packet
}

fn add(reassembly: &mut Reassembly, packet: &[u8], now: Instant) -> Outcome {
    let ip = Ip::parse(packet).expect("a packet");
    reassembly.add(&ip, ip.fragment().expect("a fragment"), now)
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as a start")]
fn start() -> Instant {
    Instant::now()
}

#[test]
fn whole_again() {
    let (mut reassembly, now) = (Reassembly::default(), start());
    let [first, last] = [
        fragment(1, 0, true, &[1; 16]),
        fragment(1, 16, false, &[2; 5]),
    ];
    assert_eq!(add(&mut reassembly, &last, now), Outcome::Kept);
    assert_eq!(add(&mut reassembly, &last, now), Outcome::Kept);
    let Outcome::Whole(packet) = add(&mut reassembly, &first, now) else {
        panic!("not whole");
    };
    let ip = Ip::parse(&packet).expect("a packet");
    assert!(!ip.is_fragment());
    assert!(kvpn_wire::packet::checksum::of(&packet[..20]) == 0);
    assert_eq!(ip.payload(), [[1; 16].as_slice(), &[2; 5]].concat());
    assert!(reassembly.packets.is_empty());
}

#[test]
fn overlaps_spoil_the_packet() {
    let (mut reassembly, now) = (Reassembly::default(), start());
    add(&mut reassembly, &fragment(1, 0, true, &[1; 16]), now);
    let overlap = fragment(1, 8, false, &[2; 16]);
    assert_eq!(add(&mut reassembly, &overlap, now), Outcome::Dropped(2));
    assert!(reassembly.packets.is_empty());
}

#[test]
fn two_ends_spoil_the_packet() {
    let (mut reassembly, now) = (Reassembly::default(), start());
    add(&mut reassembly, &fragment(1, 32, false, &[1; 8]), now);
    let beyond = fragment(1, 40, true, &[2; 8]);
    assert_eq!(add(&mut reassembly, &beyond, now), Outcome::Dropped(2));
}

#[test]
fn old_pieces_are_given_up() {
    let (mut reassembly, now) = (Reassembly::default(), start());
    add(&mut reassembly, &fragment(1, 0, true, &[1; 16]), now);
    let later = now + PATIENCE;
    let other = fragment(2, 0, true, &[1; 16]);
    assert_eq!(add(&mut reassembly, &other, later), Outcome::Dropped(1));
    assert_eq!(reassembly.packets.len(), 1);
}

#[test]
fn only_so_many_at_once() {
    let (mut reassembly, now) = (Reassembly::default(), start());
    for id in 0..1000 {
        add(&mut reassembly, &fragment(id, 0, true, &[1; 16]), now);
    }
    assert_eq!(reassembly.packets.len(), MAX_PACKETS);
}

#[test]
fn longer_than_any_packet() {
    let (mut reassembly, now) = (Reassembly::default(), start());
    let end = fragment(1, 65_528, false, &[1; 1000]);
    assert_eq!(add(&mut reassembly, &end, now), Outcome::Dropped(1));
}

proptest! {
    #[test]
    fn anything_goes(pieces in prop::collection::vec((0..3_u16, 0..40_u16, any::<bool>(), 0..40_usize), 1..60)) {
        let (mut reassembly, now) = (Reassembly::default(), start());
        for (id, offset, more, len) in pieces {
            let packet = fragment(id, offset * 8, more, &vec![7; len]);
            let ip = Ip::parse(&packet).expect("a packet");
            if let Some(part) = ip.fragment()
                && let Outcome::Whole(whole) = reassembly.add(&ip, part, now)
            {
                prop_assert!(Ip::parse(&whole).expect("a packet").payload().iter().all(|&byte| byte == 7));
            }
        }
    }
}
