//! How flows begin, are refused, and break: what the one who opens gets to see.

use std::net::SocketAddr;
use std::time::Duration;

use kvpn_netstack::{Config, Event, FlowId, Full, Netstack, Refusal};
use kvpn_wire::packet::{IcmpMessage, Ip, TcpFlags, build, checksum};

use crate::link::Quality;
use crate::pair::{CLIENT, Pair, SERVER, Script, client_addr, config, server_addr, start};

/// One stack, and packets made by hand.
struct Single {
    stack: Netstack,
    now: std::time::Instant,
    src: SocketAddr,
    dst: SocketAddr,
}

impl Single {
    fn new(src: &str, dst: &str) -> Self {
        let now = start();
        Self {
            stack: Netstack::new(config(3), now),
            now,
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        }
    }

    fn v4() -> Self {
        Self::new("198.19.0.2:1000", "10.96.0.10:80")
    }

    fn v6() -> Self {
        Self::new("[fd6b:7670:6e00::2]:1000", "[fd00::10]:80")
    }

    fn segment(
        &mut self,
        flags: TcpFlags,
        sequence: u32,
        acknowledgement: u32,
        payload: &[u8],
    ) -> Vec<u8> {
        let segment = build::Segment {
            sequence,
            acknowledgement,
            flags,
            window: 60_000,
            payload,
            ..build::Segment::default()
        };
        let mut out = vec![0; 2000];
        let len = build::tcp(self.src, self.dst, &segment, &mut out).unwrap();
        out.truncate(len);
        self.stack.handle_packet(&out, self.now);
        out
    }

    fn syn(&mut self, sequence: u32) -> Vec<u8> {
        self.segment(TcpFlags::SYN, sequence, 0, b"")
    }

    fn opening(&mut self) -> FlowId {
        match self.stack.poll_event() {
            Some(Event::TcpOpening { flow, src, dst }) => {
                assert_eq!((src, dst), (self.src, self.dst));
                flow
            }
            other => panic!("{other:?}"),
        }
    }

    /// The one packet that comes out, if any; its checksums are right.
    fn answer(&mut self) -> Option<Vec<u8>> {
        let packet = self.stack.poll_segment()?.to_vec();
        assert!(checksum::verify(&Ip::parse(&packet).unwrap()));
        assert_eq!(self.stack.poll_segment(), None);
        Some(packet)
    }

    /// Flags, sequence number and acknowledgement of the one segment that comes out.
    fn answered(&mut self) -> (TcpFlags, u32, u32) {
        let packet = self.answer().expect("an answer");
        let tcp = Ip::parse(&packet).unwrap().tcp().expect("a segment");
        (tcp.flags(), tcp.sequence(), tcp.acknowledgement())
    }

    /// Opens a flow by hand: its id, and the stack's first sequence number.
    fn connected(&mut self, sequence: u32) -> (FlowId, u32) {
        self.syn(sequence);
        let flow = self.opening();
        self.stack.tcp_accept(flow, self.now);
        let (flags, theirs, ours) = self.answered();
        assert_eq!(
            (flags, ours),
            (TcpFlags::SYN.with(TcpFlags::ACK), sequence.wrapping_add(1))
        );
        self.segment(
            TcpFlags::ACK,
            sequence.wrapping_add(1),
            theirs.wrapping_add(1),
            b"",
        );
        assert_eq!(self.stack.poll_event(), Some(Event::TcpConnected { flow }));
        (flow, theirs.wrapping_add(1))
    }
}

#[test]
fn nothing_is_answered_before_the_decision() {
    let mut single = Single::v4();
    single.syn(7);
    let flow = single.opening();
    for _ in 0..5 {
        single.syn(7);
        single.now += Duration::from_secs(1);
        single.stack.handle_timeout(single.now);
    }
    assert_eq!(single.answer(), None);
    assert_eq!(single.stack.poll_event(), None);
    assert_eq!(single.stack.flows().tcp, 1);
    single.stack.tcp_accept(flow, single.now);
    assert_eq!(single.answered().0, TcpFlags::SYN.with(TcpFlags::ACK));
    single.stack.tcp_accept(flow, single.now);
    assert_eq!(single.answer(), None);
}

#[test]
fn refused_with_a_reset() {
    for mut single in [Single::v4(), Single::v6()] {
        single.syn(41);
        let flow = single.opening();
        single.stack.tcp_refuse(flow, Refusal::Reset, single.now);
        assert_eq!(
            single.answered(),
            (TcpFlags::RST.with(TcpFlags::ACK), 0, 42)
        );
        assert_eq!(single.stack.flows().tcp, 0);
        assert_eq!(single.stack.poll_event(), None);
    }
}

#[test]
fn refused_with_icmp() {
    let kinds = [
        (Refusal::HostUnreachable, 1, 3),
        (Refusal::NetUnreachable, 0, 0),
        (Refusal::Prohibited, 13, 1),
        (Refusal::PortUnreachable, 3, 4),
    ];
    for (refusal, v4, v6) in kinds {
        for (mut single, expected) in [(Single::v4(), v4), (Single::v6(), v6)] {
            let syn = single.syn(41);
            let flow = single.opening();
            single.stack.tcp_refuse(flow, refusal, single.now);
            let packet = single.answer().expect("an error");
            let ip = Ip::parse(&packet).unwrap();
            assert_eq!((ip.src(), ip.dst()), (single.dst.ip(), single.src.ip()));
            let IcmpMessage::Unreachable { code, quoted } = ip.icmp().unwrap().message() else {
                panic!("not unreachable");
            };
            assert_eq!((code, quoted), (expected, &syn[..]));
            assert_eq!(single.stack.flows().tcp, 0);
        }
    }
}

#[test]
fn refused_with_silence() {
    let mut single = Single::v4();
    single.syn(41);
    let flow = single.opening();
    single.stack.tcp_refuse(flow, Refusal::Silent, single.now);
    assert_eq!(single.answer(), None);
    single.syn(41);
    assert_ne!(single.opening(), flow);
}

#[test]
fn the_one_who_opens_sees_the_refusal() {
    let mut pair = Pair::new(Quality::delayed(5), 1);
    let flow = pair.stacks[CLIENT]
        .tcp_connect(client_addr(1000), server_addr(), pair.now)
        .unwrap();
    pair.run_for(Duration::from_millis(100));
    let opened = pair.others[SERVER][0].flow();
    pair.stacks[SERVER].tcp_refuse(opened, Refusal::Reset, pair.now);
    pair.run_for(Duration::from_millis(100));
    assert_eq!(pair.others[CLIENT], [Event::TcpReset { flow }]);
    assert_eq!(pair.stacks[CLIENT].flows().tcp, 0);
}

#[test]
fn a_held_syn_is_withdrawn() {
    let mut single = Single::v4();
    single.syn(41);
    let flow = single.opening();
    single.segment(TcpFlags::RST, 99, 0, b"");
    assert_eq!(single.stack.poll_event(), None);
    single.segment(TcpFlags::RST, 42, 0, b"");
    assert_eq!(single.stack.poll_event(), Some(Event::TcpReset { flow }));
    single.stack.tcp_accept(flow, single.now);
    assert_eq!(single.answer(), None);
}

/// An opening that ended before anybody heard of it is not told of at all.
#[test]
fn an_opening_that_nobody_saw() {
    let mut single = Single::v4();
    single.syn(41);
    single.segment(TcpFlags::RST, 42, 0, b"");
    assert_eq!(single.stack.poll_event(), None);
}

#[test]
fn a_held_syn_that_nobody_decides_on() {
    let mut single = Single::v4();
    single.syn(41);
    let flow = single.opening();
    let (at, _) = single.stack.poll_timeout().expect("a deadline");
    assert!(at > single.now + Duration::from_secs(60));
    single.stack.handle_timeout(at);
    assert_eq!(single.stack.poll_event(), Some(Event::TcpReset { flow }));
    assert_eq!(single.stack.poll_timeout(), None);
}

#[test]
fn a_newer_syn_replaces_the_held_one() {
    let mut single = Single::v4();
    single.syn(41);
    let flow = single.opening();
    single.syn(1_000_000);
    single.stack.tcp_accept(flow, single.now);
    assert_eq!(single.answered().2, 1_000_001);
}

#[test]
fn segments_to_nobody() {
    for mut single in [Single::v4(), Single::v6()] {
        single.segment(TcpFlags::ACK, 5, 77, b"data");
        assert_eq!(single.answered(), (TcpFlags::RST, 77, 0));
        single.segment(TcpFlags::FIN, 5, 0, b"data");
        assert_eq!(
            single.answered(),
            (TcpFlags::RST.with(TcpFlags::ACK), 0, 10)
        );
        single.segment(TcpFlags::SYN.with(TcpFlags::ACK), 5, 77, b"");
        assert_eq!(single.answered(), (TcpFlags::RST, 77, 0));
        single.segment(TcpFlags::RST, 5, 77, b"");
        assert_eq!(single.answer(), None);
        assert_eq!(single.stack.dropped().unknown, 1);
        assert_eq!(single.stack.flows().tcp, 0);
    }
}

#[test]
fn data_fin_and_the_last_acknowledgement_in_one_segment() {
    let mut single = Single::v4();
    single.syn(9);
    let flow = single.opening();
    single.stack.tcp_accept(flow, single.now);
    let (_, theirs, _) = single.answered();
    single.segment(
        TcpFlags::ACK.with(TcpFlags::FIN),
        10,
        theirs + 1,
        b"all of it",
    );
    let mut buf = [0; 32];
    assert_eq!(
        single.stack.poll_event(),
        Some(Event::TcpConnected { flow })
    );
    assert_eq!(single.stack.poll_event(), Some(Event::TcpReadable { flow }));
    assert_eq!(single.stack.tcp_recv(flow, &mut buf, single.now), 9);
    assert_eq!(
        single.stack.poll_event(),
        Some(Event::TcpPeerFinished { flow })
    );
    assert_eq!(single.answered(), (TcpFlags::ACK, theirs + 1, 20));
    single.stack.tcp_finish(flow, single.now);
    assert_eq!(
        single.answered(),
        (TcpFlags::ACK.with(TcpFlags::FIN), theirs + 1, 20)
    );
    single.segment(TcpFlags::ACK, 20, theirs + 2, b"");
    assert_eq!(single.stack.poll_event(), Some(Event::TcpClosed { flow }));
}

/// A peer that lost its state finds out, and gets in (RFC 5961 section 4).
#[test]
fn a_syn_in_the_middle_of_a_flow() {
    let mut single = Single::v4();
    let (flow, theirs) = single.connected(100);
    single.syn(500_000);
    assert_eq!(single.answered(), (TcpFlags::ACK, theirs, 101));
    assert_eq!(single.stack.poll_event(), None);
    single.segment(TcpFlags::RST, 101, 0, b"");
    assert_eq!(single.stack.poll_event(), Some(Event::TcpReset { flow }));
    single.syn(500_000);
    assert_ne!(single.opening(), flow);
}

#[test]
fn a_flow_that_just_ended() {
    let mut single = Single::v4();
    let (flow, theirs) = single.connected(100);
    single.stack.tcp_finish(flow, single.now);
    assert_eq!(
        single.answered(),
        (TcpFlags::ACK.with(TcpFlags::FIN), theirs, 101)
    );
    single.segment(TcpFlags::ACK.with(TcpFlags::FIN), 101, theirs + 1, b"");
    assert_eq!(single.answered(), (TcpFlags::ACK, theirs + 1, 102));
    assert_eq!(
        single.stack.poll_event(),
        Some(Event::TcpPeerFinished { flow })
    );
    assert_eq!(single.stack.poll_event(), Some(Event::TcpClosed { flow }));
    // Its FIN again, because our acknowledgement was lost.
    single.segment(TcpFlags::ACK.with(TcpFlags::FIN), 101, theirs + 1, b"");
    assert_eq!(single.answered(), (TcpFlags::ACK, theirs + 1, 102));
    // An old SYN does not open anything, a new one does.
    single.syn(50);
    assert_eq!(single.answered(), (TcpFlags::ACK, theirs + 1, 102));
    assert_eq!(single.stack.poll_event(), None);
    single.syn(200);
    assert_ne!(single.opening(), flow);
}

#[test]
fn reset_by_the_peer() {
    let mut single = Single::v4();
    let (flow, _) = single.connected(100);
    single.segment(TcpFlags::RST.with(TcpFlags::ACK), 101, 0, b"");
    assert_eq!(single.stack.poll_event(), Some(Event::TcpReset { flow }));
    assert_eq!(single.stack.flows().tcp, 0);
    assert_eq!(single.stack.tcp_send(flow, b"late", single.now), 0);
    assert_eq!(single.stack.tcp_recv(flow, &mut [0; 8], single.now), 0);
    single.stack.tcp_finish(flow, single.now);
    single.stack.tcp_abort(flow, single.now);
    assert_eq!(single.answer(), None);
}

/// An answer to something old does not take away what was received before both sides finished (RFC 1337).
#[test]
fn reset_after_both_finished() {
    let mut single = Single::v4();
    let (flow, theirs) = single.connected(100);
    single.stack.tcp_finish(flow, single.now);
    single.answered();
    single.segment(
        TcpFlags::ACK.with(TcpFlags::FIN),
        101,
        theirs + 1,
        b"unread",
    );
    assert_eq!(single.answered(), (TcpFlags::ACK, theirs + 1, 108));
    single.segment(TcpFlags::RST, 108, 0, b"");
    assert_eq!(single.stack.poll_event(), Some(Event::TcpReadable { flow }));
    assert_eq!(single.stack.tcp_recv(flow, &mut [0; 8], single.now), 6);
    let ends = [Event::TcpPeerFinished { flow }, Event::TcpClosed { flow }];
    assert_eq!(
        [single.stack.poll_event(), single.stack.poll_event()],
        ends.map(Some)
    );
}

#[test]
fn aborted_by_the_caller() {
    let mut single = Single::v4();
    let (flow, theirs) = single.connected(100);
    single.stack.tcp_send(flow, b"never mind", single.now);
    single.stack.tcp_abort(flow, single.now);
    assert_eq!(
        single.answered(),
        (TcpFlags::RST.with(TcpFlags::ACK), theirs, 101)
    );
    assert_eq!(single.stack.poll_event(), None);
    assert_eq!(
        (single.stack.flows().tcp, single.stack.poll_timeout()),
        (0, None)
    );
}

#[test]
fn nobody_answers_a_syn() {
    let mut pair = Pair::new(
        Quality {
            loss: 1000,
            ..Quality::PERFECT
        },
        1,
    );
    let flow = pair.stacks[CLIENT]
        .tcp_connect(client_addr(1000), server_addr(), pair.now)
        .unwrap();
    pair.run_for(Duration::from_secs(300));
    assert_eq!(pair.others[CLIENT], [Event::TcpReset { flow }]);
    assert!(
        (5..=8).contains(&pair.links[SERVER].lost),
        "{} SYNs",
        pair.links[SERVER].lost
    );
    assert!(pair.wakes < 20);
}

#[test]
fn a_peer_that_vanishes() {
    let mut pair = Pair::new(Quality::PERFECT, 1);
    let [client, server] = Script::both_ways(1, 10, 10);
    let flow = pair.open(
        1000,
        [
            Script {
                finish_last: true,
                ..client
            },
            Script {
                finish_last: true,
                ..server
            },
        ],
    );
    pair.run_for(Duration::from_secs(24 * 3600));
    assert_eq!(
        pair.stacks[CLIENT].flows().tcp,
        1,
        "an idle peer that answers stays"
    );
    assert!(pair.wakes < 200, "{} wake-ups a day", pair.wakes);
    pair.links[SERVER] = crate::link::Link::new(
        Quality {
            loss: 1000,
            ..Quality::PERFECT
        },
        1,
    );
    pair.run_for(Duration::from_secs(3 * 3600));
    assert_eq!(
        pair.programs[CLIENT][&flow].end,
        Some(Event::TcpReset { flow })
    );
}

#[test]
fn unacknowledged_data_is_not_kept_for_ever() {
    let mut pair = Pair::new(Quality::PERFECT, 1);
    let [client, server] = Script::both_ways(1, 10, 10);
    let flow = pair.open(
        1000,
        [
            Script {
                finish_last: true,
                ..client
            },
            Script {
                finish_last: true,
                ..server
            },
        ],
    );
    pair.run_for(Duration::from_secs(10));
    pair.links[SERVER] = crate::link::Link::new(
        Quality {
            loss: 1000,
            ..Quality::PERFECT
        },
        1,
    );
    assert_eq!(pair.stacks[CLIENT].tcp_send(flow, b"hello?", pair.now), 6);
    pair.run_for(Duration::from_secs(20 * 60));
    assert_eq!(
        pair.programs[CLIENT][&flow].end,
        Some(Event::TcpReset { flow })
    );
}

#[test]
fn limits() {
    let now = start();
    let mut stack = Netstack::new(
        Config {
            max_flows: 10,
            ..config(1)
        },
        now,
    );
    let dst = server_addr();
    let flows: Vec<FlowId> = (0..10)
        .map(|_| stack.tcp_connect(client_addr(0), dst, now).unwrap())
        .collect();
    assert_eq!(
        stack.tcp_connect(client_addr(0), dst, now),
        Err(Full::Flows)
    );
    assert_eq!(stack.udp_open(client_addr(0), dst, now), Err(Full::Flows));
    stack.tcp_abort(flows[0], now);
    let flow = stack.tcp_connect(client_addr(77), dst, now).unwrap();
    assert!(flows.iter().all(|&other| other != flow));
    stack.tcp_abort(flows[1], now);
    assert_eq!(
        stack.tcp_connect(client_addr(77), dst, now),
        Err(Full::Ports)
    );
    assert_eq!(
        stack.tcp_connect(client_addr(1), "[::1]:1".parse().unwrap(), now),
        Err(Full::Unaddressable)
    );
    assert_eq!(
        stack.tcp_connect(client_addr(1), "0.0.0.0:1".parse().unwrap(), now),
        Err(Full::Unaddressable)
    );
    assert_eq!(
        stack.tcp_connect(client_addr(1), "10.0.0.1:0".parse().unwrap(), now),
        Err(Full::Unaddressable)
    );
}

/// SYNs beyond half of all flows wait their turn: they are dropped, and repeated by who sent them.
#[test]
fn half_open_limit() {
    let mut single = Single::v4();
    single.stack = Netstack::new(
        Config {
            max_flows: 10,
            ..config(1)
        },
        single.now,
    );
    for port in 0..20 {
        single.src.set_port(5000 + port);
        single.syn(1);
    }
    assert_eq!(single.stack.flows().tcp, 6);
    assert_eq!(single.stack.dropped().half_open_full, 14);
    while let Some(Event::TcpOpening { flow, .. }) = single.stack.poll_event() {
        single.stack.tcp_refuse(flow, Refusal::Silent, single.now);
    }
    single.src.set_port(9000);
    single.syn(1);
    single.opening();
}

#[test]
fn bad_checksums_open_nothing() {
    let mut single = Single::v4();
    let mut syn = single.syn(1);
    single.opening();
    let last = syn.len() - 1;
    syn[last] ^= 1;
    syn[21] ^= 1;
    single.stack.handle_packet(&syn, single.now);
    assert_eq!(single.stack.poll_event(), None);
    assert_eq!(single.stack.dropped().malformed, 1);
}

#[test]
fn addresses_that_are_no_hosts() {
    for (src, dst) in [
        ("224.0.0.1:5", "10.0.0.1:80"),
        ("0.0.0.0:5", "10.0.0.1:80"),
        ("10.0.0.1:5", "255.255.255.255:80"),
        ("[ff02::1]:5", "[fd00::1]:80"),
        ("[::]:5", "[fd00::1]:80"),
        ("10.0.0.1:0", "10.0.0.1:80"),
    ] {
        let mut single = Single::new(src, dst);
        single.syn(1);
        single.segment(TcpFlags::ACK, 1, 1, b"");
        assert_eq!(
            (single.stack.poll_event(), single.answer()),
            (None, None),
            "{src} {dst}"
        );
        assert_eq!(single.stack.dropped().unaddressable, 2);
    }
    // Nobody listens on port 0, but the caller is to decide that.
    let mut single = Single::new("10.0.0.2:5", "10.0.0.1:0");
    single.syn(1);
    let flow = single.opening();
    single.stack.tcp_accept(flow, single.now);
    assert_eq!(single.stack.poll_event(), Some(Event::TcpReset { flow }));
}

/// Only the exact number resets; one that is near is asked about (RFC 5961 section 3), and what was never sent is not acknowledged.
#[test]
fn guessed_numbers() {
    let mut single = Single::v4();
    let (flow, theirs) = single.connected(100);
    single.segment(TcpFlags::RST, 150, 0, b"");
    assert_eq!(single.answered(), (TcpFlags::ACK, theirs, 101));
    single.segment(TcpFlags::RST, 5_000_000, 0, b"");
    assert_eq!(single.answer(), None);
    single.segment(TcpFlags::ACK, 101, theirs.wrapping_add(500), b"forged");
    assert_eq!(single.answered(), (TcpFlags::ACK, theirs, 101));
    assert_eq!(
        (single.stack.poll_event(), single.stack.tcp_recv_ready(flow)),
        (None, 0)
    );
    for _ in 0..100 {
        single.segment(TcpFlags::RST, 150, 0, b"");
    }
    let answers = std::iter::from_fn(|| single.stack.poll_segment().map(<[u8]>::len)).count();
    assert!(answers <= 10, "{answers}");
    single.segment(TcpFlags::RST, 101, 0, b"");
    assert_eq!(single.stack.poll_event(), Some(Event::TcpReset { flow }));
}

/// A peer without selective acknowledgements: the third duplicate means a loss (RFC 5681 section 3.2).
#[test]
fn three_duplicates() {
    let mut single = Single::v4();
    let (flow, theirs) = single.connected(100);
    assert_eq!(single.stack.tcp_send(flow, &[7; 3000], single.now), 3000);
    let sent = std::iter::from_fn(|| single.stack.poll_segment().map(<[u8]>::len)).count();
    assert!(sent >= 5, "536 bytes each, {sent}");
    for _ in 0..2 {
        single.segment(TcpFlags::ACK, 101, theirs, b"");
        assert_eq!(single.answer(), None);
    }
    single.segment(TcpFlags::ACK, 101, theirs, b"");
    assert_eq!(single.answered(), (TcpFlags::ACK, theirs, 101));
    // It fills the gap, and the peer had the rest.
    single.segment(TcpFlags::ACK, 101, theirs.wrapping_add(3000), b"");
    assert_eq!(
        (single.answer(), single.stack.tcp_send_queue_free(flow)),
        (None, 64 * 1024)
    );
}

/// A closed window is probed, ever more rarely, for as long as the peer answers.
#[test]
fn a_closed_window_is_probed() {
    let mut single = Single::v4();
    let (flow, theirs) = single.connected(100);
    let closed = build::Segment {
        sequence: 101,
        acknowledgement: theirs,
        flags: TcpFlags::ACK,
        ..build::Segment::default()
    };
    let mut out = [0; 60];
    let len = build::tcp(single.src, single.dst, &closed, &mut out).unwrap();
    single.stack.handle_packet(&out[..len], single.now);
    assert_eq!(single.stack.tcp_send(flow, b"waiting", single.now), 7);
    assert_eq!(single.answer(), None);
    let (mut probes, start) = (Vec::new(), single.now);
    while single.now - start < Duration::from_secs(600) {
        single.now = single.stack.poll_timeout().unwrap().0;
        single.stack.handle_timeout(single.now);
        if let Some(packet) = single.answer() {
            let tcp = Ip::parse(&packet).unwrap().tcp().unwrap();
            assert_eq!(
                (tcp.sequence(), tcp.payload().len()),
                (theirs.wrapping_sub(1), 0)
            );
            probes.push(single.now - start);
            single.stack.handle_packet(&out[..len], single.now);
        }
    }
    assert!((10..=25).contains(&probes.len()), "{probes:?}");
    assert!(probes[0] <= Duration::from_secs(1), "{probes:?}");
    single.segment(TcpFlags::ACK, 101, theirs, b"");
    assert_eq!(single.answered().0, TcpFlags::ACK.with(TcpFlags::PSH));
}
