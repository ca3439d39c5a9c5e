//! A session's own echo requests to the gateway's end of the tunnel, by which its paths are judged.

use std::net::IpAddr;
use std::time::Instant;

use kvpn_wire::control::TunnelAddresses;
use kvpn_wire::packet::{IcmpMessage, Ip, build};
use kvpn_wire::pmtud;

use super::Session;
use crate::event::Path;

/// A probe on `api` as an IPv6 packet: headers, what tells it from a program's ping, and the limit.
const MIN_PROBE: usize = 64;

/// What tells a probe's answer from a program's ping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    pub(super) ident: u16,
    pub(super) magic: [u8; 8],
}

impl Session {
    /// The sequence number of the probe that `packet` answers.
    pub(super) fn probe_answer(&self, packet: &[u8]) -> Option<u16> {
        let ip = Ip::parse(packet).ok()?;
        let IcmpMessage::EchoReply {
            ident,
            sequence,
            payload,
        } = ip.icmp()?.message()
        else {
            return None;
        };
        let ours = ident == self.probe.ident && payload.starts_with(&self.probe.magic);
        let between_ends = self
            .addresses
            .iter()
            .any(|ends| ends.gateway == ip.src() && self.prober(ends) == ip.dst());
        (ours && between_ends).then_some(sequence)
    }

    /// A round trip: an echo request to the gateway's end. Without a session the handshake is one.
    pub(super) fn make_probe(&mut self, path: Path, sequence: u16, size: usize, now: Instant) {
        let has_session = self.tunnel.has_session(now);
        if let Some(ends) = self.addresses.first().filter(|_| has_session).copied()
            && let Some(packet) = self.probe_packet(&ends, path, sequence, size)
        {
            self.seal_to(path, &packet, now);
        }
    }

    /// Where probes come from. A gateway that believes what they say of the MTU takes it from the stub's address only, which no
    /// program can send from.
    fn prober(&self, ends: &TunnelAddresses) -> IpAddr {
        if self.path_mtu {
            ends.dns_stub
        } else {
            ends.client
        }
    }

    fn probe_packet(
        &self,
        ends: &TunnelAddresses,
        path: Path,
        sequence: u16,
        size: usize,
    ) -> Option<Vec<u8>> {
        let len = size.max(MIN_PROBE);
        let headers = if ends.client.is_ipv4() { 28 } else { 48 };
        let mut payload = self.probe.magic.to_vec();
        payload.resize(len.saturating_sub(headers).max(pmtud::MIN_PAYLOAD), 0);
        // Of the path that it goes on: the gateway sends where it was last heard.
        let limit = self.paths.limit_of(path).unwrap_or(self.limit);
        pmtud::write_limit(&mut payload, limit);
        let mut packet = vec![0; headers + payload.len()];
        let ident = self.probe.ident;
        build::icmp_echo_request(
            self.prober(ends),
            ends.gateway,
            ident,
            sequence,
            &payload,
            &mut packet,
        )?;
        Some(packet)
    }
}
