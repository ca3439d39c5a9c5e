//! Questions and answers about addresses that appear in virtual ranges. Messages in, messages out.

use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record};

use crate::netmap::Netmap;

/// The reverse name of a virtual address as that of the real one; any other name as it is.
pub(super) fn question(asked: Name, netmap: &Netmap) -> Name {
    if netmap.is_empty() {
        return asked;
    }
    let net = asked.parse_arpa_name().ok();
    let single = net.filter(|net| net.prefix_len() == net.max_prefix_len());
    match single.and_then(|net| netmap.real(net.addr())) {
        Some(real) => Name::from(real),
        None => asked,
    }
}

/// Puts virtual addresses in place of those that they stand for. Addresses in whose place programs see others are left out.
pub(super) fn answer(message: &mut Message, netmap: &Netmap) {
    if netmap.is_empty() {
        return;
    }
    for section in [&mut message.answers, &mut message.additionals] {
        section.retain_mut(|record| is_reachable(record, netmap));
    }
}

fn is_reachable(record: &mut Record, netmap: &Netmap) -> bool {
    let Some(real) = record.data.ip_addr() else {
        return true;
    };
    let Some(shown) = netmap.answered(real) else {
        return false;
    };
    record.data = match shown {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    };
    true
}
