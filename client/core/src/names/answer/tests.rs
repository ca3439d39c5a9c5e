//! What a program gets to see of the cluster's answers.

use super::*;

use std::net::Ipv4Addr;

use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::{A, CNAME, SOA, SRV};
use proptest::prelude::*;

fn name(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name
}

/// A program's message.
fn asked(asked: &str, record_type: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(name(asked), record_type));
    message.edns = edns.map(|size| {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        edns
    });
    message.to_vec().unwrap()
}

fn cluster_answer(records: Vec<Record>) -> Message {
    let mut message = Message::response(999, OpCode::Query);
    message.metadata.authoritative = true;
    message.answers = records;
    message
}

fn a(owner: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(Ipv4Addr::new(10, 96, 0, 7))))
}

#[test]
fn the_name_asked_comes_back_with_its_case() {
    let question = Question::parse(&asked("WeB.Default", RecordType::A, None)).unwrap();
    let answer = question.restore(
        cluster_answer(vec![a("web.default.svc.cluster.local", 30)]),
        &name("WeB.Default.svc.cluster.local"),
    );
    let bytes = question.encode_udp(&answer).unwrap();
    let read = Message::from_vec(&bytes).unwrap();
    assert_eq!(read.metadata.id, 7);
    assert!(read.metadata.recursion_available && read.metadata.recursion_desired);
    assert!(read.queries[0].name.eq_case(&name("WeB.Default")));
    assert!(read.answers[0].name.eq_case(&name("WeB.Default")));
    assert_eq!(read.answers[0].ttl, 5);
    assert!(read.edns.is_none());
}

#[test]
fn only_the_first_owner_of_a_chain_changes() {
    let question = Question::parse(&asked("ext.default", RecordType::A, Some(4096))).unwrap();
    let sent = name("ext.default.svc.cluster.local");
    let chain = vec![
        Record::from_rdata(
            sent.clone(),
            30,
            RData::CNAME(CNAME(name("cdn.example.com"))),
        ),
        a("cdn.example.com", 2),
    ];
    let answer = question.restore(cluster_answer(chain), &sent);
    assert_eq!(answer.answers[0].name, name("ext.default"));
    assert_eq!(answer.answers[1].name, name("cdn.example.com"));
    assert_eq!(answer.answers[1].ttl, 2, "a shorter TTL stays");
    assert!(answer.edns.is_some());
}

#[test]
fn additional_records_of_the_name_asked_change_too() {
    let question = Question::parse(&asked("web.default", RecordType::SRV, None)).unwrap();
    let sent = name("web.default.svc.cluster.local");
    let srv = SRV::new(0, 100, 80, name("10-1-2-3.web.default.svc.cluster.local"));
    let mut message = cluster_answer(vec![Record::from_rdata(sent.clone(), 30, RData::SRV(srv))]);
    message.additionals = vec![
        a("10-1-2-3.web.default.svc.cluster.local", 30),
        a("web.default.svc.cluster.local", 30),
    ];
    let answer = question.restore(message, &sent);
    assert_eq!(answer.answers[0].name, name("web.default"));
    assert_eq!(
        answer.additionals[0].name,
        name("10-1-2-3.web.default.svc.cluster.local")
    );
    assert_eq!(answer.additionals[1].name, name("web.default"));
    assert_eq!(addresses(&answer).count(), 2);
}

#[test]
fn negative_answers_are_forgotten_soon() {
    let question = Question::parse(&asked("no.default", RecordType::A, None)).unwrap();
    let mut message = cluster_answer(Vec::new());
    message.metadata.response_code = ResponseCode::NXDomain;
    let soa = SOA::new(
        name("ns.dns.cluster.local"),
        name("hostmaster.cluster.local"),
        1,
        7200,
        1800,
        86400,
        30,
    );
    message.authorities = vec![Record::from_rdata(
        name("cluster.local"),
        30,
        RData::SOA(soa),
    )];
    let answer = question.restore(message, &name("no.default.svc.cluster.local"));
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let RData::SOA(soa) = &answer.authorities[0].data else {
        panic!("no SOA")
    };
    assert_eq!((answer.authorities[0].ttl, soa.minimum), (5, 5));
}

#[test]
fn a_long_answer_is_cut_for_those_who_take_little() {
    let records = |n: u8| {
        (0..n)
            .map(|_| a("web.default.svc.cluster.local", 1))
            .collect::<Vec<_>>()
    };
    let sent = name("web.default.svc.cluster.local");
    let size = |edns: Option<u16>, n: u8| {
        let question = Question::parse(&asked("web.default", RecordType::A, edns)).unwrap();
        let bytes = question
            .encode_udp(&question.restore(cluster_answer(records(n)), &sent))
            .unwrap();
        let read = Message::from_vec(&bytes).unwrap();
        (bytes.len(), read.metadata.truncation, read.answers.len())
    };
    let (len, cut, answers) = size(None, 60);
    assert!(len < 512 && cut && answers == 0);
    let (len, cut, answers) = size(Some(4096), 60);
    assert!(len <= 1232 && !cut && answers == 60);
    let (len, cut, _) = size(Some(4096), 120);
    assert!(len <= 1232 && cut);
}

#[test]
fn what_is_no_question_is_answered_as_such() {
    let code = |bytes: &[u8]| match Question::parse(bytes) {
        Err(Unusable::Answer(answer)) => {
            Some(Message::from_vec(&answer).unwrap().metadata.response_code)
        }
        Err(Unusable::Silent) | Ok(_) => None,
    };
    let mut update = asked("web", RecordType::A, None);
    update[2] |= 5 << 3;
    assert_eq!(code(&update), Some(ResponseCode::NotImp));
    let mut two = Message::new(1, MessageType::Query, OpCode::Query);
    two.queries = vec![
        Query::query(name("a"), RecordType::A),
        Query::query(name("b"), RecordType::A),
    ];
    assert_eq!(code(&two.to_vec().unwrap()), Some(ResponseCode::FormErr));
    let mut cut = asked("web", RecordType::A, None);
    cut.truncate(14);
    assert_eq!(code(&cut), Some(ResponseCode::FormErr));
    let mut response = asked("web", RecordType::A, None);
    response[2] |= 0x80;
    assert_eq!(Question::parse(&response), Err(Unusable::Silent));
    assert_eq!(Question::parse(&[1, 2, 3]), Err(Unusable::Silent));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Question::parse(&bytes);
    }

    #[test]
    fn no_changed_question_makes_it_panic(at in 0usize..40, to in any::<u8>()) {
        let mut bytes = asked("web.default", RecordType::A, Some(1232));
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(question) = Question::parse(&bytes) {
            let failure = question.failure(ResponseCode::ServFail);
            prop_assert!(question.encode_udp(&failure).is_some());
        }
    }
}
