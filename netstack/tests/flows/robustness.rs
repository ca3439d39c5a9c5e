//! Bytes that nobody should send: nothing panics, nothing grows without bound, flows that are well stay well.

use std::time::Duration;

use kvpn_netstack::{Event, Netstack};
use proptest::prelude::*;

use crate::link::{Quality, Rng};
use crate::pair::{CLIENT, Pair, SERVER, Script, config, start};

/// Takes what the stack gives, and answers openings.
fn drain(stack: &mut Netstack, now: std::time::Instant, rng: &mut Rng) {
    while let Some(event) = stack.poll_event() {
        match event {
            Event::TcpOpening { flow, .. } => stack.tcp_accept(flow, now),
            Event::TcpConnected { flow } if rng.chance(300) => stack.tcp_finish(flow, now),
            Event::TcpConnected { flow } => drop(stack.tcp_send(flow, b"hello", now)),
            Event::TcpReadable { flow } => drop(stack.tcp_recv(flow, &mut [0; 100], now)),
            Event::TcpPeerFinished { flow } => stack.tcp_finish(flow, now),
            Event::UdpDatagram { flow } => drop(stack.udp_recv(flow, &mut [0; 100])),
            Event::EchoRequest { flow } => drop(stack.echo_recv(flow, &mut [0; 100])),
            Event::TcpWritable { .. }
            | Event::TcpReset { .. }
            | Event::TcpClosed { .. }
            | Event::UdpOpening { .. }
            | Event::EchoOpening { .. }
            | Event::UdpRefused { .. }
            | Event::Expired { .. } => {}
        }
    }
    while stack.poll_segment().is_some() {}
}

proptest! {
    #[test]
    fn arbitrary_bytes(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
        let now = start();
        let mut stack = Netstack::new(config(1), now);
        for packet in &packets {
            stack.handle_packet(packet, now);
        }
        drain(&mut stack, now, &mut Rng(1));
    }

    /// IP headers that are right around anything.
    #[test]
    fn arbitrary_payloads(
        v6: bool,
        protocol in prop::sample::select(vec![0_u8, 1, 6, 17, 43, 44, 58, 60, 99]),
        offset in any::<u16>(),
        payload in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let now = start();
        let mut stack = Netstack::new(config(1), now);
        let mut packet = if v6 { vec![0; 40] } else { vec![0; 20] };
        if v6 {
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            packet[6] = protocol;
            packet[23] = 1;
            packet[39] = 2;
        } else {
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&(payload.len() as u16 + 20).to_be_bytes());
            packet[6..8].copy_from_slice(&offset.to_be_bytes());
            packet[9] = protocol;
            packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        }
        packet.extend_from_slice(&payload);
        for _ in 0..3 {
            stack.handle_packet(&packet, now);
            drain(&mut stack, now, &mut Rng(1));
        }
    }

    /// A conversation between two stacks with bits turned on the way: the checksums keep the bytes right.
    #[test]
    fn turned_bits(seed in 1..u64::MAX / 4, turned in 1..200_u64) {
        let quality = Quality { loss: 5, ..Quality::delayed(3) };
        let mut pair = Pair::new(quality, seed);
        pair.turned_bits = turned;
        pair.open(1000, Script::both_ways(seed, 30_000, 30_000));
        pair.run_until(Duration::from_secs(3600), Pair::all_ended);
    }

    /// Segments that fit a live flow in address and checksum, and in nothing else.
    #[test]
    fn forged_segments(seed in 1..u64::MAX, count in 1..300, active: bool) {
        let now = start();
        let mut stack = Netstack::new(config(seed), now);
        if active {
            stack.tcp_connect(crate::pair::server_addr(), crate::pair::client_addr(9), now).unwrap();
        }
        let mut rng = Rng(seed);
        let (mut known_next, mut known_ack) = (rng.draw() as u32, 0_u32);
        for step in 0..count {
            let now = now + Duration::from_millis(step as u64 * rng.below(2000));
            let flags = kvpn_wire::packet::TcpFlags((rng.draw() & 0x1f) as u8);
            let payload = vec![7; rng.below(1300) as usize];
            let near = |around: u32, rng: &mut Rng| match rng.below(4) {
                0 => rng.draw() as u32,
                1 => around.wrapping_add(rng.below(5) as u32).wrapping_sub(2),
                2 => around.wrapping_add(rng.below(70_000) as u32),
                _ => around,
            };
            let segment = kvpn_wire::packet::build::Segment {
                sequence: near(known_next, &mut rng),
                acknowledgement: near(known_ack, &mut rng),
                flags,
                window: rng.draw() as u16,
                payload: if rng.chance(500) { &payload } else { &[] },
                options: if rng.chance(500) { &[] } else { &[3, 3, 200, 1] },
            };
            let mut out = vec![0; 1500];
            let (src, dst) = (crate::pair::client_addr(9), crate::pair::server_addr());
            let len = kvpn_wire::packet::build::tcp(src, dst, &segment, &mut out).unwrap();
            stack.handle_packet(&out[..len], now);
            stack.handle_timeout(now);
            while let Some(packet) = stack.poll_segment() {
                let tcp = kvpn_wire::packet::Ip::parse(packet).unwrap().tcp().unwrap();
                known_next = tcp.acknowledgement();
                known_ack = tcp.sequence().wrapping_add(tcp.sequence_len());
            }
            drain(&mut stack, now, &mut rng);
        }
    }
}

#[test]
fn a_stack_that_is_not_drained_stays_small() {
    let mut pair = Pair::new(Quality::PERFECT, 1);
    for port in 1000..1100 {
        pair.open(port, Script::both_ways(1, 100_000, 100_000));
    }
    pair.run_until(Duration::from_secs(10), Pair::all_ended);
    let now = pair.now;
    let [client, server] = &mut pair.stacks;
    for round in 0..5000_u16 {
        let flow = client
            .udp_open(crate::pair::client_addr(0), crate::pair::server_addr(), now)
            .unwrap();
        client.udp_send(flow, &round.to_be_bytes(), now);
        client.close(flow);
    }
    assert!(client.dropped().output_full > 3000);
    let mut count = 0;
    while let Some(packet) = client.poll_segment() {
        server.handle_packet(packet, now);
        count += 1;
    }
    assert!(count < 2000);
    assert_eq!(
        pair.stacks[CLIENT].flows(),
        kvpn_netstack::FlowCounts::default()
    );
    assert!(pair.stacks[SERVER].flows().udp > 0);
}
