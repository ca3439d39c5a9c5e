//! What a refused packet is answered with. Rate limits are the caller's business.

use kvpn_wire::packet::build::{self, Unreachable};
use kvpn_wire::packet::{Ip, Protocol};

use crate::event::Refusal;
use crate::outbox::Outbox;

/// The longest answer, in bytes: an ICMPv6 error (RFC 4443 section 3.1).
const MAX_ANSWER: usize = 1280;

impl Outbox {
    /// Sends the RST that answers a TCP segment; none to a RST.
    pub(crate) fn reset(&mut self, segment: &[u8]) {
        self.push_with(MAX_ANSWER, |buf| {
            build::tcp_reset(segment, buf).unwrap_or(0)
        });
    }

    /// Sends what the sender of `original` (a packet or the head of one) gets to see of `refusal`. It comes from the address
    /// that was meant, because the stack has none of its own.
    pub(crate) fn refuse(&mut self, original: &[u8], refusal: Refusal) {
        let Ok(ip) = Ip::parse_quoted(original) else {
            return;
        };
        let reason = match (refusal, ip.protocol()) {
            (Refusal::Reset, Protocol::Tcp) => return self.reset(original),
            (Refusal::Reset, Protocol::Icmpv4 | Protocol::Icmpv6) | (Refusal::Silent, _) => return,
            (Refusal::Reset, Protocol::Udp | Protocol::Other(_))
            | (Refusal::PortUnreachable, _) => Unreachable::Port,
            (Refusal::HostUnreachable, _) => Unreachable::Host,
            (Refusal::NetUnreachable, _) => Unreachable::Net,
            (Refusal::Prohibited, _) => Unreachable::Prohibited,
        };
        self.push_with(MAX_ANSWER, |buf| {
            build::icmp_unreachable(reason, ip.dst(), original, buf).unwrap_or(0)
        });
    }
}
