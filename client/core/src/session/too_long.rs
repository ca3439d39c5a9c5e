//! Packets that are too long for the UDP path in use, as a router treats them: cut where that is allowed, else refused with word
//! to the program's kernel. It must not know how a path's limit is found.

use std::time::Instant;

use kvpn_wire::packet::{Fragments, Ip, MIN_IPV6_MTU, Version, build};
use kvpn_wire::pmtud;
use kvpn_wire::queue::PacketQueue;

use super::Session;
use crate::event::Path;

/// Refusals that wait for the TUN; more are not made, as of any ICMP error (RFC 1812, section 4.3.2.8).
const MAX_REFUSALS: usize = 16;
/// The longest refusal in bytes (RFC 4443, section 2.4).
const MAX_REFUSAL: usize = MIN_IPV6_MTU;

impl Session {
    /// What tells a program's kernel that a packet was too long.
    pub(crate) fn poll_refusal(&mut self) -> Option<&[u8]> {
        self.refusals.take_if(|refusals| refusals.is_empty());
        self.refusals.as_mut()?.pop().map(|((), packet)| packet)
    }

    /// A compare, for every packet.
    pub(super) fn is_too_long(&self, path: Path, len: usize) -> bool {
        len > self.limit && path != Path::Api
    }

    /// Whether `packet`, the longest of several, has to be refused on the path in use.
    pub(super) fn refuses(&self, packet: &[u8], longest: usize) -> bool {
        longest > self.limit
            && (self.working_path()).is_some_and(|path| self.is_too_long(path, packet.len()))
            && Fragments::new(packet, self.limit, 0).is_none()
    }

    pub(super) fn send_too_long(&mut self, path: Path, packet: &[u8], now: Instant) {
        self.fragment_id = self.fragment_id.wrapping_add(1);
        let Some(mut fragments) = Fragments::new(packet, self.limit, self.fragment_id) else {
            return self.refuse(packet);
        };
        let mut fragment = [0; pmtud::MAX];
        while let Some(n) = fragments.next(&mut fragment) {
            if self.seal_to(path, &fragment[..n], now) {
                self.paths.data_sent(now);
            }
        }
    }

    pub(super) fn refuse(&mut self, packet: &[u8]) {
        *self.drops.entry("too_long").or_default() += 1;
        let Ok(ip) = Ip::parse(packet) else { return };
        let mut gateways = self.addresses.iter().map(|ends| ends.gateway);
        let Some(gateway) = gateways.find(|gateway| gateway.is_ipv4() == ip.src().is_ipv4()) else {
            return;
        };
        let limit = match ip.version() {
            Version::V4 => self.limit,
            Version::V6 => self.limit.max(MIN_IPV6_MTU),
        };
        let mtu = u16::try_from(limit).unwrap_or(u16::MAX);
        self.refusals
            .get_or_insert_with(|| PacketQueue::new(MAX_REFUSALS, MAX_REFUSALS * MAX_REFUSAL))
            .push_with((), MAX_REFUSAL, |out| {
                build::icmp_packet_too_big(mtu, gateway, packet, out).unwrap_or(0)
            });
    }
}
