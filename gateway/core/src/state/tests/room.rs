//! Super-packets over a stream, and packets that wait for room on it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvpn_wire::control::CreateSession;
use kvpn_wire::offload::{Abilities, Segmentation, trailer};
use kvpn_wire::packet::{Ip, TcpFlags, build};
use kvpn_wire::wireguard::Opened;

use super::client::{API, Client, config, request, start, udp};
use crate::output::DropReason;
use crate::{GatewayState, KernelFamilies, Path};

const SERVER: &str = "10.244.2.9:80";
const MSS: usize = 1300;
const CUT: Segmentation = Segmentation::Tcp { size: MSS as u16 };

fn takes_super_packets(seed: u8) -> CreateSession {
    CreateSession {
        super_packets: true,
        ..request(seed)
    }
}

/// A super-packet of `segments` segments.
fn super_packet(src: SocketAddr, dst: SocketAddr, segments: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..segments * MSS).map(|n| (n % 251) as u8).collect();
    let segment = build::Segment {
        sequence: 1000,
        acknowledgement: 1,
        flags: TcpFlags::ACK,
        window: 500,
        payload: &payload,
        ..build::Segment::default()
    };
    let mut packet = vec![0; payload.len() + 60];
    let n = build::tcp(src, dst, &segment, &mut packet).unwrap();
    packet.truncate(n);
    packet
}

/// What the gateway sends to a client that takes super-packets: each packet, and how it is to be cut.
fn receive(
    client: &mut Client,
    gateway: &mut GatewayState,
    now: Instant,
) -> Vec<(Vec<u8>, Segmentation)> {
    let mut packets = Vec::new();
    while let Some(transmit) = gateway.poll_transmit(now) {
        for datagram in transmit.datagrams() {
            let mut out = vec![0; datagram.len() + 200];
            if let Opened::Packet { len, plaintext } =
                client.tunnel.open(datagram, None, &mut out, now)
            {
                packets.push((out[..len].to_vec(), trailer::read(&out[..plaintext], len)));
            }
        }
    }
    packets
}

fn to_client(client: &Client) -> SocketAddr {
    SocketAddr::new(client.v4().client, 4000)
}

#[test]
fn a_super_packet_goes_whole_where_both_ends_and_the_path_take_it() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut new = Client::connected_as(&mut gateway, &takes_super_packets(1), 1, now);
    assert!(new.grant.super_packets && new.grant.stream_control);
    let packet = super_packet(SERVER.parse().unwrap(), to_client(&new), 40);
    gateway.handle_tun_packet(&mut packet.clone(), CUT, now);
    assert_eq!(receive(&mut new, &mut gateway, now), [(packet, CUT)]);

    let mut old = Client::connected(&mut gateway, 2, now);
    let packet = super_packet(SERVER.parse().unwrap(), to_client(&old), 40);
    gateway.handle_tun_packet(&mut packet.clone(), CUT, now);
    let segments = receive(&mut old, &mut gateway, now);
    assert_eq!(segments.len(), 40);
    assert!(segments.iter().all(|(_, cut)| *cut == Segmentation::Whole));

    new.path = Path::Udp("192.0.2.1:1000".parse().unwrap());
    new.send_udp(&mut gateway, "10.96.0.9:9", b"from elsewhere");
    let packet = super_packet(SERVER.parse().unwrap(), to_client(&new), 40);
    gateway.handle_tun_packet(&mut packet.clone(), CUT, now);
    assert_eq!(receive(&mut new, &mut gateway, now).len(), 40);
}

#[test]
fn a_clients_super_packet_reaches_the_kernel_as_one() {
    let now = start();
    let mut settings = config();
    settings.kernel = KernelFamilies { v4: true, v6: true };
    let mut gateway = GatewayState::new(settings, now);
    gateway.set_abilities(Abilities {
        tcp: true,
        udp: false,
    });
    for (request, count) in [(takes_super_packets(1), 1), (request(2), 0)] {
        let seed = if count == 1 { 1 } else { 2 };
        let mut client = Client::connected_as(&mut gateway, &request, seed, now);
        let mut plaintext = super_packet(to_client(&client), SERVER.parse().unwrap(), 40);
        let packet = plaintext.clone();
        plaintext.resize(packet.len() + 32, 0);
        let length = trailer::append(&mut plaintext, packet.len(), CUT).unwrap();
        client.send(&mut gateway, &plaintext[..length]);
        let (bytes, cut) = gateway.poll_packet().unwrap();
        assert_eq!(bytes.len(), packet.len());
        // Who did not say that it would send them has only sent a very long packet.
        assert_eq!(cut, if count == 1 { CUT } else { Segmentation::Whole });
        assert!(gateway.poll_packet().is_none());
    }
}

#[test]
fn without_room_packets_wait_and_flows_take_turns() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected_as(&mut gateway, &takes_super_packets(1), 1, now);
    let server: SocketAddr = SERVER.parse().unwrap();
    gateway.path_room(API, 20_000, 8_000);
    for _ in 0..10 {
        let mut packet = super_packet(server, to_client(&client), 40);
        gateway.handle_tun_packet(&mut packet, CUT, now);
    }
    let sent = receive(&mut client, &mut gateway, now);
    let bytes: usize = sent.iter().map(|(packet, _)| packet.len()).sum();
    assert!((20_000..28_100).contains(&bytes), "{bytes}");
    assert!(sent.iter().all(|(packet, _)| packet.len() <= 8_000));
    // Somebody else's packet does not wait behind 500 KB.
    gateway.handle_tun_packet(
        &mut udp(server, to_client(&client), b"me too"),
        Segmentation::Whole,
        now,
    );
    assert!(receive(&mut client, &mut gateway, now).is_empty());
    gateway.path_room(API, 20_000, 8_000);
    let sent = receive(&mut client, &mut gateway, now);
    assert!(
        sent.iter()
            .any(|(packet, _)| Ip::parse(packet).unwrap().udp().is_some())
    );
    gateway.path_room(API, 1 << 20, 65_535);
    let rest = receive(&mut client, &mut gateway, now);
    assert!(rest.len() > 50, "{}", rest.len());
    assert_eq!(gateway.snapshot().drops.of(DropReason::QueueFull), 0);
}

#[test]
fn a_flow_that_waits_too_long_loses_packets_for_it() {
    let mut now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected_as(&mut gateway, &takes_super_packets(1), 1, now);
    let server: SocketAddr = SERVER.parse().unwrap();
    for _ in 0..300 {
        for _ in 0..2 {
            let mut packet = super_packet(server, to_client(&client), 4);
            gateway.handle_tun_packet(&mut packet, CUT, now);
        }
        gateway.path_room(API, 4_000, 8_000);
        receive(&mut client, &mut gateway, now);
        now += Duration::from_millis(2);
    }
    assert!(gateway.snapshot().drops.of(DropReason::Congested) > 3);
}

#[test]
fn a_closed_path_lets_nobody_wait() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected_as(&mut gateway, &takes_super_packets(1), 1, now);
    let server: SocketAddr = SERVER.parse().unwrap();
    gateway.path_room(API, 0, 8_000);
    gateway.handle_tun_packet(
        &mut udp(server, to_client(&client), b"hello"),
        Segmentation::Whole,
        now,
    );
    assert!(receive(&mut client, &mut gateway, now).is_empty());
    client.path = Path::Udp("192.0.2.1:1000".parse().unwrap());
    client.send_udp(&mut gateway, "10.96.0.9:9", b"from elsewhere");
    gateway.path_closed(API);
    let packets = receive(&mut client, &mut gateway, now);
    assert!(
        packets.iter().any(|(packet, _)| packet.ends_with(b"hello")),
        "{packets:?}"
    );
}
