//! The gateway against clients of flesh and blood (real tunnels), without a socket or a clock.

mod client;
mod dialled;
mod inbox;
mod mtu;
mod room;
mod shards;

use std::net::SocketAddr;
use std::time::Duration;

use kvpn_wire::offload::Segmentation;
use kvpn_wire::packet::{IcmpMessage, Ip, TcpFlags};
use kvpn_wire::wireguard::Reason;
use proptest::prelude::*;

use self::client::{API, Client, address, config, echo_request, request, start, syn, udp};
use crate::output::DropReason;
use crate::{Event, FlowEvent, Forbidden, GatewayState, KernelFamilies, Path, Refused, Target};

const LEASE: Duration = Duration::from_secs(15 * 60);

fn events(gateway: &mut GatewayState) -> Vec<Event> {
    std::iter::from_fn(|| gateway.poll_event()).collect()
}

fn drops(gateway: &GatewayState, reason: DropReason) -> u64 {
    gateway.snapshot().drops.of(reason)
}

fn udp_path(text: &str) -> Path {
    Path::Udp(text.parse().unwrap())
}

#[test]
fn the_same_key_gets_the_same_grant() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let first = gateway.create_session(&request(1), now).unwrap();
    let again = gateway
        .create_session(&request(1), now + Duration::from_secs(60))
        .unwrap();
    assert_eq!(first, again);
    let other = gateway.create_session(&request(2), now).unwrap();
    assert_ne!(first.addresses, other.addresses);
    assert_ne!(first.session_id, other.session_id);
    assert_ne!(first.preshared_key, other.preshared_key);
    assert_eq!(gateway.snapshot().sessions, 2);
}

#[test]
fn a_former_client_gets_its_addresses_again() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut wanted = request(1);
    wanted.prefer = vec![address("198.19.0.34"), address("fd6b:7670:6e00::22")];
    let grant = gateway.create_session(&wanted, now).unwrap();
    assert_eq!(grant.addresses[0].client, address("198.19.0.34"));
    // Its successor finds them taken, unless the session is on its way out.
    let mut successor = request(2);
    successor.prefer = wanted.prefer.clone();
    let index = gateway.sessions.with_key(&wanted.public_key).unwrap();
    assert!(gateway.end_session(index, now));
    assert_eq!(
        gateway.create_session(&successor, now).unwrap().addresses,
        grant.addresses
    );
    assert_eq!(gateway.snapshot().sessions, 1);
}

#[test]
fn refuses_what_it_cannot_grant() {
    let now = start();
    let mut settings = config();
    settings.limits.max_sessions = 1;
    let mut gateway = GatewayState::new(settings, now);
    let mut foreign = request(1);
    foreign.version = 99;
    assert!(matches!(
        gateway.create_session(&foreign, now),
        Err(Refused::Version { asked: 99, .. })
    ));
    let mut cornered = request(1);
    cornered.avoid = vec!["198.18.0.0/15".parse().unwrap()];
    assert_eq!(
        gateway.create_session(&cornered, now),
        Err(Refused::NoAddresses)
    );
    gateway.create_session(&request(1), now).unwrap();
    assert_eq!(
        gateway.create_session(&request(2), now),
        Err(Refused::Full(1))
    );
    assert!(
        gateway.create_session(&request(1), now).is_ok(),
        "a renewal is no new session"
    );
}

#[test]
fn a_session_that_is_not_renewed_ends() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected(&mut gateway, 1, now);
    gateway.handle_timeout(now + LEASE - Duration::from_secs(1));
    gateway
        .create_session(&request(1), now + LEASE - Duration::from_secs(1))
        .unwrap();
    while gateway.poll_event().is_some() {}
    gateway.handle_timeout(now + LEASE);
    assert_eq!(gateway.snapshot().sessions, 1, "renewed");
    gateway.handle_timeout(now + LEASE * 2);
    assert_eq!(gateway.snapshot().sessions, 0);
    assert!(matches!(
        events(&mut gateway)[..],
        [Event::SessionEnded { .. }]
    ));
    assert_eq!(gateway.poll_timeout(), None);
    let datagram = client.seal(&[]);
    gateway.handle_datagram(API, &datagram, now + LEASE * 2);
    assert_eq!(drops(&gateway, DropReason::UnknownSession), 1);
}

#[test]
fn the_deadline_is_never_later_than_the_lease() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    Client::connected(&mut gateway, 1, now);
    while gateway.poll_event().is_some() {}
    let (at, _) = gateway.poll_timeout().unwrap();
    assert!(at <= now + LEASE);
}

#[test]
fn answers_go_where_the_client_was_last_heard() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected(&mut gateway, 1, now);
    for (path, sequence) in [
        (API, 1),
        (udp_path("192.0.2.1:1000"), 2),
        (udp_path("192.0.2.9:7"), 3),
        (API, 4),
    ] {
        client.path = path;
        for own in [client.v4(), client.v6()] {
            client.send(
                &mut gateway,
                &echo_request(own.client, own.gateway, sequence),
            );
            let answers = client.receive(&mut gateway);
            let [(answered_on, packet)] = &answers[..] else {
                panic!("{answers:?}")
            };
            assert_eq!(*answered_on, path);
            let reply = Ip::parse(packet).unwrap().icmp().unwrap();
            assert_eq!(
                reply.message(),
                IcmpMessage::EchoReply {
                    ident: 77,
                    sequence,
                    payload: b"probe"
                }
            );
        }
    }
}

#[test]
fn a_replayed_datagram_moves_nothing() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected(&mut gateway, 1, now);
    let probe = client.seal(&echo_request(client.v4().client, client.v4().gateway, 1));
    gateway.handle_datagram(API, &probe, now);
    gateway.handle_datagram(udp_path("203.0.113.66:666"), &probe, now);
    assert_eq!(drops(&gateway, DropReason::Rejected(Reason::Replayed)), 1);
    let answers = client.receive(&mut gateway);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].0, API);
    let index = gateway.sessions.with_key(&request(1).public_key).unwrap();
    assert_eq!(gateway.session_status(index, now).unwrap().path, "api");
}

#[test]
fn a_closed_path_is_used_no_more() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected(&mut gateway, 1, now);
    gateway.path_closed(API);
    let mut packet = udp(
        "10.96.0.1:53".parse().unwrap(),
        SocketAddr::new(client.v4().client, 9),
        b"late",
    );
    gateway.handle_tun_packet(&mut packet, Segmentation::Whole, now);
    assert!(client.receive(&mut gateway).is_empty());
    assert_eq!(drops(&gateway, DropReason::NoPath), 1);
}

#[test]
fn a_forged_source_is_dropped_in_silence() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let other = Client::connected(&mut gateway, 2, now);
    let mut client = Client::connected(&mut gateway, 1, now);
    let target: SocketAddr = "10.96.0.1:80".parse().unwrap();
    let foreign = [
        other.v4().client,
        address("10.244.1.7"),
        address("127.0.0.1"),
        client.v4().gateway,
        client.v4().dns_stub,
    ];
    for source in foreign {
        client.send(
            &mut gateway,
            &udp(SocketAddr::new(source, 4000), target, b"x"),
        );
    }
    let v6: SocketAddr = "[fd00:96::1]:80".parse().unwrap();
    client.send(
        &mut gateway,
        &udp(SocketAddr::new(other.v6().client, 4000), v6, b"x"),
    );
    assert!(client.receive(&mut gateway).is_empty());
    assert!(events(&mut gateway).is_empty());
    assert_eq!(drops(&gateway, DropReason::ForgedSource), 6);
}

#[test]
fn what_is_forbidden_is_refused_and_said_so() {
    for kernel in [
        KernelFamilies::default(),
        KernelFamilies { v4: true, v6: true },
    ] {
        let now = start();
        let mut gateway = GatewayState::new(crate::Config { kernel, ..config() }, now);
        let other = Client::connected(&mut gateway, 2, now);
        let mut client = Client::connected(&mut gateway, 1, now);
        let v6_of_other = SocketAddr::new(other.v6().client, 22).to_string();
        let table = [
            ("169.254.169.254:80", Forbidden::LinkLocal),
            ("10.244.1.7:6180", Forbidden::GatewayPod),
            ("172.30.0.11:10250", Forbidden::Node),
            (
                &SocketAddr::new(other.v4().client, 22).to_string(),
                Forbidden::Tunnel,
            ),
            (&v6_of_other, Forbidden::Tunnel),
            (
                &SocketAddr::new(client.v4().gateway, 22).to_string(),
                Forbidden::Tunnel,
            ),
            (
                &SocketAddr::new(client.v4().gateway, 6181).to_string(),
                Forbidden::Tunnel,
            ),
            ("[::1]:80", Forbidden::Loopback),
            ("[::ffff:10.96.0.1]:80", Forbidden::Mapped),
        ];
        for (target, reason) in table {
            let before = drops(&gateway, DropReason::Forbidden(reason));
            client.send_udp(&mut gateway, target, b"x");
            assert_eq!(
                drops(&gateway, DropReason::Forbidden(reason)),
                before + 1,
                "{target}"
            );
            let answers = client.receive(&mut gateway);
            let [(_, packet)] = &answers[..] else {
                panic!("{target}: {answers:?}")
            };
            let ip = Ip::parse(packet).unwrap();
            let prohibited = if ip.dst().is_ipv4() { 13 } else { 1 };
            let icmp = ip.icmp().unwrap().message();
            assert!(
                matches!(icmp, IcmpMessage::Unreachable { code, .. } if code == prohibited),
                "{target}: {icmp:?}"
            );
        }
        assert!(events(&mut gateway).is_empty());
        assert!(gateway.poll_packet().is_none());
    }
}

#[test]
fn refusals_are_said_only_so_often() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected(&mut gateway, 1, now);
    for _ in 0..200 {
        client.send_udp(&mut gateway, "169.254.169.254:80", b"x");
    }
    assert_eq!(client.receive(&mut gateway).len(), 50);
    assert_eq!(
        drops(&gateway, DropReason::Forbidden(Forbidden::LinkLocal)),
        200
    );
}

#[test]
fn dns_and_control_are_rewritten() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected(&mut gateway, 1, now);
    let nameserver: SocketAddr = "10.96.0.10:53".parse().unwrap();
    for own in [client.v4(), client.v6()] {
        client.send_udp(
            &mut gateway,
            &SocketAddr::new(own.gateway, 53).to_string(),
            b"question",
        );
        let [
            Event::Flow {
                flow,
                what: FlowEvent::UdpOpening { target },
            },
            Event::Flow {
                what: FlowEvent::UdpDatagram,
                ..
            },
        ] = events(&mut gateway)[..]
        else {
            panic!();
        };
        assert_eq!(target, Target::Nameserver(nameserver));
        let mut question = [0; 100];
        assert_eq!(gateway.udp_recv(flow, &mut question), Some(8));
        gateway.udp_send(flow, b"answer", now);
        gateway.close(flow);
        let answers = client.receive(&mut gateway);
        let ip = Ip::parse(&answers[0].1).unwrap();
        assert_eq!(
            (ip.src(), ip.udp().unwrap().payload()),
            (own.gateway, &b"answer"[..])
        );

        for (port, target) in [
            (53, Target::Nameserver(nameserver)),
            (6180, Target::Control),
        ] {
            client.send(
                &mut gateway,
                &syn(
                    SocketAddr::new(own.client, 5000 + port),
                    SocketAddr::new(own.gateway, port),
                ),
            );
            let opened = events(&mut gateway);
            assert!(
                matches!(opened[..], [Event::Flow { what: FlowEvent::TcpOpening { target: t }, .. }] if t == target),
                "{opened:?}"
            );
        }
    }
}

#[test]
fn a_nameserver_that_failed_is_not_asked_next() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected(&mut gateway, 1, now);
    gateway.nameserver_failed("10.96.0.10:53".parse().unwrap());
    // A late failure of the former one changes nothing.
    gateway.nameserver_failed("10.96.0.10:53".parse().unwrap());
    client.send_udp(
        &mut gateway,
        &SocketAddr::new(client.v4().gateway, 53).to_string(),
        b"question",
    );
    let opened = events(&mut gateway);
    let second = Target::Nameserver("10.96.0.11:53".parse().unwrap());
    assert!(
        matches!(opened[0], Event::Flow { what: FlowEvent::UdpOpening { target }, .. } if target == second)
    );
}

#[test]
fn the_cluster_is_reached_through_userspace() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected(&mut gateway, 1, now);
    let target: SocketAddr = "10.96.0.1:443".parse().unwrap();
    client.send(
        &mut gateway,
        &syn(SocketAddr::new(client.v4().client, 5000), target),
    );
    let [
        Event::Flow {
            flow,
            what: FlowEvent::TcpOpening { target: opened },
        },
    ] = events(&mut gateway)[..]
    else {
        panic!()
    };
    assert_eq!(opened, Target::Address(target));
    assert!(
        client.receive(&mut gateway).is_empty(),
        "nothing is answered before the target answered"
    );
    gateway.tcp_refuse(flow, crate::Refusal::Reset, now);
    let answers = client.receive(&mut gateway);
    let tcp = Ip::parse(&answers[0].1).unwrap().tcp().unwrap();
    assert!(tcp.flags().contains(TcpFlags::RST));
}

#[test]
fn the_kernel_gets_and_gives_packets() {
    let now = start();
    let kernel = KernelFamilies {
        v4: true,
        v6: false,
    };
    let mut gateway = GatewayState::new(crate::Config { kernel, ..config() }, now);
    let mut client = Client::connected(&mut gateway, 1, now);
    let (here, there) = (
        SocketAddr::new(client.v4().client, 5000),
        "10.96.0.1:443".parse().unwrap(),
    );
    client.send(&mut gateway, &syn(here, there));
    let (packet, _) = gateway.poll_packet().unwrap();
    assert_eq!(
        Ip::parse(packet).unwrap().tcp().unwrap().mss(),
        Some(1320),
        "clamped"
    );
    // IPv6, and what only a socket can reach, go through userspace.
    client.send_udp(&mut gateway, "[fd00:96::1]:80", b"x");
    client.send_udp(&mut gateway, "127.0.0.1:80", b"x");
    assert!(gateway.poll_packet().is_none());
    assert_eq!(events(&mut gateway).len(), 4);

    gateway.handle_tun_packet(&mut syn(there, here), Segmentation::Whole, now);
    let answers = client.receive(&mut gateway);
    assert_eq!(
        Ip::parse(&answers[0].1).unwrap().tcp().unwrap().mss(),
        Some(1320),
        "clamped"
    );
    for stranger in [
        "198.19.200.2:1",
        "10.0.0.1:1",
        &SocketAddr::new(client.v4().dns_stub, 53).to_string(),
    ] {
        gateway.handle_tun_packet(
            &mut udp(there, stranger.parse().unwrap(), b"x"),
            Segmentation::Whole,
            now,
        );
    }
    assert!(client.receive(&mut gateway).is_empty());
    assert_eq!(drops(&gateway, DropReason::UnknownAddress), 3);
}

#[test]
fn a_blocked_path_holds_its_sessions_and_no_others() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut waiting = Client::connected(&mut gateway, 1, now);
    let mut other = Client::connected(&mut gateway, 2, now);
    other.path = udp_path("192.0.2.1:1000");
    other.send(
        &mut gateway,
        &echo_request(other.v4().client, other.v4().gateway, 1),
    );
    assert_eq!(other.receive(&mut gateway).len(), 1);
    gateway.path_room(API, 0, 65_535);
    let server: SocketAddr = "10.96.0.1:53".parse().unwrap();
    for client in [&waiting, &other] {
        for number in 0..100_u8 {
            gateway.handle_tun_packet(
                &mut udp(server, SocketAddr::new(client.v4().client, 9), &[number]),
                Segmentation::Whole,
                now,
            );
        }
    }
    assert_eq!(other.receive(&mut gateway).len(), 100);
    gateway.path_room(API, 1 << 20, 65_535);
    let packets = waiting.receive(&mut gateway);
    let numbers: Vec<u8> = packets
        .iter()
        .map(|(_, packet)| Ip::parse(packet).unwrap().udp().unwrap().payload()[0])
        .collect();
    assert_eq!(numbers, (0..100).collect::<Vec<u8>>());
}

#[test]
fn a_stranger_gets_no_answer() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut known = GatewayState::new(config(), now);
    let mut stranger = Client::connected(&mut known, 9, now);
    let mut initiation = [0; 148];
    let length = stranger.tunnel.initiate(&mut initiation, now).unwrap();
    gateway.handle_datagram(API, &initiation[..length], now);
    assert!(gateway.poll_transmit(now).is_none());
    assert_eq!(drops(&gateway, DropReason::UnknownSession), 1);
}

#[test]
fn status_tells_what_was_moved_and_dropped() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let mut client = Client::connected(&mut gateway, 1, now);
    client.wait(5);
    client.send(
        &mut gateway,
        &echo_request(client.v4().client, client.v4().gateway, 1),
    );
    client.send_udp(&mut gateway, "169.254.169.254:80", b"x");
    client.send_udp(&mut gateway, "10.96.0.1:80", b"x");
    client.receive(&mut gateway);
    let index = gateway.sessions.with_key(&request(1).public_key).unwrap();
    let status = gateway.session_status(index, client.now).unwrap();
    assert_eq!(
        (status.uptime_seconds, status.flows, &*status.path),
        (5, 1, "api")
    );
    assert_eq!(status.dropped.get("forbidden_link_local"), Some(&1));
    assert!(status.sent_bytes > 0 && status.received_bytes > 0);
}

#[test]
fn sessions_that_have_flows_share_the_memory_for_them() {
    let now = start();
    let mut gateway = GatewayState::new(config(), now);
    let all = gateway.config.limits.tcp_memory;
    let mut first = Client::connected(&mut gateway, 1, now);
    let mut second = Client::connected(&mut gateway, 2, now);
    let _without_flows = Client::connected(&mut gateway, 3, now);
    let parts = |gateway: &GatewayState| -> Vec<usize> {
        let sessions = gateway.sessions.iter();
        sessions
            .filter_map(|session| Some(session.netstack.as_ref()?.memory()))
            .collect()
    };
    first.send_udp(&mut gateway, "10.96.0.1:53", b"x");
    assert_eq!(parts(&gateway), [all]);
    second.send_udp(&mut gateway, "10.96.0.1:53", b"x");
    assert_eq!(parts(&gateway), [all / 2, all / 2]);
    let ended = gateway.sessions.with_client(second.v4().client).unwrap();
    gateway.remove_session(ended);
    assert_eq!(parts(&gateway), [all]);
}

proptest! {
    #[test]
    fn no_datagram_makes_it_panic(datagram in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u8..6) {
        let now = start();
        let mut gateway = GatewayState::new(config(), now);
        gateway.create_session(&request(1), now).unwrap();
        let mut datagram = datagram;
        if let Some(first) = datagram.first_mut() {
            *first = kind;
        }
        gateway.handle_datagram(API, &datagram, now);
        prop_assert!(gateway.poll_transmit(now).is_none());
    }

    #[test]
    fn only_own_sources_and_allowed_targets_reach_the_kernel(
        source in 0_usize..4,
        target in any::<u32>(),
        protocol in any::<u8>(),
        rest in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let now = start();
        let kernel = KernelFamilies { v4: true, v6: true };
        let mut gateway = GatewayState::new(crate::Config { kernel, ..config() }, now);
        let mut client = Client::connected(&mut gateway, 1, now);
        let sources = [client.v4().client, client.v4().gateway, address("10.244.1.7"), address("10.0.0.1")];
        let target = std::net::Ipv4Addr::from(target);
        let mut packet = udp(SocketAddr::new(sources[source], 1), SocketAddr::new(target.into(), 2), &rest);
        packet[9] = protocol;
        client.send(&mut gateway, &packet);
        if let Some((packet, _)) = gateway.poll_packet() {
            let ip = Ip::parse(packet).unwrap();
            prop_assert_eq!(ip.src(), client.v4().client);
            prop_assert!(gateway.policy.judge(target.into()).is_ok());
        }
    }
}
