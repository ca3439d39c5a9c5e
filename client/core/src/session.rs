//! One WireGuard session with the gateway: seals, opens, probes its paths. It must not know whose packets it carries.

mod outgoing;
mod probe;
mod too_long;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use kvpn_wire::control::{SessionGrant, TunnelAddresses};
use kvpn_wire::fq_codel::FqCodel;
use kvpn_wire::offload::{MAX_PACKET, Segmentation, trailer};
use kvpn_wire::pmtud;
use kvpn_wire::queue::{BatchQueue, PacketQueue};
use kvpn_wire::wireguard::{MAX_HANDSHAKE, OVERHEAD, Opened, PrivateKey, Tunnel, TunnelConfig};

use self::probe::Probe;
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
    /// The longest inner packet in bytes on any path.
    mtu: usize,
    /// The same on the UDP path in use, or on the one that was last: what the gateway is told.
    limit: usize,
    /// Whether the gateway answers probes of a path's MTU.
    path_mtu: bool,
    /// What tells programs that their packets are too long.
    refusals: Option<PacketQueue<()>>,
    /// Tells the fragments of one packet from those of others.
    fragment_id: u32,
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

impl Session {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        let mut random = Random::new(config.seed);
        let grant = &config.grant;
        let ident = random.below(u16::MAX);
        let mtu = tunnel_mtu(grant);
        let mut session = Self {
            tunnel: tunnel(
                config.private_key.clone(),
                grant,
                config.index,
                random.next(),
                now,
            ),
            addresses: grant.addresses.clone(),
            mtu,
            limit: mtu.min(pmtud::BASE),
            path_mtu: grant.path_mtu,
            refusals: None,
            fragment_id: u32::from(ident) << 16,
            paths: Paths::new(config.carrier, grant.path_mtu, &config.udp_candidates, now),
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
            segment: vec![0; mtu.max(pmtud::MAX)],
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
        self.mtu = tunnel_mtu(grant);
        self.limit = self.mtu.min(pmtud::BASE);
        self.path_mtu = grant.path_mtu;
        self.super_packets = grant.super_packets;
        self.stream_control = grant.stream_control;
        self.scratch.resize(scratch_len(grant), 0);
        self.segment.resize(self.mtu.max(pmtud::MAX), 0);
        self.paths.restart(grant.path_mtu, now);
        self.act(now);
    }

    /// The longest packet in bytes that the UDP path in use, or the last one, carries.
    pub(crate) fn limit(&self) -> usize {
        self.limit
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

    /// Whether `address` is the gateway's end of the tunnel.
    pub(crate) fn is_gateway(&self, address: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|addresses| addresses.gateway == address)
    }

    /// Whether the gateway wants a sign of life each second.
    pub(crate) fn show_life(&mut self, show: bool) {
        self.paths.show_life(show);
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

    /// Whether the gateway knows control frames.
    pub(crate) fn stream_control(&self) -> bool {
        self.stream_control
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
        let transmit = self.transmits.pop()?;
        self.sent_bytes += u64::try_from(transmit.payload.len()).expect("a length fits");
        Some(transmit)
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
            mtu: match self.paths.current() {
                Some(Path::Udp(_)) | None => self.limit,
                Some(Path::Api) => self.mtu,
            },
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
                    self.paths.probe_answered(path, sequence, len, now);
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

    fn act(&mut self, now: Instant) {
        let mut without_keys = Vec::new();
        while let Some(action) = self.paths.poll_action() {
            match action {
                Action::Probe {
                    path,
                    sequence,
                    size,
                    fresh,
                } => {
                    if fresh || !self.tunnel.has_session(now) {
                        without_keys.push(path);
                    }
                    self.make_probe(path, sequence, size, now);
                }
                Action::Tell(event) => {
                    tracing::debug!(?event, "session");
                    self.events.push_back(event);
                }
            }
        }
        self.initiate_on(&without_keys, now);
        self.keep_to_limit();
        self.send_kept(now);
    }

    /// Takes over what is known by now of the path in use.
    fn keep_to_limit(&mut self) {
        let limit = self.paths.limit().filter(|limit| *limit != self.limit);
        if let Some(limit) = limit.filter(|_| self.path_mtu) {
            tracing::debug!(from = self.limit, to = limit, "path MTU");
            self.limit = limit;
        }
    }
}

/// The longest packet, in bytes, that a session may carry on any path: the MTU of its TUN.
pub fn tunnel_mtu(grant: &SessionGrant) -> usize {
    if grant.path_mtu {
        pmtud::MAX
    } else {
        grant.mtu.into()
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
        mtu: tunnel_mtu(grant),
        jitter_seed,
        limiter: None,
    };
    Tunnel::new(config, now)
}

fn scratch_len(grant: &SessionGrant) -> usize {
    (tunnel_mtu(grant) + MAX_PADDING + OVERHEAD).max(MAX_HANDSHAKE)
}

/// What WireGuard's cookies are bound to; a stream has no address.
fn source(path: Path) -> Option<IpAddr> {
    match path {
        Path::Api => None,
        Path::Udp(address) => Some(address.ip()),
    }
}
