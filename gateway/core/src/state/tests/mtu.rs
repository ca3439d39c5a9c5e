//! What the client says of its path's MTU, and what becomes of packets that are longer.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use kvpn_wire::offload::Segmentation;
use kvpn_wire::packet::{IcmpMessage, Ip, build};
use kvpn_wire::pmtud;

use super::client::{API, Client, config, start, syn, udp};
use super::{drops, udp_path};
use crate::output::DropReason;
use crate::{GatewayState, KernelFamilies, Path};

const SERVERS: [&str; 2] = ["10.244.2.9:80", "[fd00:244::9]:80"];

/// A gateway with the kernel's datapath, and a client on `path` whose limit is `limit`.
fn told(path: Path, limit: usize, now: Instant) -> (GatewayState, Client) {
    let kernel = KernelFamilies { v4: true, v6: true };
    let mut gateway = GatewayState::new(crate::Config { kernel, ..config() }, now);
    let mut client = Client::connected(&mut gateway, 1, now);
    client.path = path;
    let ends = client.v4();
    client.send(
        &mut gateway,
        &probe(ends.dns_stub, ends.gateway, limit, 1360),
    );
    assert_eq!(client.receive(&mut gateway)[0].1.len(), 1360);
    (gateway, client)
}

fn probe(src: IpAddr, dst: IpAddr, limit: usize, len: usize) -> Vec<u8> {
    let mut payload = vec![0; len - 28];
    pmtud::write_limit(&mut payload, limit);
    let mut packet = vec![0; len];
    build::icmp_echo_request(src, dst, 1, 2, &payload, &mut packet).unwrap();
    packet
}

fn ends(client: &Client, family: usize) -> (SocketAddr, SocketAddr) {
    let client = client.grant.addresses[family].client;
    (
        SERVERS[family].parse().unwrap(),
        SocketAddr::new(client, 4000),
    )
}

/// A UDP packet of `len` bytes from a server.
fn packet(client: &Client, family: usize, len: usize) -> Vec<u8> {
    let (server, here) = ends(client, family);
    udp(server, here, &vec![7; len - [28, 48][family]])
}

fn from_tun(gateway: &mut GatewayState, packet: &mut [u8], now: Instant) {
    gateway.handle_tun_packet(packet, Segmentation::Whole, now);
}

/// The MTU in what the kernel is given, packet by packet, and who says it to whom.
fn refusals(gateway: &mut GatewayState) -> Vec<(u32, IpAddr, IpAddr)> {
    let mut all = Vec::new();
    while let Some((packet, _)) = gateway.poll_packet() {
        let ip = Ip::parse(packet).unwrap();
        let IcmpMessage::PacketTooBig { mtu, .. } = ip.icmp().unwrap().message() else {
            panic!("{ip:?}");
        };
        all.push((mtu, ip.src(), ip.dst()));
    }
    all
}

#[test]
fn what_is_too_long_for_the_path_is_refused_in_the_gateways_name() {
    let now = start();
    let (mut gateway, mut client) = told(udp_path("192.0.2.1:1000"), 1296, now);
    for family in [0, 1] {
        let (server, _) = ends(&client, family);
        from_tun(&mut gateway, &mut packet(&client, family, 1296), now);
        assert_eq!(client.receive(&mut gateway).len(), 1);
        assert!(refusals(&mut gateway).is_empty());
        from_tun(&mut gateway, &mut packet(&client, family, 1297), now);
        assert!(client.receive(&mut gateway).is_empty());
        let from = client.grant.addresses[family].gateway;
        assert_eq!(refusals(&mut gateway), [(1296, from, server.ip())]);
    }
    assert_eq!(drops(&gateway, DropReason::TooLong), 2);
}

#[test]
fn what_may_be_cut_is() {
    let now = start();
    let (mut gateway, mut client) = told(udp_path("192.0.2.1:1000"), 1200, now);
    let mut v4 = packet(&client, 0, 1400);
    v4[6] = 0;
    // No IPv6 sender would cut this one finer.
    let v6 = packet(&client, 1, 1280);
    for mut packet in [v4, v6] {
        from_tun(&mut gateway, &mut packet, now);
        let fragments = client.receive(&mut gateway);
        assert_eq!(fragments.len(), 2);
        for (_, fragment) in fragments {
            assert!(fragment.len() <= 1200);
            assert!(Ip::parse(&fragment).unwrap().fragment().is_some());
        }
    }
    from_tun(&mut gateway, &mut packet(&client, 1, 1281), now);
    assert_eq!(refusals(&mut gateway)[0].0, 1280);
}

#[test]
fn on_a_stream_length_does_not_matter() {
    let now = start();
    let (mut gateway, mut client) = told(API, 1200, now);
    from_tun(&mut gateway, &mut packet(&client, 0, 1440), now);
    assert_eq!(client.receive(&mut gateway)[0].1.len(), 1440);
}

#[test]
fn one_refusal_answers_a_super_packet() {
    let now = start();
    let (mut gateway, mut client) = told(udp_path("192.0.2.1:1000"), 1200, now);
    let (server, here) = ends(&client, 0);
    let segment = build::Segment {
        sequence: 1000,
        window: 500,
        payload: &[7; 13_000],
        ..build::Segment::default()
    };
    let mut packet = vec![0; 13_040];
    build::tcp(server, here, &segment, &mut packet).unwrap();
    gateway.handle_tun_packet(&mut packet, Segmentation::Tcp { size: 1300 }, now);
    assert!(client.receive(&mut gateway).is_empty());
    let gateway_end = client.v4().gateway;
    assert_eq!(refusals(&mut gateway), [(1200, gateway_end, server.ip())]);
}

#[test]
fn openings_are_clamped_to_the_path_both_ways() {
    let now = start();
    for (limit, mss) in [(1440, 1400), (1296, 1256)] {
        let (mut gateway, mut client) = told(udp_path("192.0.2.1:1000"), limit, now);
        let (server, here) = ends(&client, 0);
        let announced = |packet: &[u8]| Ip::parse(packet).unwrap().tcp().unwrap().mss();
        client.send(&mut gateway, &syn(here, server));
        assert_eq!(announced(gateway.poll_packet().unwrap().0), Some(mss));
        from_tun(&mut gateway, &mut syn(server, here), now);
        assert_eq!(announced(&client.receive(&mut gateway)[0].1), Some(mss));
    }
}

#[test]
fn a_program_does_not_set_the_limit() {
    let now = start();
    let (mut gateway, mut client) = told(udp_path("192.0.2.1:1000"), 1440, now);
    let own = client.v4();
    client.send(&mut gateway, &probe(own.client, own.gateway, 1200, 1360));
    assert_eq!(client.receive(&mut gateway)[0].1.len(), 1360, "a ping");
    from_tun(&mut gateway, &mut packet(&client, 0, 1440), now);
    assert_eq!(client.receive(&mut gateway).len(), 1);
}
