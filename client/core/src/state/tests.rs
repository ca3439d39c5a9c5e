//! Whose packets go where, and what a new session changes.

use super::*;

use hickory_proto::rr::RecordType;
use kvpn_wire::packet::IcmpMessage;
use kvpn_wire::packet::build;
use proptest::prelude::*;

use crate::CarrierChoice;
use crate::testing::{
    CLIENT, GATEWAY, Rig, STUB, at, client_key, config, gateway_key, grant, ip, packet, question,
    udp,
};

mod mapped;

const POD: &str = "10.96.1.2";

#[test]
fn packets_go_out_and_answers_come_back() {
    let mut rig = Rig::new(config());
    let out = udp(at(CLIENT, 4000), at(POD, 80), b"hello");
    rig.send(&out);
    assert_eq!(rig.gateway_received(), Some(out));
    let back = udp(at(POD, 80), at(CLIENT, 4000), b"world");
    rig.gateway_sends(&back);
    assert_eq!(rig.tun.pop_front(), Some(back));
}

#[test]
fn what_nobody_asked_for_does_not_come_in() {
    let mut rig = Rig::new(config());
    rig.gateway_sends(&udp(at(POD, 80), at(CLIENT, 4000), b"attack"));
    rig.gateway_sends(&udp(at(POD, 80), at("192.168.1.1", 4000), b"attack"));
    rig.gateway_sends(&udp(at(GATEWAY, 53), at(CLIENT, 4000), b"attack"));
    assert!(rig.tun.is_empty());
    let drops = rig.client.status(rig.now).drops;
    assert_eq!(
        (drops["inner_unasked"], drops["inner_foreign_destination"]),
        (2, 1)
    );
}

#[test]
fn an_exposed_port_is_the_gateways_alone() {
    let mut rig = Rig::new(config());
    rig.client.set_exposed([(Protocol::Tcp, 8080)].into());
    let sign_of_life = rig.client.poll_timeout().unwrap();
    assert!(
        sign_of_life.0 <= rig.now + Duration::from_secs(1) && sign_of_life.1 == "probe",
        "{sign_of_life:?}"
    );
    let syn = |src: SocketAddr, port| {
        let segment = build::Segment {
            flags: TcpFlags::SYN,
            ..build::Segment::default()
        };
        packet(|out| build::tcp(src, at(CLIENT, port), &segment, out))
    };
    rig.gateway_sends(&syn(at(POD, 40_000), 8080));
    rig.gateway_sends(&syn(at(GATEWAY, 40_000), 8081));
    rig.gateway_sends(&udp(at(GATEWAY, 40_000), at(CLIENT, 8080), b"not TCP"));
    assert_eq!(rig.client.status(rig.now).drops["inner_unasked"], 3);
    rig.gateway_sends(&syn(at(GATEWAY, 40_000), 8080));
    let Some(Event::Flow(netstack::Event::TcpOpening { flow, dst, .. })) = rig.events.pop_back()
    else {
        panic!("{:?}", rig.events);
    };
    assert_eq!(dst, at(CLIENT, 8080));
    rig.client.set_exposed(BTreeSet::new());
    rig.client.tcp_accept(flow, rig.now);
    rig.settle();
    let answer = rig.gateway_received().expect("a flow that is open goes on");
    let flags = Ip::parse(&answer).unwrap().tcp().unwrap().flags();
    assert!(flags.contains(TcpFlags::SYN) && flags.contains(TcpFlags::ACK));
    assert!(rig.tun.is_empty());
}

#[test]
fn where_nobody_listens_the_gateway_is_told() {
    let mut rig = Rig::new(config());
    rig.client.set_exposed([(Protocol::Udp, 8080)].into());
    rig.gateway_sends(&udp(at(GATEWAY, 40_000), at(CLIENT, 8080), b"anybody?"));
    let opening = rig.events.iter().find_map(|event| match event {
        Event::Flow(netstack::Event::UdpOpening { flow, .. }) => Some(*flow),
        _ => None,
    });
    let flow = opening.expect("a flow");
    rig.client
        .udp_refuse(flow, netstack::Refusal::PortUnreachable, rig.now);
    rig.settle();
    let answer = rig.gateway_received().expect("an answer");
    let message = Ip::parse(&answer).unwrap().icmp().unwrap().message();
    assert!(
        matches!(message, IcmpMessage::Unreachable { code: 3, .. }),
        "{message:?}"
    );
}

#[test]
fn only_the_clients_own_packets_go_out() {
    let mut rig = Rig::new(config());
    rig.send(&udp(at("192.168.1.5", 4000), at(POD, 80), b"forged"));
    rig.send(&udp(at(CLIENT, 4000), at("224.0.0.251", 5353), b"mdns"));
    rig.send(b"nonsense");
    assert_eq!(rig.gateway_received(), None);
    let drops = rig.client.status(rig.now).drops;
    assert_eq!(
        (
            drops["tun_foreign_source"],
            drops["tun_multicast"],
            drops["tun_malformed"]
        ),
        (1, 1, 1)
    );
}

#[test]
fn a_programs_ping_of_the_gateway_is_no_probe() {
    let mut rig = Rig::new(config());
    rig.send(&packet(|out| {
        build::icmp_echo_request(ip(CLIENT), ip(GATEWAY), 5, 6, b"mine", out)
    }));
    let reply = rig.tun.pop_front().unwrap();
    let message = Ip::parse(&reply).unwrap().icmp().unwrap().message();
    assert_eq!(
        message,
        IcmpMessage::EchoReply {
            ident: 5,
            sequence: 6,
            payload: b"mine"
        }
    );
    rig.run(60_000);
    assert!(rig.tun.is_empty(), "probes stay inside");
}

#[test]
fn packets_before_the_session_wait_for_it() {
    let mut rig = Rig::unconnected(config());
    rig.send(&udp(at(CLIENT, 4000), at(POD, 80), b"early"));
    rig.alive.insert(Path::Api);
    rig.client.path_opened(Path::Api, rig.now);
    rig.settle();
    assert!(rig.gateway_received().is_some());
}

#[test]
fn a_new_gateway_with_the_same_addresses_keeps_flows() {
    let mut rig = Rig::new(config());
    rig.send(&udp(at(CLIENT, 4000), at(POD, 80), b"hello"));
    rig.restart_gateway(1);
    rig.run(20_000);
    assert!(rig.events.contains(&Event::Quiet), "{:?}", rig.events);
    rig.events.clear();
    rig.client
        .replace_session(client_key(), grant(gateway_key(1).public()), 8, rig.now);
    rig.settle();
    assert_eq!(
        rig.events.pop_front(),
        Some(Event::Established { path: Path::Api })
    );
    rig.gateway_sends(&udp(at(POD, 80), at(CLIENT, 4000), b"still there"));
    assert_eq!(rig.tun.len(), 1);
}

/// A bare segment of a program's connection to [`POD`].
fn segment(flags: TcpFlags) -> Vec<u8> {
    let segment = build::Segment {
        sequence: 1,
        flags,
        ..build::Segment::default()
    };
    packet(|out| build::tcp(at(CLIENT, 4000), at(POD, 80), &segment, out))
}

#[test]
fn a_new_gateway_makes_connections_say_where_they_stand() {
    let mut rig = Rig::new(config());
    rig.send(&segment(TcpFlags::SYN));
    rig.send(&udp(at(CLIENT, 4001), at(POD, 80), b"hello"));
    rig.restart_gateway(1);
    rig.client
        .replace_session(client_key(), grant(gateway_key(1).public()), 8, rig.now);
    assert!(rig.tun.is_empty(), "the tunnel does not work yet");
    rig.settle();
    let question = rig.tun.pop_front().unwrap();
    let ip = Ip::parse(&question).unwrap();
    let tcp = ip.tcp().unwrap();
    assert_eq!(at(POD, 80), SocketAddr::new(ip.src(), tcp.src_port()));
    assert_eq!(at(CLIENT, 4000), SocketAddr::new(ip.dst(), tcp.dst_port()));
    assert_eq!(tcp.flags(), TcpFlags::ACK);
    assert!(rig.tun.is_empty(), "nothing else is asked");
}

#[test]
fn ended_connections_are_not_asked() {
    let mut rig = Rig::new(config());
    rig.send(&segment(TcpFlags::SYN));
    rig.send(&segment(TcpFlags::RST));
    rig.restart_gateway(1);
    rig.client
        .replace_session(client_key(), grant(gateway_key(1).public()), 8, rig.now);
    rig.settle();
    assert!(rig.tun.is_empty());
}

#[test]
fn other_addresses_end_all_flows() {
    let mut rig = Rig::new(config());
    rig.send(&udp(at(CLIENT, 4000), at(POD, 80), b"hello"));
    rig.restart_gateway(1);
    let mut grant = grant(gateway_key(1).public());
    let (gateway, client, dns_stub) = (ip("198.19.0.5"), ip("198.19.0.6"), ip("198.19.0.7"));
    grant.addresses = vec![TunnelAddresses {
        gateway,
        client,
        dns_stub,
    }];
    rig.client.replace_session(client_key(), grant, 8, rig.now);
    rig.settle();
    rig.gateway_sends(&udp(at(POD, 80), at(CLIENT, 4000), b"late"));
    rig.gateway_sends(&udp(at(POD, 80), at("198.19.0.6", 4000), b"wrong"));
    assert!(rig.tun.is_empty());
    let id = rig.client.resolve("web", QueryType::A, rig.now);
    rig.settle();
    let answer = crate::Resolution::NoName;
    assert!(
        rig.events.contains(&Event::Resolved { id, answer }),
        "{:?}",
        rig.events
    );
}

#[test]
fn connections_of_kvpns_own() {
    let mut rig = Rig::new(config());
    let flow = rig.client.tcp_connect(at(GATEWAY, 53), rig.now).unwrap();
    rig.settle();
    assert_eq!(
        rig.events.pop_front(),
        Some(Event::Flow(netstack::Event::TcpConnected { flow }))
    );
    assert_eq!(
        rig.client
            .tcp_connect("[fd00::1]:80".parse().unwrap(), rig.now),
        Err(netstack::Full::Unaddressable)
    );
    rig.client.tcp_abort(flow, rig.now);
    rig.settle();
}

#[test]
fn datagrams_of_kvpns_own() {
    let mut rig = Rig::new(config());
    let flow = rig.client.udp_open(at(POD, 5000), rig.now).unwrap();
    assert!(rig.client.udp_send(flow, b"hello", rig.now));
    rig.settle();
    let sent = rig.gateway_received().unwrap();
    let ip = Ip::parse(&sent).unwrap();
    let source = at(CLIENT, ip.udp().unwrap().src_port());
    assert_eq!(ip.src(), source.ip());
    rig.gateway_sends(&udp(at(POD, 5000), source, b"world"));
    let came = Event::Flow(netstack::Event::UdpDatagram { flow });
    assert!(rig.events.contains(&came), "{:?}", rig.events);
    let mut buffer = [0; 16];
    let n = rig.client.udp_recv(flow, &mut buffer);
    assert_eq!(n.map(|n| &buffer[..n]), Some(&b"world"[..]));
}

#[test]
fn a_new_session_ends_flows_of_kvpns_own() {
    for client in [CLIENT, "198.19.0.6"] {
        let mut rig = Rig::new(config());
        rig.client.set_exposed([(Protocol::Udp, 8080)].into());
        let tcp = rig.client.tcp_connect(at(GATEWAY, 53), rig.now).unwrap();
        rig.gateway_sends(&udp(at(GATEWAY, 40_000), at(CLIENT, 8080), b"hello"));
        let opening = rig.events.iter().find_map(|event| match event {
            Event::Flow(netstack::Event::UdpOpening { flow, .. }) => Some(*flow),
            _ => None,
        });
        let udp = opening.expect("a UDP flow");
        rig.events.clear();
        let mut grant = grant(gateway_key(0).public());
        grant.addresses[0].client = ip(client);
        rig.client.replace_session(client_key(), grant, 8, rig.now);
        rig.settle();
        for event in [
            netstack::Event::TcpReset { flow: tcp },
            netstack::Event::Expired { flow: udp },
        ] {
            assert!(rig.events.contains(&Event::Flow(event)), "{:?}", rig.events);
        }
    }
}

#[test]
fn both_families() {
    let (client6, gateway6, stub6) = ("fd6b::2", "fd6b::1", "fd6b::3");
    let mut config = config();
    let (gateway, client, dns_stub) = (ip(gateway6), ip(client6), ip(stub6));
    config.grant.addresses.push(TunnelAddresses {
        gateway,
        client,
        dns_stub,
    });
    let mut rig = Rig::new(config);
    let out = udp(at(client6, 4000), at("fd00::7", 80), b"hello");
    rig.send(&out);
    assert_eq!(rig.gateway_received(), Some(out));
    let back = udp(at("fd00::7", 80), at(client6, 4000), b"world");
    rig.gateway_sends(&back);
    assert_eq!(rig.tun.pop_front(), Some(back));
    rig.zone.add_a("web.default.svc.cluster.local", "10.96.0.8");
    let question = question("web.default", RecordType::A);
    rig.send(&udp(at(client6, 4001), at(stub6, 53), &question));
    let answer = rig
        .tun
        .pop_front()
        .expect("an answer from the stub's IPv6 address");
    assert_eq!(Ip::parse(&answer).unwrap().src(), ip(stub6));
    let link_scope = udp(at("fe80::1", 546), at("ff02::1:2", 547), b"dhcp");
    rig.send(&link_scope);
    assert_eq!(rig.gateway_received(), None);
}

#[test]
fn a_session_lasts_for_an_hour_of_rekeying() {
    let mut rig = Rig::new(config());
    for _ in 0..360 {
        rig.run(10_000);
        rig.send(&udp(at(CLIENT, 4000), at(POD, 80), b"tick"));
        assert!(rig.gateway_received().is_some());
    }
    assert!(rig.events.is_empty(), "{:?}", rig.events);
    assert!(
        rig.client
            .status(rig.now)
            .handshake_age
            .is_some_and(|age| age < Duration::from_secs(130))
    );
}

#[test]
fn udp_takes_over_and_gives_back_without_losing_the_session() {
    let candidate = "192.0.2.1:51820".parse().unwrap();
    let udp_path = Path::Udp(candidate);
    let mut rig = Rig::unconnected(Config {
        carrier: CarrierChoice::Auto,
        udp_candidates: vec![candidate],
        ..config()
    });
    rig.alive.insert(Path::Api);
    rig.client.path_opened(Path::Api, rig.now);
    rig.settle();
    rig.alive.insert(udp_path);
    rig.run(10_000);
    let status = rig.client.status(rig.now);
    assert_eq!(status.path, Some(udp_path));
    rig.alive.remove(&udp_path);
    rig.send(&udp(at(CLIENT, 4000), at(POD, 80), b"lost"));
    rig.run(2_000);
    assert_eq!(rig.client.status(rig.now).path, Some(Path::Api));
    let handshake_age = rig.client.status(rig.now).handshake_age.unwrap();
    assert_eq!(
        handshake_age,
        rig.now - rig.start,
        "no new handshake was needed"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut rig = Rig::new(config());
        rig.send(&bytes);
        rig.client.handle_datagram(Path::Api, &bytes, rig.now);
        rig.settle();
    }

    #[test]
    fn no_changed_packet_makes_it_panic(changes in proptest::collection::vec((0usize..80, any::<u8>()), 1..6)) {
        let mut rig = Rig::new(config());
        let question = question("web", RecordType::A);
        let originals = [
            udp(at(CLIENT, 4000), at(STUB, 53), &question),
            udp(at(CLIENT, 4000), at(POD, 80), b"hello"),
            packet(|out| build::icmp_echo_request(ip(CLIENT), ip(STUB), 1, 1, b"x", out)),
        ];
        for mut changed in originals {
            for (at, to) in &changes {
                let at = at % changed.len();
                changed[at] = *to;
            }
            rig.send(&changed);
            rig.gateway_sends_if_it_can(&changed);
        }
        rig.run(6_000);
    }
}

/// A TCP super-packet to a pod, and how it is to be cut.
fn super_packet(segments: usize) -> (Vec<u8>, Segmentation) {
    const MSS: usize = 1300;
    let payload = vec![7; segments * MSS];
    let segment = build::Segment {
        sequence: 1,
        acknowledgement: 1,
        flags: TcpFlags::ACK,
        window: 500,
        payload: &payload,
        ..build::Segment::default()
    };
    let mut packet = vec![0; payload.len() + 60];
    let n = build::tcp(at(CLIENT, 4000), at(POD, 80), &segment, &mut packet).unwrap();
    packet.truncate(n);
    (packet, Segmentation::Tcp { size: MSS as u16 })
}

fn transmitted(client: &mut ClientState) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let Some(transmit) = client.poll_transmit() {
        lengths.extend(transmit.datagrams().map(<[u8]>::len));
    }
    lengths
}

#[test]
fn super_packets_go_whole_over_a_stream_to_a_gateway_that_takes_them() {
    for (takes, datagrams) in [(true, 1), (false, 40)] {
        let mut config = config();
        config.grant.super_packets = takes;
        let mut rig = Rig::new(config);
        let (packet, cut) = super_packet(40);
        rig.client
            .handle_tun_packet(&mut packet.clone(), cut, rig.now);
        let lengths = transmitted(&mut rig.client);
        assert_eq!(lengths.len(), datagrams, "{lengths:?}");
        assert!(lengths.iter().sum::<usize>() > packet.len());
    }
}

#[test]
fn what_finds_no_room_waits_in_pieces_and_small_flows_do_not_wait_for_large_ones() {
    let mut config = config();
    config.grant.super_packets = true;
    let mut rig = Rig::new(config);
    rig.client.path_room(Path::Api, 20_000, 8_000, rig.now);
    let (packet, cut) = super_packet(40);
    for _ in 0..5 {
        rig.client
            .handle_tun_packet(&mut packet.clone(), cut, rig.now);
    }
    let sent = transmitted(&mut rig.client);
    assert!(
        (20_000..28_200).contains(&sent.iter().sum::<usize>()),
        "{sent:?}"
    );
    assert!(sent.iter().all(|len| *len < 8_100), "{sent:?}");
    rig.client.handle_tun_packet(
        &mut udp(at(CLIENT, 4001), at(POD, 81), b"small"),
        Segmentation::Whole,
        rig.now,
    );
    assert!(transmitted(&mut rig.client).is_empty());
    rig.client.path_room(Path::Api, 20_000, 8_000, rig.now);
    let sent = transmitted(&mut rig.client);
    assert!(sent.iter().any(|len| *len < 100), "{sent:?}");
    rig.client.path_closed(Path::Api, rig.now);
    rig.client.path_opened(Path::Api, rig.now);
    rig.now += Duration::from_secs(1);
    rig.client.handle_timeout(rig.now);
    assert!(rig.client.status(rig.now).drops.is_empty());
}

const NODE: &str = "192.0.2.1:51820";

/// A client on UDP, with IPv6 as well, whose path carries 1200 bytes.
fn narrow() -> Rig {
    narrow_with(|_| {})
}

fn narrow_with(change: impl FnOnce(&mut Config)) -> Rig {
    let mut config = config();
    change(&mut config);
    config.carrier = CarrierChoice::Udp;
    config.udp_candidates = vec![NODE.parse().unwrap()];
    config.grant.path_mtu = true;
    config.grant.addresses.push(TunnelAddresses {
        gateway: ip("fd6b:7670:6e00::1"),
        client: ip("fd6b:7670:6e00::2"),
        dns_stub: ip("fd6b:7670:6e00::3"),
    });
    let mut rig = Rig::unconnected(config);
    rig.alive.insert(Path::Udp(NODE.parse().unwrap()));
    rig.longest = 1200 + 32;
    rig.client.network_changed(rig.now);
    rig.settle();
    rig.run(10_000);
    assert_eq!(rig.client.status(rig.now).mtu, 1200);
    rig
}

/// The MTU in what programs are told, packet by packet.
fn refusals(rig: &mut Rig) -> Vec<u32> {
    let packets = rig.tun.drain(..);
    let mtu = |packet: Vec<u8>| match Ip::parse(&packet).unwrap().icmp().unwrap().message() {
        IcmpMessage::PacketTooBig { mtu, .. } => mtu,
        other => panic!("{other:?}"),
    };
    packets.map(mtu).collect()
}

#[test]
fn what_is_too_long_for_the_path_is_refused() {
    let mut rig = narrow();
    let to = |len: usize| udp(at(CLIENT, 4000), at(POD, 80), &vec![1; len - 28]);
    rig.send(&to(1200));
    assert_eq!(rig.gateway_received(), Some(to(1200)));
    rig.send(&to(1201));
    assert_eq!(
        (rig.gateway_received(), refusals(&mut rig)),
        (None, vec![1200])
    );
    let v6 = |len: usize| {
        udp(
            at("fd6b:7670:6e00::2", 4),
            at("fd00::9", 5),
            &vec![1; len - 48],
        )
    };
    rig.send(&v6(1281));
    assert_eq!(
        (rig.gateway_received(), refusals(&mut rig)),
        (None, vec![1280])
    );
    assert_eq!(rig.client.status(rig.now).drops["too_long"], 2);
    // A sender that was told 1280 cuts no finer: that is done here.
    rig.send(&v6(1280));
    let fragments: Vec<Vec<u8>> = std::iter::from_fn(|| rig.gateway_received()).collect();
    assert_eq!(fragments.len(), 2);
    assert!(fragments.iter().all(|fragment| fragment.len() <= 1200));
    assert!(rig.tun.is_empty());
}

#[test]
fn one_refusal_answers_a_super_packet() {
    let mut rig = narrow();
    let segment = build::Segment {
        window: 500,
        payload: &[7; 13_000],
        ..build::Segment::default()
    };
    let mut super_packet = vec![0; 13_040];
    build::tcp(at(CLIENT, 4000), at(POD, 80), &segment, &mut super_packet).unwrap();
    let segmentation = Segmentation::Tcp { size: 1300 };
    rig.client
        .handle_tun_packet(&mut super_packet, segmentation, rig.now);
    rig.settle();
    assert_eq!(
        (rig.gateway_received(), refusals(&mut rig)),
        (None, vec![1200])
    );
}
