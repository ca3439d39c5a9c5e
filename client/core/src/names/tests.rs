//! Questions of programs, all the way to the cluster and back.

use super::*;

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::{CNAME, PTR, SRV};
use kvpn_netstack as netstack;

use crate::Mapping;
use crate::testing::{CLIENT, Rig, STUB, absolute, at, config, ip, question, udp};

fn rig() -> Rig {
    let mut rig = Rig::new(config());
    rig.zone.add_a("web.orders.svc.cluster.local", "10.96.0.7");
    rig.zone.add_a("web.default.svc.cluster.local", "10.96.0.8");
    rig
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

#[test]
fn a_short_name_gets_an_answer_under_its_own_name() {
    let mut rig = rig();
    let answer = rig.ask("WEB.default", RecordType::A).unwrap();
    assert_eq!(code(&answer), ResponseCode::NoError);
    assert!(answer.answers[0].name.eq_case(&absolute("WEB.default")));
    assert_eq!(answer.answers[0].data.ip_addr(), Some(ip("10.96.0.8")));
    let answer = rig.ask("web", RecordType::A).unwrap();
    assert_eq!(answer.answers[0].data.ip_addr(), Some(ip("10.96.0.7")));
}

#[test]
fn a_missing_type_is_no_missing_name() {
    let mut rig = rig();
    for deny_aaaa in [false, true] {
        rig.zone.deny_aaaa = deny_aaaa;
        let answer = rig.ask("web", RecordType::AAAA).unwrap();
        assert_eq!(
            (code(&answer), answer.answers.len()),
            (ResponseCode::NoError, 0)
        );
    }
    assert_eq!(
        code(&rig.ask("wrong", RecordType::AAAA).unwrap()),
        ResponseCode::NXDomain
    );
    assert_eq!(
        code(&rig.ask("wrong", RecordType::A).unwrap()),
        ResponseCode::NXDomain
    );
    assert_eq!(
        code(
            &rig.ask("web.default.orders.svc.cluster.local", RecordType::A)
                .unwrap()
        ),
        ResponseCode::NXDomain
    );
}

#[test]
fn foreign_names_are_refused_where_the_system_splits() {
    let mut rig = rig();
    assert_eq!(
        code(&rig.ask("example.com", RecordType::A).unwrap()),
        ResponseCode::Refused
    );
    assert!(
        rig.zone.asked.is_empty(),
        "the cluster does not learn what else is asked"
    );
}

#[test]
fn foreign_names_go_to_the_former_resolvers_where_it_does_not() {
    let mut rig = Rig::new(Config {
        split_dns: false,
        ..config()
    });
    assert_eq!(rig.ask("example.com", RecordType::A), None);
    let Some(Event::Upstream {
        id,
        query,
        tcp: false,
    }) = rig.events.pop_front()
    else {
        panic!("no event")
    };
    assert_eq!(query, question("example.com", RecordType::A));
    let mut reply = Message::from_vec(&query).unwrap().into_response();
    reply.metadata.response_code = ResponseCode::NXDomain;
    rig.client
        .upstream_answered(id, Some(reply.to_vec().unwrap()), rig.now);
    rig.settle();
    assert_eq!(rig.answer(), Some(reply));
    rig.client.upstream_answered(id, None, rig.now);
    rig.settle();
    assert_eq!(rig.answer(), None, "a second answer is no use");
}

#[test]
fn foreign_names_fail_when_no_resolver_answers() {
    let mut rig = Rig::new(Config {
        split_dns: false,
        ..config()
    });
    assert_eq!(rig.ask("example.com", RecordType::A), None);
    rig.run(5_000);
    assert_eq!(code(&rig.answer().unwrap()), ResponseCode::ServFail);
}

#[test]
fn a_lost_query_is_sent_three_times_and_then_fails() {
    let mut rig = rig();
    rig.zone.silent = true;
    assert_eq!(rig.ask("web", RecordType::A), None);
    rig.run(4_900);
    assert_eq!((rig.zone.asked.len(), rig.answer()), (3, None));
    rig.run(200);
    assert_eq!(code(&rig.answer().unwrap()), ResponseCode::ServFail);
    rig.zone.silent = false;
    assert_eq!(rig.ask("web", RecordType::A).unwrap().answers.len(), 1);
}

#[test]
fn a_cut_answer_is_asked_again_over_tcp() {
    let mut rig = rig();
    rig.zone.cut = true;
    let answer = rig.ask("web", RecordType::A).unwrap();
    assert_eq!(
        (answer.metadata.truncation, answer.answers.len()),
        (false, 1)
    );
    assert_eq!(rig.zone.asked.len(), 2);
    rig.run(60_000);
    assert_eq!(
        rig.events,
        [],
        "kvpn's own connections are no news for the shell"
    );
}

#[test]
fn an_answer_waits_for_its_host_route() {
    let mut rig = rig();
    rig.zone.add_a("db.default.svc.cluster.local", "172.20.3.4");
    rig.zone.add_a("db.default.svc.cluster.local", "192.0.2.1");
    assert_eq!(rig.ask("db.default", RecordType::A), None);
    let Some(Event::HostRoutes { ticket, addresses }) = rig.events.pop_front() else {
        panic!("no event")
    };
    assert_eq!(
        addresses,
        [ip("172.20.3.4")],
        "a public address goes direct"
    );
    rig.client.host_routes_ready(ticket, true, rig.now);
    rig.settle();
    assert_eq!(rig.answer().unwrap().answers.len(), 2);
    assert_eq!(
        rig.ask("db.default", RecordType::A).unwrap().answers.len(),
        2,
        "the route stays"
    );
    rig.client.set_ranges(Vec::new(), Netmap::default());
    assert_eq!(rig.ask("web", RecordType::A), None);
    rig.run(1_000);
    assert_eq!(
        rig.answer().unwrap().answers.len(),
        1,
        "nobody waits longer than a second"
    );
}

#[test]
fn a_chain_out_of_the_cluster_is_kept() {
    let mut rig = rig();
    rig.zone.add(
        "ext.default.svc.cluster.local",
        RData::CNAME(CNAME(absolute("cdn.example.com"))),
    );
    let answer = rig.ask("ext.default", RecordType::CNAME).unwrap();
    assert_eq!(answer.answers[0].name, absolute("ext.default"));
}

#[test]
fn names_may_change() {
    let mut rig = rig();
    rig.zone.add_a("web.later.svc.cluster.local", "10.96.0.9");
    assert_eq!(
        code(&rig.ask("web.later", RecordType::A).unwrap()),
        ResponseCode::Refused
    );
    let mut names = config().names;
    names.namespaces.push("later".to_owned());
    rig.client.set_names(names, rig.now);
    assert_eq!(
        rig.ask("web.later", RecordType::A).unwrap().answers.len(),
        1
    );
}

#[test]
fn too_many_questions_fail_at_once() {
    let mut rig = rig();
    rig.zone.silent = true;
    for n in 0..1100u16 {
        rig.send(&udp(
            at(CLIENT, 10_000 + n),
            at(STUB, 53),
            &question("web", RecordType::A),
        ));
    }
    let failed = rig.tun.len();
    assert_eq!(failed, 1100 - 1024);
    rig.run(6_000);
    assert_eq!(rig.tun.len(), 1100, "each got its answer");
}

#[test]
fn the_shell_may_ask_too() {
    let mut rig = rig();
    let mut resolve = |name: &str, query_type| {
        let id = rig.client.resolve(name, query_type, rig.now);
        rig.settle();
        match rig.events.pop_front() {
            Some(Event::Resolved {
                id: answered,
                answer,
            }) if answered == id => answer,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        resolve("web.default.svc", QueryType::A),
        Resolution::Addresses(vec![ip("10.96.0.8")])
    );
    assert_eq!(
        resolve("web.default.svc.cluster.local.", QueryType::Aaaa),
        Resolution::NoData
    );
    assert_eq!(resolve("wrong.default", QueryType::A), Resolution::NoName);
    assert_eq!(resolve("example.com", QueryType::A), Resolution::Refused);
    assert_eq!(resolve("..", QueryType::A), Resolution::NoName);
}

#[test]
fn the_stub_answers_pings_and_refuses_other_ports() {
    let mut rig = rig();
    let ping = crate::testing::packet(|out| {
        kvpn_wire::packet::build::icmp_echo_request(ip(CLIENT), ip(STUB), 1, 2, b"abc", out)
    });
    rig.send(&ping);
    let reply = rig.tun.pop_front().unwrap();
    assert!(
        Ip::parse(&reply)
            .unwrap()
            .icmp()
            .is_some_and(|icmp| icmp.kind() == 0)
    );
    rig.send(&udp(at(CLIENT, 5000), at(STUB, 54), b"x"));
    let error = rig.tun.pop_front().unwrap();
    assert!(
        Ip::parse(&error)
            .unwrap()
            .icmp()
            .is_some_and(|icmp| (icmp.kind(), icmp.code()) == (3, 3))
    );
}

/// A program that speaks DNS over TCP.
struct Program {
    stack: Netstack,
    flow: netstack::FlowId,
    events: Vec<netstack::Event>,
}

impl Program {
    fn connect(rig: &mut Rig, port: u16) -> Self {
        let mut stack = Netstack::new(netstack::Config::default(), rig.now);
        let flow = stack
            .tcp_connect(at(CLIENT, 41_000), at(STUB, port), rig.now)
            .unwrap();
        let mut program = Self {
            stack,
            flow,
            events: Vec::new(),
        };
        program.exchange(rig);
        program
    }

    fn exchange(&mut self, rig: &mut Rig) {
        loop {
            let mut sent = false;
            while let Some(packet) = self.stack.poll_segment().map(<[u8]>::to_vec) {
                rig.send(&packet);
                sent = true;
            }
            while let Some(packet) = rig.tun.pop_front() {
                self.stack.handle_packet(&packet, rig.now);
            }
            self.events
                .extend(std::iter::from_fn(|| self.stack.poll_event()));
            if !sent {
                return;
            }
        }
    }

    fn ask(&mut self, rig: &mut Rig, names: &[&str]) {
        let framed: Vec<u8> = names
            .iter()
            .flat_map(|name| stream::framed(&question(name, RecordType::A)))
            .collect();
        assert_eq!(
            self.stack.tcp_send(self.flow, &framed, rig.now),
            framed.len()
        );
        self.exchange(rig);
    }

    fn answers(&mut self, rig: &Rig) -> Vec<Message> {
        let mut frames = stream::Frames::default();
        std::iter::from_fn(|| {
            frames.read(self.flow, &mut self.stack, rig.now);
            frames
                .next()
                .map(|message| Message::from_vec(&message).unwrap())
        })
        .collect()
    }
}

#[test]
fn several_questions_over_one_connection() {
    let mut rig = rig();
    let mut program = Program::connect(&mut rig, 53);
    program.ask(&mut rig, &["web", "wrong", "example.com", "web.default"]);
    let mut codes: Vec<ResponseCode> = program.answers(&rig).iter().map(code).collect();
    codes.sort_by_key(|code| u16::from(*code));
    assert_eq!(
        codes,
        [
            ResponseCode::NoError,
            ResponseCode::NoError,
            ResponseCode::NXDomain,
            ResponseCode::Refused
        ]
    );
    program.stack.tcp_finish(program.flow, rig.now);
    program.exchange(&mut rig);
    assert!(
        program
            .events
            .iter()
            .any(|event| matches!(event, netstack::Event::TcpPeerFinished { .. })),
        "{:?}",
        program.events
    );
}

#[test]
fn a_question_in_pieces() {
    let mut rig = rig();
    let mut program = Program::connect(&mut rig, 53);
    for byte in stream::framed(&question("web", RecordType::A)) {
        assert_eq!(program.stack.tcp_send(program.flow, &[byte], rig.now), 1);
        program.exchange(&mut rig);
    }
    assert_eq!(program.answers(&rig).len(), 1);
}

#[test]
fn many_questions_at_once_over_one_connection() {
    let mut rig = rig();
    let mut program = Program::connect(&mut rig, 53);
    program.ask(&mut rig, &["web"; 200]);
    assert_eq!(program.answers(&rig).len(), 200);
}

#[test]
fn an_idle_connection_is_closed() {
    let mut rig = rig();
    let mut program = Program::connect(&mut rig, 53);
    rig.run(10_500);
    program.exchange(&mut rig);
    assert!(
        program
            .events
            .iter()
            .any(|event| matches!(event, netstack::Event::TcpPeerFinished { .. })),
        "{:?}",
        program.events
    );
}

#[test]
fn another_port_is_refused() {
    let mut rig = rig();
    let program = Program::connect(&mut rig, 80);
    assert!(
        program
            .events
            .iter()
            .any(|event| matches!(event, netstack::Event::TcpReset { .. })),
        "{:?}",
        program.events
    );
}

/// The cluster's 10.96.0.0/12 appears as 100.64.0.0/12; 10.96.0.1 is the API server's and stays outside.
fn mapped() -> Rig {
    let mapping = Mapping::new(
        "10.96.0.0/12".parse().unwrap(),
        "100.64.0.0/12".parse().unwrap(),
    );
    let shown = vec!["100.64.0.0/12".parse().unwrap()];
    let mut config = config();
    config.netmap = Netmap::new(
        mapping.into_iter().collect(),
        vec!["10.96.0.1/32".parse().unwrap()],
    );
    config.names.reverse.clone_from(&shown);
    config.names.own_domain = Some("b.kvpn.internal".to_owned());
    config.ranges = shown;
    config.host_routes = false;
    let mut rig = Rig::new(config);
    rig.zone.add_a("web.orders.svc.cluster.local", "10.96.0.7");
    rig
}

#[test]
fn addresses_of_a_mapped_range_are_answered_as_virtual_ones() {
    let mut rig = mapped();
    let zone = &mut rig.zone;
    zone.add_a("all.default.svc.cluster.local", "10.96.0.1");
    zone.add_a("all.default.svc.cluster.local", "100.64.0.9");
    zone.add_a("all.default.svc.cluster.local", "192.0.2.1");
    let mut addresses = |name: &str| -> Vec<IpAddr> {
        let answer = rig.ask(name, RecordType::A).unwrap();
        let records = answer.answers.iter();
        records.filter_map(|record| record.data.ip_addr()).collect()
    };
    assert_eq!(addresses("web"), [ip("100.64.0.7")]);
    assert_eq!(
        addresses("all.default"),
        [ip("10.96.0.1"), ip("192.0.2.1")],
        "what is outside stays; an address behind the virtual range cannot be reached"
    );
}

#[test]
fn a_virtual_address_has_the_real_ones_name() {
    let mut rig = mapped();
    let web = absolute("web.orders.svc.cluster.local");
    rig.zone
        .add("7.0.96.10.in-addr.arpa", RData::PTR(PTR(web.clone())));
    let asked = "7.0.64.100.in-addr.arpa";
    let answer = rig.ask(asked, RecordType::PTR).unwrap();
    assert_eq!(answer.answers[0].name, absolute(asked));
    assert_eq!(answer.answers[0].data, RData::PTR(PTR(web)));
    let real = rig.ask("7.0.96.10.in-addr.arpa", RecordType::PTR).unwrap();
    assert_eq!(
        code(&real),
        ResponseCode::Refused,
        "the other session's to say"
    );
}

#[test]
fn what_an_answer_leads_on_to_stays_with_its_cluster() {
    let mut rig = mapped();
    let target = absolute("db-0.db.orders.svc.cluster.local");
    rig.zone.add(
        "_pg._tcp.db.orders.svc.cluster.local",
        RData::SRV(SRV::new(0, 1, 5432, target.clone())),
    );
    rig.zone.add(
        "alias.orders.svc.cluster.local",
        RData::CNAME(CNAME(target.clone())),
    );
    let own = absolute("db-0.db.orders.svc.cluster.local.b.kvpn.internal");
    let answer = rig.ask("_pg._tcp.db.b.kvpn.internal", RecordType::SRV);
    let RData::SRV(service) = &answer.unwrap().answers[0].data else {
        panic!("no SRV")
    };
    assert_eq!(service.target, own);
    let answer = rig.ask("alias.b.kvpn.internal", RecordType::CNAME).unwrap();
    assert_eq!(answer.answers[0].name, absolute("alias.b.kvpn.internal"));
    assert_eq!(answer.answers[0].data, RData::CNAME(CNAME(own)));
    let answer = rig.ask("alias.orders", RecordType::CNAME);
    let foreign = answer.map(|answer| answer.answers[0].data.clone());
    assert_eq!(
        foreign,
        Some(RData::CNAME(CNAME(target))),
        "as the cluster says it, where it was asked so"
    );
}
