//! Cluster names for programs: every question that reaches the stub is answered from here.
//!
//! [`stub`] takes questions and gives answers, [`expand`] says what a name means, [`forward`] asks the cluster,
//! [`answer`] rewrites, [`hold`] lets an answer wait for its routes. This file only leads a question through them. It
//! must not know which path packets take.

mod answer;
mod expand;
mod forward;
mod hold;
mod mapped;
mod stream;
mod stub;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use ipnetwork::IpNetwork;
use kvpn_netstack::{Event as FlowEvent, Netstack};
use kvpn_wire::control::TunnelAddresses;
use kvpn_wire::packet::Ip;

use self::answer::{Question, Unusable};
use self::expand::{Meaning, Scope};
use self::forward::Forwarder;
use self::hold::Hold;
use self::stub::{Asker, Stub};
use crate::config::{Config, Names};
use crate::event::{Event, QueryType, Resolution};
use crate::netmap::Netmap;

const DNS_PORT: u16 = 53;

/// How many foreign questions may be with the shell at once.
const MAX_UPSTREAM: usize = 1024;

/// A foreign question that the shell did not answer by then fails.
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(5);

/// All of a session's names.
#[derive(Debug)]
pub(crate) struct Resolver {
    scope: Scope,
    netmap: Netmap,
    split: bool,
    stub: Stub,
    forwarder: Forwarder,
    /// With the cluster.
    asked: BTreeMap<u64, Asked>,
    /// With the shell.
    upstream: BTreeMap<u64, Upstream>,
    hold: Hold<Ready>,
    events: VecDeque<Event>,
    next_id: u64,
}

/// A question that the cluster was asked.
#[derive(Debug)]
struct Asked {
    asker: Asker,
    question: Question,
    sent: Name,
    /// The cluster's NXDOMAIN for AAAA, while it is asked whether the name has an A record.
    denied: Option<Message>,
}

#[derive(Debug)]
struct Upstream {
    asker: Asker,
    question: Question,
    deadline: Instant,
}

/// An answer that is complete.
#[derive(Debug)]
struct Ready {
    asker: Asker,
    question: Question,
    answer: Message,
}

impl Resolver {
    pub(crate) fn new(config: &Config, seed: u64, now: Instant) -> Self {
        let grant = &config.grant;
        let stubs = grant
            .addresses
            .iter()
            .map(|addresses| addresses.dns_stub)
            .collect();
        Self {
            scope: Scope::new(&config.names),
            netmap: config.netmap.clone(),
            split: config.split_dns,
            stub: Stub::new(stubs, grant.mtu.into(), seed, now),
            forwarder: Forwarder::new(first(&grant.addresses).as_ref(), seed),
            asked: BTreeMap::new(),
            upstream: BTreeMap::new(),
            hold: Hold::new(config.host_routes, config.ranges.clone()),
            events: VecDeque::new(),
            next_id: 0,
        }
    }

    /// The session has other addresses from now on.
    pub(crate) fn move_to(
        &mut self,
        addresses: &[TunnelAddresses],
        stack: &mut Netstack,
        now: Instant,
    ) {
        self.stub.move_to(
            addresses
                .iter()
                .map(|addresses| addresses.dns_stub)
                .collect(),
        );
        self.forwarder
            .move_to(first(addresses).as_ref(), stack, now);
        self.hold.forget_routes();
    }

    pub(crate) fn set_names(&mut self, names: &Names) {
        self.scope = Scope::new(names);
    }

    pub(crate) fn set_ranges(&mut self, ranges: Vec<IpNetwork>, netmap: Netmap) {
        self.hold.set_ranges(ranges);
        self.netmap = netmap;
    }

    /// Whether packets to `address` are for the stub.
    pub(crate) fn serves(&self, address: IpAddr) -> bool {
        self.stub.serves(address)
    }

    /// A program's packet to the stub.
    pub(crate) fn handle_packet(&mut self, ip: &Ip<'_>, now: Instant) {
        self.stub.handle_packet(ip, now);
        self.handle_questions(now);
    }

    /// Whether a UDP packet out of the tunnel is for [`Self::handle_message`].
    pub(crate) fn expects(&self, src: SocketAddr, dst: SocketAddr) -> bool {
        self.forwarder.expects(src, dst)
    }

    /// The cluster's answer over UDP.
    pub(crate) fn handle_message(&mut self, message: &[u8], stack: &mut Netstack, now: Instant) {
        self.forwarder.handle_message(message, stack, now);
        self.handle_answers(now);
    }

    /// News of a flow of the tunnel's stack; false when the flow is not from here.
    pub(crate) fn handle_flow(
        &mut self,
        event: FlowEvent,
        stack: &mut Netstack,
        now: Instant,
    ) -> bool {
        let ours = self.forwarder.handle_flow(event, stack, now);
        self.handle_answers(now);
        ours
    }

    pub(crate) fn handle_timeout(&mut self, stack: &mut Netstack, now: Instant) {
        self.stub.handle_timeout(now);
        self.handle_questions(now);
        self.forwarder.handle_timeout(stack, now);
        self.handle_answers(now);
        while let Some(ready) = self.hold.expired(now) {
            self.deliver(&ready, now);
        }
        let late: Vec<u64> = self
            .upstream
            .iter()
            .filter(|(_, u)| u.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.upstream_answered(id, None, now);
        }
        self.handle_questions(now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let upstream = self
            .upstream
            .values()
            .map(|upstream| (upstream.deadline, "upstream name"))
            .min();
        let timeouts = [
            self.stub.poll_timeout(),
            self.forwarder.poll_timeout(),
            self.hold.poll_timeout(),
            upstream,
        ];
        timeouts.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The next packet to a program.
    pub(crate) fn poll_packet(&mut self) -> Option<&[u8]> {
        self.stub.poll_packet()
    }

    /// The next packet into the tunnel.
    pub(crate) fn poll_query(&mut self) -> Option<&[u8]> {
        self.forwarder.poll_packet()
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Packets to the stub that were no use.
    pub(crate) fn unusable(&self) -> u64 {
        self.stub.unusable
    }

    /// A question of the shell's own; [`Event::Resolved`] with the id follows.
    pub(crate) fn resolve(&mut self, name: &str, query_type: QueryType, now: Instant) -> u64 {
        let id = self.fresh_id();
        let record_type = match query_type {
            QueryType::A => RecordType::A,
            QueryType::Aaaa => RecordType::AAAA,
        };
        match Name::from_ascii(name) {
            Ok(mut name) => {
                name.set_fqdn(true);
                self.handle_question(
                    Asker::Shell(id),
                    Question::own(Query::query(name, record_type)),
                    &[],
                    now,
                );
            }
            Err(_) => self.events.push_back(Event::Resolved {
                id,
                answer: Resolution::NoName,
            }),
        }
        id
    }

    pub(crate) fn host_routes_ready(&mut self, ticket: u64, ok: bool, now: Instant) {
        if let Some(ready) = self.hold.release(ticket, ok) {
            self.deliver(&ready, now);
            self.handle_questions(now);
        }
    }

    pub(crate) fn upstream_answered(&mut self, id: u64, answer: Option<&[u8]>, now: Instant) {
        let Some(Upstream {
            asker, question, ..
        }) = self.upstream.remove(&id)
        else {
            return;
        };
        match (asker, answer) {
            (Asker::Udp { program, stub }, Some(answer)) => {
                self.stub.answer_udp(program, stub, answer)
            }
            (Asker::Tcp(flow), Some(answer)) => self.stub.answer_tcp(flow, Some(answer), now),
            (Asker::Shell(_), _) | (_, None) => {
                self.fail(asker, question, ResponseCode::ServFail, now)
            }
        }
        self.handle_questions(now);
    }

    fn handle_questions(&mut self, now: Instant) {
        while let Some((asker, bytes)) = self.stub.poll_question() {
            match Question::parse(&bytes) {
                Ok(question) => self.handle_question(asker, question, &bytes, now),
                Err(Unusable::Answer(answer)) => self.send(asker, Some(&answer), now),
                Err(Unusable::Silent) => self.send(asker, None, now),
            }
        }
    }

    fn handle_question(&mut self, asker: Asker, question: Question, bytes: &[u8], now: Instant) {
        let query = &question.query;
        if query.query_class != DNSClass::IN {
            return self.fail(asker, question, ResponseCode::Refused, now);
        }
        match self.scope.meaning(&query.name, query.query_type) {
            Meaning::Cluster(sent) => self.ask_cluster(
                Asked {
                    asker,
                    question,
                    sent: mapped::question(sent, &self.netmap),
                    denied: None,
                },
                now,
            ),
            Meaning::Foreign => self.ask_upstream(asker, question, bytes, now),
        }
    }

    fn ask_cluster(&mut self, asked: Asked, now: Instant) {
        let ticket = self.fresh_id();
        let record_type = if asked.denied.is_some() {
            RecordType::A
        } else {
            asked.question.query.query_type
        };
        if self
            .forwarder
            .ask(ticket, Query::query(asked.sent.clone(), record_type), now)
        {
            self.asked.insert(ticket, asked);
        } else {
            self.fail(asked.asker, asked.question, ResponseCode::ServFail, now);
        }
    }

    fn ask_upstream(&mut self, asker: Asker, question: Question, bytes: &[u8], now: Instant) {
        let tcp = match asker {
            Asker::Udp { .. } => false,
            Asker::Tcp(_) => true,
            Asker::Shell(_) => return self.fail(asker, question, ResponseCode::Refused, now),
        };
        if self.split {
            return self.fail(asker, question, ResponseCode::Refused, now);
        }
        if self.upstream.len() >= MAX_UPSTREAM {
            return self.fail(asker, question, ResponseCode::ServFail, now);
        }
        let id = self.fresh_id();
        self.upstream.insert(
            id,
            Upstream {
                asker,
                question,
                deadline: now + UPSTREAM_PATIENCE,
            },
        );
        self.events.push_back(Event::Upstream {
            id,
            query: bytes.to_vec(),
            tcp,
        });
    }

    fn handle_answers(&mut self, now: Instant) {
        while let Some(answered) = self.forwarder.poll_answer() {
            if let Some(asked) = self.asked.remove(&answered.ticket) {
                self.handle_answer(asked, answered.message, now);
            }
        }
        self.handle_questions(now);
    }

    fn handle_answer(&mut self, mut asked: Asked, message: Option<Message>, now: Instant) {
        if let Some(mut denied) = asked.denied.take() {
            // The name exists after all: the server should have said "no such record".
            if message
                .is_some_and(|message| message.metadata.response_code == ResponseCode::NoError)
            {
                denied.metadata.response_code = ResponseCode::NoError;
            }
            return self.answer(asked, denied, now);
        }
        let Some(message) = message else {
            return self.fail(asked.asker, asked.question, ResponseCode::ServFail, now);
        };
        let denies_aaaa = message.metadata.response_code == ResponseCode::NXDomain
            && asked.question.query.query_type == RecordType::AAAA;
        if denies_aaaa {
            asked.denied = Some(message);
            return self.ask_cluster(asked, now);
        }
        self.answer(asked, message, now);
    }

    /// Rewrites the cluster's answer, and delivers it once its addresses are routed.
    fn answer(&mut self, asked: Asked, mut message: Message, now: Instant) {
        mapped::answer(&mut message, &self.netmap);
        let mut answer = asked.question.restore(message, &asked.sent);
        self.scope.own(&mut answer);
        let addresses = self.hold.missing(answer::addresses(&answer));
        let ready = Ready {
            asker: asked.asker,
            question: asked.question,
            answer,
        };
        if addresses.is_empty() {
            return self.deliver(&ready, now);
        }
        let ticket = self.fresh_id();
        self.hold.hold(ticket, addresses.clone(), ready, now);
        self.events
            .push_back(Event::HostRoutes { ticket, addresses });
    }

    fn fail(&mut self, asker: Asker, question: Question, code: ResponseCode, now: Instant) {
        let answer = question.failure(code);
        self.deliver(
            &Ready {
                asker,
                question,
                answer,
            },
            now,
        );
    }

    fn deliver(&mut self, ready: &Ready, now: Instant) {
        match ready.asker {
            Asker::Udp { .. } => self.send(
                ready.asker,
                ready.question.encode_udp(&ready.answer).as_deref(),
                now,
            ),
            Asker::Tcp(_) => self.send(ready.asker, answer::encode(&ready.answer).as_deref(), now),
            Asker::Shell(id) => {
                let answer = resolution(&ready.answer, ready.question.query.query_type);
                self.events.push_back(Event::Resolved { id, answer });
            }
        }
    }

    fn send(&mut self, asker: Asker, message: Option<&[u8]>, now: Instant) {
        match (asker, message) {
            (Asker::Udp { program, stub }, Some(message)) => {
                self.stub.answer_udp(program, stub, message)
            }
            (Asker::Tcp(flow), message) => self.stub.answer_tcp(flow, message, now),
            (Asker::Udp { .. }, None) | (Asker::Shell(_), _) => {}
        }
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// Where the relay is asked; IPv4 when the session has both families.
fn first(addresses: &[TunnelAddresses]) -> Option<TunnelAddresses> {
    addresses
        .iter()
        .min_by_key(|addresses| addresses.client.is_ipv6())
        .copied()
}

fn resolution(answer: &Message, record_type: RecordType) -> Resolution {
    match answer.metadata.response_code {
        ResponseCode::NoError => {
            let records = answer
                .answers
                .iter()
                .filter(|record| record.record_type() == record_type);
            let addresses: Vec<IpAddr> =
                records.filter_map(|record| record.data.ip_addr()).collect();
            if addresses.is_empty() {
                Resolution::NoData
            } else {
                Resolution::Addresses(addresses)
            }
        }
        ResponseCode::NXDomain => Resolution::NoName,
        ResponseCode::Refused => Resolution::Refused,
        _ => Resolution::Failed,
    }
}

#[cfg(test)]
mod tests;
