//! Packets that are too long for the session's UDP path, as a router treats them: cut where that is allowed, else refused with
//! word to their sender. It must not know how the path's limit is found.

use std::time::Instant;

use kvpn_wire::packet::{Fragments, Ip, MIN_IPV6_MTU, Version, build};
use kvpn_wire::pmtud;

use super::Session;
use crate::output::{DropReason, Output};
use crate::path::Path;

impl Session {
    /// The longest inner packet in bytes that its UDP path carries.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The client found how long packets may be on its path.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        if limit == self.limit {
            return;
        }
        tracing::debug!(session = self.id, from = self.limit, to = limit, "path MTU");
        self.limit = limit;
        if let Some(netstack) = &mut self.netstack {
            netstack.set_mtu(limit);
        }
    }

    /// A compare, for every packet.
    pub(super) fn is_too_long(&self, len: usize) -> bool {
        len > self.limit && matches!(self.path, Some(Path::Udp(_)))
    }

    /// Whether `packet` is too long and must not be cut.
    pub(super) fn refuses(&self, packet: &[u8]) -> bool {
        self.is_too_long(packet.len()) && Fragments::new(packet, self.limit, 0).is_none()
    }

    pub(super) fn send_too_long(
        &mut self,
        packet: &[u8],
        output: &mut Output,
        now: Instant,
    ) -> usize {
        self.fragment_id = self.fragment_id.wrapping_add(1);
        let Some(mut fragments) = Fragments::new(packet, self.limit, self.fragment_id) else {
            self.refuse(packet, output, now);
            return 0;
        };
        let mut fragment = [0; pmtud::MAX];
        let mut sent = 0;
        while let Some(length) = fragments.next(&mut fragment) {
            sent += self.seal(&fragment[..length], output, now);
        }
        sent
    }

    /// Says so, not too often, to whoever sent the packet through the kernel. The userspace datapath knows the limit itself:
    /// what it made before it did is lost.
    pub(super) fn refuse(&mut self, packet: &[u8], output: &mut Output, now: Instant) {
        self.count(DropReason::TooLong, output);
        let Ok(ip) = Ip::parse(packet) else { return };
        let gateway = self.block.family(ip.src()).gateway;
        let kernel = output.kernel.forwards(ip.src()) && ip.src() != gateway;
        if !kernel || !self.refusals.take(now) {
            return;
        }
        let limit = match ip.version() {
            Version::V4 => self.limit,
            Version::V6 => self.limit.max(MIN_IPV6_MTU),
        };
        let mtu = u16::try_from(limit).unwrap_or(u16::MAX);
        let mut refusal = [0; MIN_IPV6_MTU];
        if let Some(length) = build::icmp_packet_too_big(mtu, gateway, packet, &mut refusal) {
            output.packets.push(&refusal[..length]);
        }
    }
}
