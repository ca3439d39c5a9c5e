//! Rewriting of answers: the name that was asked put back, TTLs capped, sizes kept. Messages in, messages out.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record};

/// Longest time in seconds for which anyone may remember an answer: the cluster changes quickly.
const MAX_TTL: u32 = 5;

/// Largest answer over UDP in bytes, whatever the program offers (DNS flag day 2020): fits the tunnel's MTU in one packet.
pub(super) const MAX_UDP: u16 = 1232;

/// Smallest answer that any program takes over UDP, in bytes (RFC 1035 section 4.2.1).
const MIN_UDP: u16 = 512;

/// What has to be remembered of a question in order to answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    id: u16,
    recursion_desired: bool,
    pub(super) query: Query,
    /// The UDP payload size that the program offered by EDNS (RFC 6891), if it speaks EDNS.
    edns: Option<u16>,
}

/// Why a message is not a question that can be looked up; each is answered with the code given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Not a DNS question at all: no answer.
    Silent,
    /// Answer with this.
    Answer(Vec<u8>),
}

impl Question {
    /// A question of the shell's own.
    pub(super) fn own(query: Query) -> Self {
        Self {
            id: 0,
            recursion_desired: true,
            query,
            edns: Some(MAX_UDP),
        }
    }

    /// Reads a program's message.
    pub(super) fn parse(message: &[u8]) -> Result<Self, Unusable> {
        let Ok(message) = Message::from_vec(message) else {
            return Err(unparsable(message));
        };
        if message.metadata.message_type != MessageType::Query {
            return Err(Unusable::Silent);
        }
        let question = Self {
            id: message.metadata.id,
            recursion_desired: message.metadata.recursion_desired,
            query: message.queries.first().cloned().unwrap_or_default(),
            edns: message.edns.as_ref().map(Edns::max_payload),
        };
        let code = if message.metadata.op_code != OpCode::Query {
            ResponseCode::NotImp
        } else if message.queries.len() != 1 {
            ResponseCode::FormErr
        } else if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            ResponseCode::BADVERS
        } else {
            return Ok(question);
        };
        let mut answer = question.failure(code);
        answer.metadata.op_code = message.metadata.op_code;
        Err(encode(&answer).map_or(Unusable::Silent, Unusable::Answer))
    }

    /// An answer without records.
    pub(super) fn failure(&self, code: ResponseCode) -> Message {
        let mut answer = Message::response(self.id, OpCode::Query);
        answer.metadata.response_code = code;
        answer.queries.push(self.query.clone());
        self.finish(answer)
    }

    /// The cluster's answer to `sent` as the answer to this question.
    pub(super) fn restore(&self, mut answer: Message, sent: &Name) -> Message {
        answer.queries = vec![self.query.clone()];
        let sections = [
            &mut answer.answers,
            &mut answer.authorities,
            &mut answer.additionals,
        ];
        for record in sections.into_iter().flatten() {
            if record.name == *sent {
                record.name = self.query.name.clone();
            }
            cap_ttl(record);
        }
        self.finish(answer)
    }

    fn finish(&self, mut answer: Message) -> Message {
        answer.metadata.id = self.id;
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.recursion_desired = self.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.authentic_data = false;
        answer.edns = self.edns.map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP);
            edns
        });
        answer.signature = None;
        answer
    }

    /// `answer` as bytes for UDP: within what the program takes, else cut to its header with the TC bit (RFC 2181 section 9).
    pub(super) fn encode_udp(&self, answer: &Message) -> Option<Vec<u8>> {
        let limit = self.edns.unwrap_or(MIN_UDP).clamp(MIN_UDP, MAX_UDP);
        let bytes = encode(answer)?;
        if bytes.len() <= limit.into() {
            return Some(bytes);
        }
        encode(&answer.truncate())
    }
}

/// A message as bytes; none when it holds what DNS cannot carry.
pub(super) fn encode(message: &Message) -> Option<Vec<u8>> {
    message
        .to_vec()
        .ok()
        .filter(|bytes| bytes.len() <= usize::from(u16::MAX))
}

/// The question to the cluster for the absolute `name`. `id` is what the answer has to bear.
pub(super) fn query(id: u16, query: Query) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(query);
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP);
    message.edns = Some(edns);
    encode(&message)
}

/// The addresses that a program may connect to after it read `answer`.
pub(super) fn addresses(answer: &Message) -> impl Iterator<Item = IpAddr> {
    answer
        .answers
        .iter()
        .chain(&answer.additionals)
        .filter_map(|record| record.data.ip_addr())
}

fn cap_ttl(record: &mut Record) {
    record.ttl = record.ttl.min(MAX_TTL);
    if let RData::SOA(soa) = &mut record.data {
        soa.minimum = soa.minimum.min(MAX_TTL);
    }
}

/// FORMERR to whatever at least has a header and is a query (RFC 1035 section 4.1.1).
fn unparsable(message: &[u8]) -> Unusable {
    let Some(&[id_high, id_low, flags, _]) =
        message.first_chunk::<4>().filter(|_| message.len() >= 12)
    else {
        return Unusable::Silent;
    };
    if flags & 0x80 != 0 {
        return Unusable::Silent;
    }
    let answer = Message::error_msg(
        u16::from_be_bytes([id_high, id_low]),
        OpCode::Query,
        ResponseCode::FormErr,
    );
    encode(&answer).map_or(Unusable::Silent, Unusable::Answer)
}

#[cfg(test)]
mod tests;
