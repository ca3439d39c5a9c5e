//! One WireGuard session with the gateway: seals, opens, probes its paths. It must not know whose packets it carries.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use kvpn_wire::control::{SessionGrant, TunnelAddresses};
use kvpn_wire::fq_codel::{self, FqCodel};
use kvpn_wire::offload::{MAX_PACKET, Malformed, Segmentation, Split, trailer};
use kvpn_wire::packet::{IcmpMessage, Ip, build};
use kvpn_wire::queue::BatchQueue;
use kvpn_wire::wireguard::{
    MAX_HANDSHAKE, OVERHEAD, Opened, PrivateKey, Sealed, Tunnel, TunnelConfig,
};

use crate::config::Config;
use crate::event::{Event, Path, Transmit};
use crate::kept::Kept;
use crate::paths::{Action, Paths};
use crate::random::Random;
use crate::status::Status;

/// Datagrams that wait for the sockets.
const MAX_TRANSMITS: usize = 1024;
const TRANSMIT_BYTES: usize = 2 * 1024 * 1024;

/// Padding to 16 bytes adds at most this.
const MAX_PADDING: usize = 15;

/// A probe on `api` as an IPv6 packet: headers and what tells it from a program's ping. On UDP a probe is as long as the
/// longest packet, so that a path which loses those is not taken.
const MIN_PROBE: usize = 64;

/// What a carrier takes at present, in bytes: of datagrams, and of one super-packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) bytes: usize,
    pub(crate) piece: usize,
}

/// The session and the paths under it.
#[derive(Debug)]
pub(crate) struct Session {
    tunnel: Tunnel,
    addresses: Vec<TunnelAddresses>,
    /// The longest inner packet in bytes.
    mtu: usize,
    paths: Paths,
    probe: Probe,
    transmits: BatchQueue<Path>,
    /// For what cannot be sealed straight into the queue.
    scratch: Vec<u8>,
    /// Whether the gateway takes super-packets, and so do we.
    super_packets: bool,
    stream_control: bool,
    /// What the stream takes at present; everything until it is said.
    room: Option<Room>,
    /// Programs' packets that wait for room.
    waiting: Option<Box<FqCodel<Segmentation>>>,
    /// Where super-packets are cut into packets, into smaller ones, and where they get their trailer.
    segment: Vec<u8>,
    piece: Vec<u8>,
    plaintext: Vec<u8>,
    /// Packets while no path is known to work; only while there are any.
    kept: Option<Kept>,
    events: VecDeque<Event>,
    random: Random,
    sent_bytes: u64,
    received_bytes: u64,
    /// Datagrams not accepted and packets not sent, by reason.
    drops: BTreeMap<&'static str, u64>,
}

/// What tells a probe's answer from a program's ping.
#[derive(Debug, Clone, Copy)]
struct Probe {
    ident: u16,
    magic: [u8; 8],
}

impl Session {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        let mut random = Random::new(config.seed);
        let grant = &config.grant;
        let ident = random.below(u16::MAX);
        let mut session = Self {
            tunnel: tunnel(
                config.private_key.clone(),
                grant,
                config.index,
                random.next(),
                now,
            ),
            addresses: grant.addresses.clone(),
            mtu: grant.mtu.into(),
            paths: Paths::new(config.carrier, &config.udp_candidates, now),
            probe: Probe {
                ident,
                magic: random.next().to_be_bytes(),
            },
            transmits: BatchQueue::new(MAX_TRANSMITS, TRANSMIT_BYTES),
            scratch: vec![0; scratch_len(grant)],
            super_packets: grant.super_packets,
            stream_control: grant.stream_control,
            room: None,
            waiting: None,
            segment: vec![0; grant.mtu.into()],
            piece: vec![0; MAX_PACKET],
            plaintext: vec![0; trailer::MAX_PLAINTEXT],
            kept: None,
            events: VecDeque::new(),
            random,
            sent_bytes: 0,
            received_bytes: 0,
            drops: BTreeMap::new(),
        };
        session.act(now);
        session
    }

    /// New keys, with the same or another gateway, over the same carriers.
    pub(crate) fn replace(
        &mut self,
        private_key: PrivateKey,
        grant: &SessionGrant,
        index: u32,
        now: Instant,
    ) {
        self.tunnel = tunnel(private_key, grant, index, self.random.next(), now);
        if self.addresses != grant.addresses {
            // Packets with the former addresses are of no use.
            self.kept = None;
        }
        self.addresses.clone_from(&grant.addresses);
        self.mtu = grant.mtu.into();
        self.super_packets = grant.super_packets;
        self.stream_control = grant.stream_control;
        self.scratch.resize(scratch_len(grant), 0);
        self.segment.resize(grant.mtu.into(), 0);
        self.paths.restart(now);
        self.act(now);
    }

    /// The session's tunnel addresses, one entry a family.
    pub(crate) fn addresses(&self) -> &[TunnelAddresses] {
        &self.addresses
    }

    /// Whether `address` is this end of the tunnel.
    pub(crate) fn is_client(&self, address: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|addresses| addresses.client == address)
    }

    /// Whether packets are sealed at once.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        self.tunnel.has_session(now)
    }

    pub(crate) fn path_opened(&mut self, path: Path, now: Instant) {
        self.forget_room(path);
        self.paths.opened(path, now);
        self.act(now);
    }

    pub(crate) fn path_closed(&mut self, path: Path, now: Instant) {
        self.forget_room(path);
        self.paths.closed(path, now);
        self.act(now);
    }

    pub(crate) fn set_candidates(&mut self, candidates: &[SocketAddr], now: Instant) {
        self.paths.set_candidates(candidates, now);
        self.act(now);
    }

    /// Everything is tried again, the keys included: after a sleep the gateway may have forgotten them.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        self.paths.probe_all(now);
        let paths = self.paths.handshake_order();
        self.initiate_on(&paths, now);
        self.act(now);
    }

    /// Seals a packet and queues it for the path in use. While no path is known to work it waits inside.
    pub(crate) fn send(&mut self, packet: &[u8], now: Instant) {
        match self.working_path() {
            Some(path) => self.send_on(path, packet, now),
            None => {
                self.kept.get_or_insert_with(Kept::new).keep(packet);
                self.paths.data_waits(now);
            }
        }
    }

    fn send_on(&mut self, path: Path, packet: &[u8], now: Instant) {
        if self.seal_to(path, packet, now) {
            self.paths.data_sent(now);
        }
        if let Some(room) = self.room.as_mut().filter(|_| path == Path::Api) {
            room.bytes = room
                .bytes
                .saturating_sub(packet.len() + MAX_PADDING + OVERHEAD);
        }
    }

    fn working_path(&self) -> Option<Path> {
        self.paths.current().filter(|_| self.paths.established())
    }

    /// A program's packet, or all that a super-packet stands for. What finds no room on the path waits, and may be lost
    /// so that its flow slows down.
    ///
    /// # Errors
    /// The packet is not what `segmentation` says.
    pub(crate) fn send_or_wait(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        now: Instant,
    ) -> Result<(), Malformed> {
        let piece = self.piece_len();
        if segmentation == Segmentation::Whole || packet.len() <= piece {
            return self.send_piece(packet, segmentation, now);
        }
        let mut pieces = Split::new(packet, segmentation)?;
        let mut buffer = std::mem::take(&mut self.piece);
        let mut sent = Ok(());
        while sent.is_ok()
            && let Some((n, segmentation)) = pieces.next_super(piece, &mut buffer)
        {
            sent = self.send_piece(&buffer[..n], segmentation, now);
        }
        self.piece = buffer;
        sent
    }

    /// The shell's carrier for `path` takes so much at present. Said of `api` only: UDP manages no queue.
    pub(crate) fn path_room(&mut self, path: Path, room: Room, now: Instant) {
        if path == Path::Api {
            self.room = Some(room);
            self.serve(now);
        }
    }

    /// Whether the gateway knows control frames.
    pub(crate) fn stream_control(&self) -> bool {
        self.stream_control
    }

    /// Sends of what waits as much as there is room for.
    pub(crate) fn serve(&mut self, now: Instant) {
        while self.has_room()
            && let Some(mut waiting) = self.waiting.take_if(|waiting| !waiting.is_empty())
        {
            if let Some((packet, segmentation)) = waiting.pop(now)
                && self.send_all(packet, segmentation, now).is_err()
            {
                *self.drops.entry("tun_malformed").or_default() += 1;
            }
            self.waiting = Some(waiting);
        }
    }

    /// Whether more packets may be sealed now.
    pub(crate) fn has_room(&self) -> bool {
        self.transmits.len() < MAX_TRANSMITS / 2 && self.path_left() > 0
    }

    /// Another stream, another room.
    fn forget_room(&mut self, path: Path) {
        if path == Path::Api {
            self.room = None;
        }
    }

    /// Bytes that the path in use takes.
    fn path_left(&self) -> usize {
        match (self.working_path(), self.room) {
            (Some(Path::Api), Some(room)) => room.bytes,
            _ => usize::MAX,
        }
    }

    fn piece_len(&self) -> usize {
        match (self.working_path(), self.room) {
            (Some(Path::Api), Some(room)) => room.piece.clamp(self.mtu, trailer::MAX_SUPER),
            _ => MAX_PACKET,
        }
    }

    fn send_piece(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        now: Instant,
    ) -> Result<(), Malformed> {
        let others_wait = (self.waiting.as_ref()).is_some_and(|waiting| !waiting.is_empty());
        if !others_wait && self.path_left() > 0 {
            return self.send_all(packet, segmentation, now);
        }
        let seed = u64::from(self.probe.ident);
        self.waiting
            .get_or_insert_with(|| Box::new(FqCodel::new(fq_codel::Settings::default(), seed)))
            .push(segmentation, packet, now);
        Ok(())
    }

    /// Seals a packet, or all that a super-packet stands for: as one where the path and the gateway take it.
    fn send_all(
        &mut self,
        packet: &[u8],
        segmentation: Segmentation,
        now: Instant,
    ) -> Result<(), Malformed> {
        if segmentation == Segmentation::Whole {
            self.send(packet, now);
            return Ok(());
        }
        if (self.working_path()).is_some_and(|path| self.takes_super_packets(path))
            && self.send_super(packet, segmentation, now)
        {
            return Ok(());
        }
        let mut packets = Split::new(packet, segmentation)?;
        let mut segment = std::mem::take(&mut self.segment);
        while let Some(n) = packets.next(&mut segment) {
            self.send(&segment[..n], now);
        }
        self.segment = segment;
        Ok(())
    }

    /// Sends a super-packet as one datagram; false when it is too long for that.
    fn send_super(&mut self, packet: &[u8], segmentation: Segmentation, now: Instant) -> bool {
        let mut plaintext = std::mem::take(&mut self.plaintext);
        let n = plaintext
            .get_mut(..packet.len())
            .map(|buffer| buffer.copy_from_slice(packet))
            .and_then(|()| trailer::append(&mut plaintext, packet.len(), segmentation));
        if let Some(n) = n {
            self.send(&plaintext[..n], now);
        }
        self.plaintext = plaintext;
        n.is_some()
    }

    /// Super-packets go over the stream only: a datagram has to fit the path.
    fn takes_super_packets(&self, path: Path) -> bool {
        self.super_packets && path == Path::Api
    }

    /// Opens a datagram into `inbox`; the length of the packet and how it is to be cut, if it held one for somebody else than this
    /// module.
    pub(crate) fn receive(
        &mut self,
        path: Path,
        datagram: &[u8],
        inbox: &mut [u8],
        now: Instant,
    ) -> Option<(usize, Segmentation)> {
        let opened = self.tunnel.open(datagram, source(path), inbox, now);
        match opened {
            Opened::Rejected(reason) => {
                *self.drops.entry(reason.as_str()).or_default() += 1;
                return None;
            }
            Opened::Challenge(n) => {
                self.push(path, &inbox[..n]);
                return None;
            }
            // Not authentic: says nothing about the path.
            Opened::Cookie => return None,
            Opened::Packet { .. }
            | Opened::Keepalive
            | Opened::Reply(_)
            | Opened::Established(_) => {}
        }
        self.received_bytes += u64::try_from(datagram.len()).expect("a length fits");
        self.paths.received(path, now);
        let packet = self.handle_opened(opened, path, inbox, now);
        self.flush(now);
        self.act(now);
        packet
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(waiting) = self.waiting.as_mut().filter(|waiting| waiting.is_empty()) {
            waiting.shrink();
        }
        while let Some(n) = self.tunnel.handle_timeout(&mut self.scratch, now) {
            self.push_own(n);
        }
        self.paths.handle_timeout(now);
        self.act(now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let timeouts = [self.tunnel.poll_timeout(), self.paths.poll_timeout()];
        timeouts.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        let batch = self.transmits.pop()?;
        self.sent_bytes += u64::try_from(batch.bytes.len()).expect("a length fits");
        Some(Transmit {
            path: batch.tag,
            payload: batch.bytes,
            segment: batch.segment,
        })
    }

    pub(crate) fn has_transmits(&self) -> bool {
        !self.transmits.is_empty()
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The session's part of the figures.
    pub(crate) fn status(&self, now: Instant) -> Status {
        let mut drops = self.drops.clone();
        drops.insert("transmit_queue_full", self.transmits.dropped());
        drops.insert("no_session", self.tunnel.dropped());
        if let Some(waiting) = &self.waiting {
            drops.insert("path_queue_full", waiting.counts().overflowed);
            drops.insert("path_congested", waiting.counts().dropped);
        }
        Status {
            path: self.paths.current(),
            established: self.paths.established(),
            handshake_age: self
                .tunnel
                .last_handshake()
                .map(|at| now.saturating_duration_since(at)),
            rtt: self.paths.rtt(),
            sent_bytes: self.sent_bytes,
            received_bytes: self.received_bytes,
            flows: 0,
            drops,
            paths: self.paths.status(now),
        }
    }

    fn handle_opened(
        &mut self,
        opened: Opened,
        path: Path,
        inbox: &[u8],
        now: Instant,
    ) -> Option<(usize, Segmentation)> {
        match opened {
            Opened::Packet { len, plaintext } => match self.probe_answer(&inbox[..len]) {
                Some(sequence) => {
                    self.paths.probe_answered(path, sequence, now);
                    None
                }
                None if self.takes_super_packets(path) => {
                    Some((len, trailer::read(&inbox[..plaintext], len)))
                }
                None => Some((len, Segmentation::Whole)),
            },
            Opened::Established(n) => {
                self.push(path, &inbox[..n]);
                None
            }
            Opened::Reply(n) => {
                self.push(path, &inbox[..n]);
                None
            }
            Opened::Keepalive | Opened::Challenge(_) | Opened::Cookie | Opened::Rejected(_) => None,
        }
    }

    /// The sequence number of the probe that `packet` answers.
    fn probe_answer(&self, packet: &[u8]) -> Option<u16> {
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
            .any(|ends| ends.gateway == ip.src() && ends.client == ip.dst());
        (ours && between_ends).then_some(sequence)
    }

    fn act(&mut self, now: Instant) {
        let mut without_keys = Vec::new();
        while let Some(action) = self.paths.poll_action() {
            match action {
                Action::Probe {
                    path,
                    sequence,
                    fresh,
                } => {
                    if fresh || !self.tunnel.has_session(now) {
                        without_keys.push(path);
                    }
                    self.make_probe(path, sequence, now);
                }
                Action::Tell(event) => {
                    tracing::debug!(?event, "session");
                    self.events.push_back(event);
                }
            }
        }
        self.initiate_on(&without_keys, now);
        self.send_kept(now);
    }

    /// A round trip: an echo request to the gateway's end. Without a session the handshake is one.
    fn make_probe(&mut self, path: Path, sequence: u16, now: Instant) {
        let has_session = self.tunnel.has_session(now);
        if let Some(ends) = self.addresses.first().filter(|_| has_session).copied()
            && let Some(packet) = self.probe_packet(&ends, path, sequence)
        {
            self.seal_to(path, &packet, now);
        }
    }

    fn probe_packet(&self, ends: &TunnelAddresses, path: Path, sequence: u16) -> Option<Vec<u8>> {
        let len = match path {
            Path::Api => MIN_PROBE,
            Path::Udp(_) => self.mtu,
        };
        let headers = if ends.client.is_ipv4() { 28 } else { 48 };
        let mut payload = self.probe.magic.to_vec();
        payload.resize(len.saturating_sub(headers).max(payload.len()), 0);
        let mut packet = vec![0; headers + payload.len()];
        let ident = self.probe.ident;
        build::icmp_echo_request(
            ends.client,
            ends.gateway,
            ident,
            sequence,
            &payload,
            &mut packet,
        )?;
        Some(packet)
    }

    /// True when the packet is on its way. Without a session it waits in the tunnel, and a handshake is.
    fn seal_to(&mut self, path: Path, packet: &[u8], now: Instant) -> bool {
        let room = (packet.len() + MAX_PADDING + OVERHEAD).max(MAX_HANDSHAKE);
        let mut sealed = false;
        let tunnel = &mut self.tunnel;
        self.transmits
            .push_with(path, room, |out| match tunnel.seal(packet, out, now) {
                Sealed::Datagram(n) => {
                    sealed = true;
                    n
                }
                Sealed::Handshake(n) => n,
                Sealed::Queued | Sealed::Dropped => 0,
            });
        sealed
    }

    /// What waited for the session goes out.
    fn flush(&mut self, now: Instant) {
        while let Some(path) = self.paths.current()
            && let Some(n) = self.tunnel.flush_queued(&mut self.scratch, now)
        {
            self.transmits.push(path, &self.scratch[..n]);
            self.paths.data_sent(now);
        }
    }

    /// What waited for a path that works goes out.
    fn send_kept(&mut self, now: Instant) {
        let Some(path) = self.working_path() else {
            return;
        };
        if let Some(mut kept) = self.kept.take() {
            *self.drops.entry("waited_too_long").or_default() += kept.dropped();
            while let Some(packet) = kept.pop() {
                self.send_on(path, packet, now);
            }
        }
    }

    /// What the tunnel itself wants to send, the first `n` bytes of `scratch`: on one path only. The gateway takes one copy
    /// of an initiation; were it sent on several, a path that works one way only could swallow it.
    fn push_own(&mut self, n: usize) {
        let path = self
            .paths
            .current()
            .or_else(|| self.paths.handshake_order().pop());
        if let Some(path) = path {
            self.transmits.push(path, &self.scratch[..n]);
        }
    }

    /// A handshake on all of these paths at once. This end knows the answers to its last two initiations only, so the
    /// last path has one of its own and all others share one: the gateway answers the copy that comes first and refuses
    /// the rest. Should the path of that copy not carry the answer, the last path still does; each gets its turn there.
    fn initiate_on(&mut self, paths: &[Path], now: Instant) {
        let Some((last, others)) = paths.split_last() else {
            return;
        };
        for paths in [others, std::slice::from_ref(last)] {
            if !paths.is_empty()
                && let Some(n) = self.tunnel.initiate(&mut self.scratch, now)
            {
                for path in paths {
                    self.transmits.push(*path, &self.scratch[..n]);
                }
            }
        }
    }

    fn push(&mut self, path: Path, datagram: &[u8]) {
        self.transmits.push(path, datagram);
    }
}

fn tunnel(
    private: PrivateKey,
    grant: &SessionGrant,
    index: u32,
    jitter_seed: u64,
    now: Instant,
) -> Tunnel {
    let config = TunnelConfig {
        private,
        peer: grant.gateway_public_key,
        preshared: Some(grant.preshared_key.clone()),
        index,
        // Probes keep mappings of NATs alive.
        persistent_keepalive: None,
        mtu: grant.mtu.into(),
        jitter_seed,
        limiter: None,
    };
    Tunnel::new(config, now)
}

fn scratch_len(grant: &SessionGrant) -> usize {
    (usize::from(grant.mtu) + MAX_PADDING + OVERHEAD).max(MAX_HANDSHAKE)
}

/// What WireGuard's cookies are bound to; a stream has no address.
fn source(path: Path) -> Option<IpAddr> {
    match path {
        Path::Api => None,
        Path::Udp(address) => Some(address.ip()),
    }
}
