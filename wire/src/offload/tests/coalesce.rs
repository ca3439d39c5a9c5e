//! Packets that become super-packets, and those that must not.

mod rules;

use proptest::prelude::*;

use super::*;

#[test]
fn a_train_becomes_one_and_comes_apart_again() {
    for ends in [v4(), v6()] {
        let packets = train(ends, &[1300, 1300, 1300, 1300, 700]);
        let supers = coalesced(&packets);
        assert_eq!(supers.len(), 1);
        assert_eq!(supers[0].1, Segmentation::Tcp { size: 1300 });
        let ip = Ip::parse(&supers[0].0).unwrap();
        assert_eq!(ip.total_len(), supers[0].0.len());
        assert_eq!(ip.header_len() + 32 + 5900, supers[0].0.len());
        assert_eq!(apart(&supers), packets);
    }
}

#[test]
fn a_super_packet_is_the_packet_that_the_sender_cut() {
    let payload = bytes(9, 4000);
    let mut whole = tcp_packet(v4(), &data(5, &payload));
    whole[4..6].copy_from_slice(&9_u16.to_be_bytes());
    mend(&mut whole);
    let split = Split::new(&whole, Segmentation::Tcp { size: 1000 }).unwrap();
    let supers = coalesced(&split_all(split));
    assert_eq!(supers.len(), 1);
    let (mut packet, segmentation) = supers[0].clone();
    assert_eq!(segmentation, Segmentation::Tcp { size: 1000 });
    mend(&mut packet);
    assert_eq!(packet, whole);
}

#[test]
fn datagrams_join_up_to_sixty_four() {
    for ends in [v4(), v6()] {
        let packets: Vec<Vec<u8>> = (0..70).map(|n| udp_packet(ends, &bytes(n, 900))).collect();
        let supers = coalesced(&packets);
        let sizes: Vec<usize> = supers.iter().map(|(packet, _)| packet.len()).collect();
        let header = packets[0].len() - 900;
        assert_eq!(sizes, [header + 64 * 900, header + 6 * 900]);
        assert!(
            supers
                .iter()
                .all(|(_, kind)| *kind == Segmentation::Udp { size: 900 })
        );
        assert_eq!(apart(&supers), atomic(packets));
    }
}

/// What a split makes of the identification of packets from [`build::udp`], which is 0 with "don't fragment".
fn atomic(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for (n, packet) in packets.iter_mut().enumerate() {
        set_ident(packet, u16::try_from(n % 64).unwrap());
    }
    packets
}

#[test]
fn no_super_packet_is_longer_than_ip_can_say() {
    for ends in [v4(), v6()] {
        let packets = train(ends, &[1300; 120]);
        let supers = coalesced(&packets);
        assert_eq!(supers.len(), 3);
        assert!(supers.iter().all(|(packet, _)| packet.len() <= MAX_PACKET));
        assert!(supers[0].0.len() > MAX_PACKET - 1300);
        assert_eq!(apart(&supers), packets);
    }
}

#[test]
fn a_receiver_gets_only_what_it_takes() {
    let segments = train(v4(), &[1000; 3]);
    let datagrams: Vec<Vec<u8>> = (0..3).map(|n| udp_packet(v4(), &bytes(n, 900))).collect();
    for (tcp, udp) in [(false, false), (true, false), (false, true)] {
        let mut queue = Coalescer::new(1 << 20, 64, Abilities { tcp, udp });
        for packet in segments.iter().chain(&datagrams) {
            assert!(queue.push(packet));
        }
        let joined = |yes: bool| if yes { 1 } else { 3 };
        assert_eq!(queue.len(), joined(tcp) + joined(udp));
        queue.set_abilities(ALL);
        while queue.pop().is_some() {}
        for packet in &segments {
            assert!(queue.push(packet));
        }
        assert_eq!(queue.len(), 1);
    }
}

#[test]
fn flows_take_turns_and_nothing_is_lost() {
    let (a, b) = (train(v4(), &[1000; 9]), train(v6(), &[1100; 9]));
    let mut packets = Vec::new();
    for (a, b) in a.chunks(3).zip(b.chunks(3)) {
        packets.extend(a.iter().chain(b).cloned());
    }
    let supers = coalesced(&packets);
    assert_eq!(supers.len(), 6);
    assert_eq!(apart(&supers), packets);
}

#[test]
fn what_is_not_committed_never_was() {
    let packets = train(v4(), &[1000; 3]);
    let mut queue = Coalescer::new(1 << 16, 8, ALL);
    for packet in &packets {
        queue.space(1500).unwrap().fill(0xee);
        queue.space(700).unwrap().fill(0xdd);
        queue.commit(0);
        queue.space(1500).unwrap()[..packet.len()].copy_from_slice(packet);
        queue.commit(packet.len());
        queue.commit(packet.len());
        queue.space(30).unwrap().fill(0xcc);
    }
    assert_eq!(apart(&pop_all(&mut queue)), packets);
    assert_eq!(queue.dropped(), 0);
}

#[test]
fn what_is_shorter_than_the_headers_before_it_is_not_damaged() {
    let mut packets = train(v6(), &[1000; 2]);
    packets.insert(1, vec![0x45; 7]);
    packets.push(vec![1]);
    let supers = coalesced(&packets);
    let apart: Vec<&Vec<u8>> = supers.iter().map(|(packet, _)| packet).collect();
    assert_eq!(apart, packets.iter().collect::<Vec<_>>());
}

#[test]
fn a_short_packet_fits_into_the_last_bytes() {
    let first = &train(v6(), &[1000])[0];
    let mut queue = Coalescer::new(first.len() + 7, 4, ALL);
    assert!(queue.push(first) && queue.push(b"shorter"));
    let supers = pop_all(&mut queue);
    assert_eq!((&supers[0].0, &supers[1].0[..]), (first, &b"shorter"[..]));
}

#[test]
fn segments_stop_at_what_is_queued_behind_them() {
    let (super_packet, segmentation) = coalesced(&train(v4(), &[400; 3])).remove(0);
    let mut queue = Coalescer::new(6000, 8, Abilities::default());
    assert!(queue.push(&[1; 2500]) && queue.push(&[2; 2500]));
    assert!(queue.pop().is_some());
    let space = queue.space(super_packet.len()).unwrap();
    space.copy_from_slice(&super_packet);
    assert!(!queue.commit_super(super_packet.len(), segmentation));
    assert_eq!((queue.len(), queue.dropped()), (3, 1));
    let (packet, _) = queue.pop().unwrap();
    assert_eq!(*packet, [2; 2500]);
    let segments = pop_all(&mut queue);
    assert_eq!(apart(&segments), train(v4(), &[400; 2]));
}

#[test]
fn refusals_are_counted() {
    let packet = &train(v4(), &[1000])[0];
    let mut queue = Coalescer::new(3000, 2, Abilities::default());
    assert!(queue.push(packet) && queue.push(packet));
    assert!(!queue.push(packet) && queue.space(1).is_none());
    assert_eq!((queue.len(), queue.dropped()), (2, 2));
    assert!(queue.pop().is_some());
    assert!(queue.space(2000).is_none());
    assert!(!queue.push(&[]));
    assert_eq!((queue.len(), queue.dropped()), (1, 3));
    assert!(queue.pop().is_some() && queue.pop().is_none() && queue.is_empty());
    assert!(queue.space(3000).is_some());
}

#[test]
fn a_super_packet_is_passed_on_or_cut() {
    for ends in [v4(), v6()] {
        let packets = train(ends, &[1000, 1000, 1000, 10]);
        let (packet, segmentation) = coalesced(&packets).remove(0);
        for abilities in [ALL, Abilities::default()] {
            let supers = if abilities.tcp { 1 } else { 4 };
            let mut queue = Coalescer::new(1 << 16, 8, abilities);
            assert!(queue.push_super(&packet, segmentation));
            assert_eq!(queue.len(), supers);
            assert_eq!(apart(&pop_all(&mut queue)), packets);
            let space = queue.space(packet.len() + 32).unwrap();
            space[..packet.len()].copy_from_slice(&packet);
            assert!(queue.commit_super(packet.len(), segmentation));
            assert_eq!(queue.len(), supers);
            assert_eq!(apart(&pop_all(&mut queue)), packets);
        }
    }
}

#[test]
fn a_super_packet_behind_one_that_it_could_join_stays_apart() {
    let packets = train(v4(), &[1000; 6]);
    let (packet, segmentation) = coalesced(&packets[1..5]).remove(0);
    for abilities in [ALL, Abilities::default()] {
        let mut queue = Coalescer::new(1 << 16, 16, abilities);
        assert!(queue.push(&packets[0]));
        let space = queue.space(packet.len()).unwrap();
        space.copy_from_slice(&packet);
        assert!(queue.commit_super(packet.len(), segmentation));
        assert!(queue.push(&packets[5]));
        assert_eq!(queue.len(), if abilities.tcp { 3 } else { 6 });
        assert_eq!(apart(&pop_all(&mut queue)), packets);
    }
}

#[test]
fn a_super_packet_of_one_segment_is_a_packet() {
    for abilities in [ALL, Abilities::default()] {
        let packets = train(v6(), &[1000]);
        let mut damaged = packets[0].clone();
        damaged[56..58].fill(0xab);
        let mut queue = Coalescer::new(1 << 16, 8, abilities);
        let segmentation = Segmentation::Tcp { size: 1000 };
        assert!(queue.push_super(&damaged, segmentation));
        queue
            .space(damaged.len())
            .unwrap()
            .copy_from_slice(&damaged);
        assert!(queue.commit_super(damaged.len(), segmentation));
        for _ in 0..2 {
            let (packet, segmentation) = queue.pop().unwrap();
            assert_eq!(
                (&*packet, segmentation),
                (&packets[0][..], Segmentation::Whole)
            );
        }
    }
}

#[test]
fn more_datagrams_than_a_tun_takes_become_several_super_packets() {
    let packet = udp_packet(v6(), &bytes(1, 10_001));
    let segmentation = Segmentation::Udp { size: 100 };
    let segments = split_all(Split::new(&packet, segmentation).unwrap());
    for in_place in [true, false] {
        let mut queue = Coalescer::new(1 << 16, 200, ALL);
        if in_place {
            queue.space(packet.len()).unwrap().copy_from_slice(&packet);
            assert!(queue.commit_super(packet.len(), segmentation));
        } else {
            assert!(queue.push_super(&packet, segmentation));
        }
        let supers = pop_all(&mut queue);
        let sizes: Vec<usize> = supers.iter().map(|(packet, _)| packet.len()).collect();
        assert_eq!(sizes, [48 + 6400, 48 + 3601]);
        assert_eq!(apart(&supers), segments);
    }
}

#[test]
fn a_malformed_super_packet_is_refused() {
    let packet = &train(v4(), &[1000])[0];
    let mut queue = Coalescer::new(1 << 16, 8, ALL);
    assert!(!queue.push_super(packet, Segmentation::Udp { size: 100 }));
    assert!(!queue.push_super(packet, Segmentation::Tcp { size: 0 }));
    assert!(!queue.push_super(&packet[..900], Segmentation::Tcp { size: 100 }));
    queue.space(1500).unwrap();
    assert!(!queue.commit_super(1500, Segmentation::Tcp { size: 100 }));
    assert!(!queue.commit_super(1500, Segmentation::Tcp { size: 100 }));
    queue.set_abilities(Abilities::default());
    assert!(!queue.push_super(packet, Segmentation::Udp { size: 100 }));
    assert_eq!((queue.len(), queue.dropped()), (0, 5));
    assert!(queue.push_super(packet, Segmentation::Whole));
    assert_eq!(
        queue.pop().map(|(packet, _)| packet.to_vec()).as_ref(),
        Some(packet)
    );
}

#[test]
fn segments_without_room_are_counted() {
    let packets = train(v4(), &[1000; 4]);
    let (packet, segmentation) = coalesced(&packets).remove(0);
    for (bytes, most) in [(1 << 16, 2), (packet.len() + 2200, 8)] {
        let mut queue = Coalescer::new(bytes, most, Abilities::default());
        queue.space(packet.len()).unwrap().copy_from_slice(&packet);
        assert!(!queue.commit_super(packet.len(), segmentation));
        assert_eq!((queue.len(), queue.dropped()), (2, 2));
        assert_eq!(apart(&pop_all(&mut queue)), packets[..2]);
    }
    let mut queue = Coalescer::new(1 << 16, 3, Abilities::default());
    assert!(!queue.push_super(&packet, segmentation));
    assert_eq!((queue.len(), queue.dropped()), (3, 1));
}

/// One thing to do with a queue.
#[derive(Clone, Debug)]
enum Step {
    /// The next packet of a flow: its payload, and what else is changed.
    Packet {
        flow: usize,
        len: usize,
        change: u8,
    },
    /// Memory is lent for nothing.
    Abandon(usize),
    /// Several segments at once.
    Super {
        flow: usize,
        len: usize,
        size: u16,
    },
    Pop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![3 => Just(400_usize), 1 => 0..500_usize];
    let change = prop_oneof![12 => Just(0_u8), 1 => 0..9_u8];
    let step = prop_oneof![
        12 => (0..3_usize, len, change)
            .prop_map(|(flow, len, change)| Step::Packet { flow, len, change }),
        1 => (0..1500_usize).prop_map(Step::Abandon),
        1 => (0..3_usize, 1..2000_usize, 100..700_u16)
            .prop_map(|(flow, len, size)| Step::Super { flow, len, size }),
        2 => Just(Step::Pop),
    ];
    prop::collection::vec(step, 0..120)
}

/// Makes the packets of three flows: TCP over both versions and UDP.
#[derive(Default)]
struct Flows {
    sequence: [u32; 3],
    ident: u16,
}

impl Flows {
    fn packet(&mut self, flow: usize, len: usize, change: u8) -> Vec<u8> {
        let payload = bytes(usize::from(self.ident), len);
        let mut segment = data(self.sequence[flow], &payload);
        self.sequence[flow] = self.sequence[flow].wrapping_add(u32::try_from(len).unwrap());
        match change {
            1 => segment.flags = ACK.with(TcpFlags::PSH),
            2 => segment.flags = ACK.with(TcpFlags::FIN),
            3 => segment.window = 501,
            4 => segment.options = &[],
            5 => segment.sequence = segment.sequence.wrapping_add(1),
            _ => {}
        }
        let mut packet = match flow {
            0 => tcp_packet(v4(), &segment),
            1 => tcp_packet(v6(), &segment),
            _ => udp_packet(v4(), &payload),
        };
        self.ident = self.ident.wrapping_add(1);
        if change != 6 {
            set_ident(&mut packet, self.ident);
        }
        match change {
            7 => *packet.last_mut().unwrap() ^= 1,
            8 => packet.truncate(30),
            _ => {}
        }
        packet
    }
}

/// With "don't fragment" the identification means nothing.
fn without_ident(mut packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for packet in &mut packets {
        if packet.len() > 20 && packet[0] == 0x45 && packet[6] & 0x40 != 0 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn packets_come_out_as_they_went_in(
        steps in steps(),
        max_bytes in 2000..20_000_usize,
        max_packets in 1..30_usize,
        (tcp, udp) in any::<(bool, bool)>(),
    ) {
        let mut queue = Coalescer::new(max_bytes, max_packets, Abilities { tcp, udp });
        let mut flows = Flows::default();
        let (mut wanted, mut got) = (Vec::new(), Vec::new());
        let mut refused = 0;
        for step in steps {
            match step {
                Step::Packet { flow, len, change } => {
                    let packet = flows.packet(flow, len, change);
                    // As a datagram that is opened: it needs more room than the packet in it.
                    match queue.space(packet.len() + 47) {
                        Some(space) => {
                            space.fill(0xaa);
                            space[..packet.len()].copy_from_slice(&packet);
                            queue.commit(packet.len());
                            wanted.push(packet);
                        }
                        None => refused += 1,
                    }
                }
                Step::Super { flow, len, size } => {
                    let packet = flows.packet(flow, len, 0);
                    let segmentation = if flow < 2 {
                        Segmentation::Tcp { size }
                    } else {
                        Segmentation::Udp { size }
                    };
                    let segments = split_all(Split::new(&packet, segmentation).unwrap());
                    let dropped = queue.dropped();
                    let whole = queue.push_super(&packet, segmentation);
                    let lost = usize::try_from(queue.dropped() - dropped).unwrap();
                    prop_assert_eq!(whole, lost == 0);
                    refused += u64::try_from(lost).unwrap();
                    let takes = if flow < 2 { tcp } else { udp };
                    if takes {
                        wanted.extend(if whole { segments } else { Vec::new() });
                    } else {
                        wanted.extend(segments[..segments.len() - lost].iter().cloned());
                    }
                }
                Step::Abandon(len) => match queue.space(len) {
                    Some(space) => space.fill(0xbb),
                    None => refused += u64::from(len > 0),
                },
                Step::Pop => {
                    let out = queue.pop().map(|(packet, kind)| (packet.to_vec(), kind));
                    got.extend(apart(&Vec::from_iter(out)));
                }
            }
            prop_assert!(queue.len() <= max_packets);
        }
        got.extend(apart(&pop_all(&mut queue)));
        prop_assert_eq!(without_ident(got), without_ident(wanted));
        prop_assert_eq!(queue.dropped(), refused);
    }

    #[test]
    fn any_bytes_pass_as_they_are(packets in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 1..200), 0..20,
    )) {
        prop_assert_eq!(apart(&coalesced(&packets)), packets);
    }
}
