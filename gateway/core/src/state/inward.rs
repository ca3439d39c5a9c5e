//! From the clients: datagrams authenticated, opened, and their packets sent the way they may go.

use std::time::{Duration, Instant};

use kvpn_netstack::{Config as StackConfig, Netstack};
use kvpn_wire::offload::{Coalescer, Segmentation, Split};
use kvpn_wire::packet::{IcmpMessage, Ip, build};
use kvpn_wire::pmtud;
use kvpn_wire::wireguard::{Admission, Kind, MAX_HANDSHAKE, Opened, classify, initiator};

use super::{GatewayState, outward::clamp_mss};
use crate::config::Limits;
use crate::event::SessionIndex;
use crate::output::DropReason;
use crate::path::Path;
use crate::policy::Forbidden;
use crate::session::MAX_SEGMENT;
use crate::way::{Way, way};

/// The limit on handshakes counts anew this often.
const LIMITER_PERIOD: Duration = Duration::from_secs(1);

impl GatewayState {
    /// Takes a datagram that came on `path`.
    pub fn handle_datagram(&mut self, path: Path, datagram: &[u8], now: Instant) {
        self.handle_datagrams(path, datagram, datagram.len(), now);
    }

    /// Takes datagrams that came on `path` side by side: each of `stride` bytes, the last may be shorter.
    pub fn handle_datagrams(&mut self, path: Path, bytes: &[u8], stride: usize, now: Instant) {
        let mut packets = std::mem::take(&mut self.output.packets);
        for datagram in bytes.chunks(stride.max(1)) {
            match self.addressee(path, datagram, now) {
                Ok(Some(index)) => self.open(index, path, datagram, &mut packets, now),
                Ok(None) => {}
                Err(reason) => {
                    tracing::trace!(reason = reason.name(), "datagram dropped");
                    self.output.totals.drops.count(reason);
                }
            }
        }
        self.output.packets = packets;
    }

    /// The session that a datagram is for; `None` when it was answered already.
    fn addressee(
        &mut self,
        path: Path,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Option<SessionIndex>, DropReason> {
        match classify(datagram).ok_or(DropReason::Malformed)? {
            Kind::Initiation => self.initiating(path, datagram, now),
            Kind::Response { receiver } | Kind::Cookie { receiver } | Kind::Data { receiver } => {
                let index = SessionIndex::of_receiver(receiver);
                self.sessions
                    .contains(index)
                    .then_some(Some(index))
                    .ok_or(DropReason::UnknownSession)
            }
        }
    }

    /// An initiation names its sender only in encrypted form, so it costs something to look at: within limits.
    fn initiating(
        &mut self,
        path: Path,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Option<SessionIndex>, DropReason> {
        if now.saturating_duration_since(self.limiter_reset) >= LIMITER_PERIOD {
            self.limiter.reset();
            self.limiter_reset = now;
        }
        match self
            .limiter
            .admit(datagram, path.source(), &mut self.answer)
        {
            Admission::Pass => {}
            Admission::Challenge(length) => {
                self.output.datagrams.push(path, &self.answer[..length]);
                return Ok(None);
            }
            Admission::Refuse(reason) => return Err(DropReason::Rejected(reason)),
        }
        let key = initiator(&self.private, datagram).ok_or(DropReason::Malformed)?;
        match self.sessions.with_key(&key) {
            Some(index) => Ok(Some(index)),
            None if self.config.shard.count() > 1 => self
                .strangers
                .note(path, key, datagram)
                .map(|()| None)
                .ok_or(DropReason::QueueFull),
            None => Err(DropReason::UnknownSession),
        }
    }

    /// Opens a datagram where its packet will wait for the TUN, if that is the way it goes.
    pub(super) fn open(
        &mut self,
        index: SessionIndex,
        path: Path,
        datagram: &[u8],
        packets: &mut Coalescer,
        now: Instant,
    ) {
        let Some(session) = self.sessions.session_mut(index) else {
            return;
        };
        let Some(space) = packets.space(datagram.len().max(MAX_HANDSHAKE)) else {
            return session.count(DropReason::QueueFull, &mut self.output);
        };
        match session.tunnel.open(datagram, path.source(), space, now) {
            Opened::Packet { len, plaintext } => {
                session.heard(path, &mut self.output, now);
                let segmentation = session.segmentation(path, &space[..plaintext], len);
                if self.handle_inner(index, &mut space[..len], segmentation, now) {
                    packets.commit_super(len, segmentation);
                }
            }
            Opened::Keepalive => session.heard(path, &mut self.output, now),
            Opened::Reply(length) | Opened::Established(length) => {
                self.output.datagrams.push(path, &space[..length]);
                session.heard(path, &mut self.output, now);
            }
            Opened::Challenge(length) => {
                self.output.datagrams.push(path, &space[..length]);
            }
            Opened::Cookie => {}
            Opened::Rejected(reason) => {
                session.count(DropReason::Rejected(reason), &mut self.output)
            }
        }
        self.touch(index);
    }

    /// Takes an inner packet from the session's client; true when it is for the kernel.
    fn handle_inner(
        &mut self,
        index: SessionIndex,
        packet: &mut [u8],
        segmentation: Segmentation,
        now: Instant,
    ) -> bool {
        let Some(session) = self.sessions.session_mut(index) else {
            return false;
        };
        session.received_bytes += packet.len() as u64;
        self.output.totals.received_bytes += packet.len() as u64;
        self.output.totals.received_packets += 1;
        let Ok(ip) = Ip::parse(packet) else {
            session.count(DropReason::Malformed, &mut self.output);
            return false;
        };
        match way(&ip, session.block, &self.policy, self.config.kernel) {
            Way::Dialled if !session.has_dialled(&ip) => {
                self.refuse(index, packet, Forbidden::Tunnel, now);
            }
            Way::Userspace | Way::Dialled => {
                self.to_flows += 1;
                let Some(netstack) = self.netstack(index, now) else {
                    return false;
                };
                if !hand_over(netstack, packet, segmentation, now)
                    && let Some(session) = self.sessions.session_mut(index)
                {
                    session.count(DropReason::Malformed, &mut self.output);
                }
            }
            Way::Kernel => {
                clamp_mss(packet, session.limit());
                return true;
            }
            Way::Echo { ident, sequence } => self.echo(index, &ip, ident, sequence, now),
            Way::Probe { ident, sequence } => self.answer_probe(index, &ip, ident, sequence, now),
            Way::Refused(reason) => self.refuse(index, packet, reason, now),
            Way::Dropped(reason) => session.count(reason, &mut self.output),
        }
        false
    }

    /// The session's userspace datapath, made if there is none; `None` without the session.
    pub(super) fn netstack(&mut self, index: SessionIndex, now: Instant) -> Option<&mut Netstack> {
        let session = self.sessions.session_mut(index)?;
        if session.netstack.is_none() {
            let (mtu, seed) = (session.limit(), session.netstack_seed);
            session.netstack = Some(new_netstack(&self.config.limits, mtu, seed, now));
            self.share_memory();
        }
        self.sessions.session_mut(index)?.netstack.as_deref_mut()
    }

    /// Answers a probe of the client's, as long as it came, and takes note of the limit in it.
    fn answer_probe(
        &mut self,
        index: SessionIndex,
        ip: &Ip<'_>,
        ident: u16,
        sequence: u16,
        now: Instant,
    ) {
        let (Some(IcmpMessage::EchoRequest { payload, .. }), Some(session)) = (
            ip.icmp().map(|icmp| icmp.message()),
            self.sessions.session_mut(index),
        ) else {
            return;
        };
        if let Some(limit) = pmtud::read_limit(payload) {
            session.set_limit(limit);
        }
        let (src, dst) = (ip.dst(), ip.src());
        let answer = &mut self.answer;
        if let Some(n) = build::icmp_echo_reply(src, dst, ident, sequence, payload, answer) {
            session.seal(&answer[..n], &mut self.output, now);
        }
        self.touch(index);
    }

    /// Answers an echo request to the gateway's tunnel address: a program's, or an older client's probe of the path.
    fn echo(&mut self, index: SessionIndex, ip: &Ip<'_>, ident: u16, sequence: u16, now: Instant) {
        let Some(IcmpMessage::EchoRequest { payload, .. }) = ip.icmp().map(|icmp| icmp.message())
        else {
            return;
        };
        let mut answer = std::mem::take(&mut self.answer);
        let length =
            build::icmp_echo_reply(ip.dst(), ip.src(), ident, sequence, payload, &mut answer);
        if let Some(length) = length {
            self.send(index, &answer[..length], Segmentation::Whole, now);
        }
        self.answer = answer;
    }

    /// Counts a packet to what policy forbids, and says so to the client, not too often.
    fn refuse(&mut self, index: SessionIndex, packet: &[u8], reason: Forbidden, now: Instant) {
        let Some(session) = self.sessions.session_mut(index) else {
            return;
        };
        session.count(DropReason::Forbidden(reason), &mut self.output);
        if !session.refusals.take(now) {
            return;
        }
        let Ok(ip) = Ip::parse(packet) else { return };
        let gateway = session.block.family(ip.src()).gateway;
        let mut answer = std::mem::take(&mut self.answer);
        if let Some(length) =
            build::icmp_unreachable(build::Unreachable::Prohibited, gateway, packet, &mut answer)
        {
            self.send(index, &answer[..length], Segmentation::Whole, now);
        }
        self.answer = answer;
    }
}

/// Gives a packet to the userspace datapath, which knows super-packets of TCP; false when it is not what it is said to be.
fn hand_over(
    netstack: &mut Netstack,
    packet: &[u8],
    segmentation: Segmentation,
    now: Instant,
) -> bool {
    let Ok(mut packets) = Split::new(packet, segmentation) else {
        return false;
    };
    match segmentation {
        Segmentation::Whole => netstack.handle_packet(packet, now),
        Segmentation::Tcp { .. } => netstack.handle_super_packet(packet, now),
        Segmentation::Udp { .. } => {}
    }
    if !matches!(segmentation, Segmentation::Udp { .. }) {
        return true;
    }
    let mut segment = [0; MAX_SEGMENT];
    while let Some(len) = packets.next(&mut segment) {
        netstack.handle_packet(&segment[..len], now);
    }
    true
}

fn new_netstack(limits: &Limits, mtu: usize, seed: u64, now: Instant) -> Box<Netstack> {
    let config = StackConfig {
        mtu,
        max_flows: limits.max_flows as usize,
        tcp_buffer: limits.tcp_buffer,
        memory: limits.tcp_memory,
        udp_idle: limits.udp_idle,
        seed,
    };
    Box::new(Netstack::new(config, now))
}
