//! UDP and ICMP echo flows, fragments among them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvpn_netstack::{Config, Event, FlowId, Netstack, Refusal};
use kvpn_wire::packet::{FiveTuple, IcmpMessage, Ip, build, checksum};
use proptest::prelude::*;

use crate::pair::{config, start};

fn stack() -> (Netstack, Instant) {
    let now = start();
    (Netstack::new(config(1), now), now)
}

fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    match v6 {
        false => (
            "198.19.0.2:5000".parse().unwrap(),
            "10.96.0.10:53".parse().unwrap(),
        ),
        true => (
            "[fd6b:7670:6e00::2]:5000".parse().unwrap(),
            "[fd00::10]:53".parse().unwrap(),
        ),
    }
}

fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; payload.len() + 48];
    let len = build::udp(src, dst, payload, &mut out).unwrap();
    out.truncate(len);
    out
}

fn echo(src: SocketAddr, dst: SocketAddr, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; payload.len() + 48];
    let len =
        build::icmp_echo_request(src.ip(), dst.ip(), 77, sequence, payload, &mut out).unwrap();
    out.truncate(len);
    out
}

fn packets(stack: &mut Netstack) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let Some(packet) = stack.poll_segment() {
        packets.push(packet.to_vec());
    }
    packets
}

fn opening(stack: &mut Netstack) -> FlowId {
    match stack.poll_event() {
        Some(Event::UdpOpening { flow, .. } | Event::EchoOpening { flow, .. }) => flow,
        other => panic!("{other:?}"),
    }
}

#[test]
fn there_and_back() {
    for v6 in [false, true] {
        let (mut stack, now) = stack();
        let (src, dst) = ends(v6);
        stack.handle_packet(&udp(src, dst, b"one"), now);
        stack.handle_packet(&udp(src, dst, b"two, longer"), now);
        let Some(Event::UdpOpening {
            flow,
            src: from,
            dst: to,
        }) = stack.poll_event()
        else {
            panic!("no opening");
        };
        assert_eq!((from, to), (src, dst));
        let mut buf = [0; 64];
        for expected in [&b"one"[..], b"two, longer"] {
            assert_eq!(stack.poll_event(), Some(Event::UdpDatagram { flow }));
            let len = stack.udp_recv(flow, &mut buf).unwrap();
            assert_eq!(&buf[..len], expected);
        }
        assert_eq!(
            (stack.poll_event(), stack.udp_recv(flow, &mut buf)),
            (None, None)
        );
        assert!(stack.udp_send(flow, b"answer", now));
        let answers = packets(&mut stack);
        let ip = Ip::parse(&answers[0]).unwrap();
        assert!(checksum::verify(&ip));
        let tuple = FiveTuple::of(&ip).unwrap();
        assert_eq!(
            (tuple.src, tuple.dst, ip.udp().unwrap().payload()),
            (dst, src, &b"answer"[..])
        );
    }
}

#[test]
fn two_stacks_talk() {
    let (mut client, now) = stack();
    let mut server = Netstack::new(config(2), now);
    let (src, dst) = ends(false);
    let flow = client
        .udp_open(SocketAddr::new(src.ip(), 0), dst, now)
        .unwrap();
    assert!(client.udp_send(flow, b"question", now));
    for packet in packets(&mut client) {
        server.handle_packet(&packet, now);
    }
    let theirs = opening(&mut server);
    assert!(server.udp_send(theirs, b"answer", now));
    for packet in packets(&mut server) {
        client.handle_packet(&packet, now);
    }
    assert_eq!(client.poll_event(), Some(Event::UdpDatagram { flow }));
    assert_eq!(client.udp_recv(flow, &mut [0; 6]), Some(6));
}

#[test]
fn idle_flows_end() {
    let now = start();
    let mut stack = Netstack::new(
        Config {
            udp_idle: Duration::from_secs(60),
            ..config(1)
        },
        now,
    );
    let (src, dst) = ends(false);
    stack.handle_packet(&udp(src, dst, b"x"), now);
    stack.handle_packet(&echo(src, dst, 1, b"x"), now);
    let datagrams = opening(&mut stack);
    assert_eq!(
        stack.poll_event(),
        Some(Event::UdpDatagram { flow: datagrams })
    );
    let echoes = opening(&mut stack);
    assert_eq!(
        stack.poll_event(),
        Some(Event::EchoRequest { flow: echoes })
    );
    let later = now + Duration::from_secs(30);
    assert!(stack.udp_send(datagrams, b"used", later));
    assert_eq!(stack.poll_timeout().map(|(at, _)| at), Some(later));
    stack.handle_timeout(later);
    assert_eq!(
        (stack.poll_event(), stack.poll_event()),
        (Some(Event::Expired { flow: echoes }), None)
    );
    while let Some((at, _)) = stack.poll_timeout() {
        assert!(at <= later + Duration::from_secs(60));
        stack.handle_timeout(at);
    }
    assert_eq!(stack.poll_event(), Some(Event::Expired { flow: datagrams }));
    assert_eq!((stack.flows().udp, stack.flows().echo), (0, 0));
}

#[test]
fn closed_flows_open_again() {
    let (mut stack, now) = stack();
    let (src, dst) = ends(false);
    stack.handle_packet(&udp(src, dst, b"x"), now);
    let flow = opening(&mut stack);
    stack.close(flow);
    assert_eq!(
        (stack.poll_event(), stack.flows().udp, stack.poll_timeout()),
        (None, 0, None)
    );
    assert!(!stack.udp_send(flow, b"late", now));
    stack.handle_packet(&udp(src, dst, b"x"), now);
    assert_ne!(opening(&mut stack), flow);
}

#[test]
fn refused() {
    for (v6, code) in [(false, 3), (true, 4)] {
        for size in [1, 600, 1300, 5000] {
            let (mut stack, now) = stack();
            let (src, dst) = ends(v6);
            let packet = udp(src, dst, &vec![7; size]);
            stack.handle_packet(&packet, now);
            let flow = opening(&mut stack);
            stack.udp_refuse(flow, Refusal::PortUnreachable, now);
            let answers = packets(&mut stack);
            let ip = Ip::parse(&answers[0]).unwrap();
            assert!(checksum::verify(&ip));
            let IcmpMessage::Unreachable { code: got, quoted } = ip.icmp().unwrap().message()
            else {
                panic!("not unreachable");
            };
            assert_eq!(got, code);
            assert!(packet.starts_with(quoted) && quoted.len() >= packet.len().min(548));
            assert_eq!(stack.flows().udp, 0);
        }
    }
}

#[test]
fn refused_in_silence_or_not_at_all() {
    let (mut stack, now) = stack();
    let (src, dst) = ends(false);
    stack.handle_packet(&udp(src, dst, b"x"), now);
    let flow = opening(&mut stack);
    stack.udp_refuse(flow, Refusal::Silent, now);
    stack.handle_packet(&echo(src, dst, 1, b"x"), now);
    let flow = opening(&mut stack);
    stack.echo_refuse(flow, Refusal::Reset, now);
    let flow = stack.udp_open(src, dst, now).unwrap();
    stack.udp_refuse(flow, Refusal::PortUnreachable, now);
    assert_eq!(packets(&mut stack).len(), 0);
}

#[test]
fn pings() {
    for v6 in [false, true] {
        let (mut stack, now) = stack();
        let (src, dst) = ends(v6);
        for sequence in [5, 6] {
            stack.handle_packet(&echo(src, dst, sequence, b"payload"), now);
        }
        let Some(Event::EchoOpening {
            flow,
            src: from,
            dst: to,
        }) = stack.poll_event()
        else {
            panic!("no opening");
        };
        assert_eq!((from, to), (src.ip(), dst.ip()));
        let mut buf = [0; 64];
        for sequence in [5, 6] {
            assert_eq!(stack.poll_event(), Some(Event::EchoRequest { flow }));
            assert_eq!(stack.echo_recv(flow, &mut buf), Some((sequence, 7)));
            stack.echo_reply(flow, sequence, &buf[..7], now);
            let answers = packets(&mut stack);
            let ip = Ip::parse(&answers[0]).unwrap();
            assert!(checksum::verify(&ip));
            assert_eq!((ip.src(), ip.dst()), (dst.ip(), src.ip()));
            let expected = IcmpMessage::EchoReply {
                ident: 77,
                sequence,
                payload: b"payload",
            };
            assert_eq!(ip.icmp().unwrap().message(), expected);
        }
        stack.handle_packet(&echo(src, dst, 7, b"payload"), now);
        stack.echo_refuse(flow, Refusal::HostUnreachable, now);
        assert_eq!((packets(&mut stack).len(), stack.flows().echo), (1, 0));
    }
}

#[test]
fn a_flow_holds_only_so_much() {
    let (mut stack, now) = stack();
    let (src, dst) = ends(false);
    for _ in 0..100_000 {
        stack.handle_packet(&udp(src, dst, b""), now);
    }
    assert!(stack.dropped().flow_queue_full > 90_000);
    let mut events = 0;
    while stack.poll_event().is_some() {
        events += 1;
    }
    assert_eq!(events, 100_000 - stack.dropped().flow_queue_full + 1);
}

#[test]
fn too_long_for_any_packet() {
    let (mut stack, now) = stack();
    let (src, dst) = ends(false);
    let flow = stack.udp_open(src, dst, now).unwrap();
    assert!(stack.udp_send(flow, &vec![0; 65_507], now));
    assert!(!stack.udp_send(flow, &vec![0; 65_508], now));
    assert_eq!(stack.dropped().oversized, 1);
}

proptest! {
    /// What one stack cuts into fragments, the other puts together, in any order and with repetitions.
    #[test]
    fn fragments(v6: bool, size in 0..65_000_usize, order in any::<u64>(), repeated in any::<prop::sample::Index>()) {
        let (mut client, now) = stack();
        let mut server = Netstack::new(config(2), now);
        let (src, dst) = ends(v6);
        let payload: Vec<u8> = (0..size).map(|at| (at * 7 + at / 256) as u8).collect();
        let flow = client.udp_open(src, dst, now).unwrap();
        prop_assert!(client.udp_send(flow, &payload, now));
        let mut pieces = packets(&mut client);
        prop_assert!(pieces.iter().all(|piece| piece.len() <= 1360));
        if pieces.len() > 1 {
            pieces.push(pieces[repeated.index(pieces.len())].clone());
        }
        let mut rng = crate::link::Rng(order | 1);
        for at in (1..pieces.len()).rev() {
            pieces.swap(at, rng.below(at as u64 + 1) as usize);
        }
        for piece in &pieces {
            server.handle_packet(piece, now);
        }
        let flow = opening(&mut server);
        let mut buf = vec![0; 65_535];
        prop_assert_eq!(server.udp_recv(flow, &mut buf), Some(size));
        prop_assert_eq!(&buf[..size], &payload[..]);
    }
}
