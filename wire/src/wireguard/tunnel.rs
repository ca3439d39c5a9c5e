//! One peer's tunnel: the cipher, the timers and the packets that wait for a session.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boringtun::noise::rate_limiter::RateLimiter;

use super::cipher::{Cipher, Event};
use super::timers::{Due, Timers};
use super::{
    Admission, KEEPALIVE, Kind, Limiter, PresharedKey, PrivateKey, PublicKey, REJECT_AFTER,
    REKEY_TIMEOUT, Reason, classify,
};
use crate::queue::PacketQueue;

/// How many packets wait for a session at most.
const MAX_WAITING: usize = 64;

/// How many bytes wait for a session at most: room for the largest packet, twice.
const MAX_WAITING_BYTES: usize = 128 * 1024;

/// What a tunnel is made of.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// Our secret key.
    pub private: PrivateKey,
    /// Who the peer is.
    pub peer: PublicKey,
    /// The secret that both ends mix in.
    pub preshared: Option<PresharedKey>,
    /// The upper 24 bits of the session indices by which the peer addresses this tunnel; drawn at random, unique
    /// among the tunnels of a process. Bits above 24 are cut off.
    pub index: u32,
    /// Send an empty packet when nothing was sent or received for so long. An unanswered one does not end the session.
    pub persistent_keepalive: Option<Duration>,
    /// The largest inner packet in bytes; padding does not go beyond it.
    pub mtu: usize,
    /// Seed of the jitter in the timers.
    pub jitter_seed: u64,
    /// The limit that this tunnel's handshakes count towards; `None` when the caller asks [`Limiter::admit`] itself, or
    /// on a client.
    pub limiter: Option<Limiter>,
}

/// What became of a packet given to [`Tunnel::seal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sealed {
    /// Send `out[..n]`.
    Datagram(usize),
    /// There is no session: the packet waits inside, send the initiation `out[..n]`.
    Handshake(usize),
    /// There is no session and a handshake is under way: the packet waits inside.
    Queued,
    /// Too many packets wait already, or `out` is too short. Counted by [`Tunnel::dropped`].
    Dropped,
}

/// What became of a datagram given to [`Tunnel::open`].
///
/// All but `Challenge`, `Cookie` and `Rejected` are authenticated: the peer is where the datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Opened {
    /// `out[..len]` is an IP packet, cut to the length in its header, 20 bytes or more. Its addresses are not checked.
    Packet {
        /// The packet's length in bytes.
        len: usize,
        /// The length of all that the peer sealed: `out[len..plaintext]` is padding, perhaps with a
        /// [trailer](crate::offload::trailer).
        plaintext: usize,
    },
    /// An empty packet.
    Keepalive,
    /// The peer began a handshake: send `out[..n]` back.
    Reply(usize),
    /// Our handshake is done: send the keepalive `out[..n]`, then what waits ([`Tunnel::flush_queued`]).
    Established(usize),
    /// The limiter asks for proof: send `out[..n]` back to where the datagram came from, believe nothing of it.
    Challenge(usize),
    /// The peer asked for proof; the next initiation will carry it.
    Cookie,
    /// Drop it.
    Rejected(Reason),
}

/// The WireGuard state towards one peer: see the [module](super) for the loop around it.
pub struct Tunnel {
    cipher: Cipher,
    timers: Timers,
    limiter: Option<Limiter>,
    /// Packets without a session; made when the first one comes.
    waiting: Option<PacketQueue<()>>,
    dropped: u64,
    last_handshake: Option<Instant>,
}

impl Tunnel {
    /// A tunnel without a session; nothing is sent before the first [`Tunnel::seal`] or [`Tunnel::initiate`].
    pub fn new(config: TunnelConfig, now: Instant) -> Self {
        let index = config.index & 0x00ff_ffff;
        let calm = match &config.limiter {
            Some(limiter) => limiter.calm(),
            None => Arc::new(RateLimiter::new(
                &config.private.public().to_x25519(),
                u64::MAX,
            )),
        };
        let preshared = config.preshared.as_ref();
        Self {
            cipher: Cipher::new(
                config.private,
                config.peer,
                preshared,
                index,
                config.mtu,
                calm,
            ),
            timers: Timers::new(config.jitter_seed, config.persistent_keepalive, now),
            limiter: config.limiter,
            waiting: None,
            dropped: 0,
            last_handshake: None,
        }
    }

    /// Seals an inner packet; an empty one makes a keepalive. A super-packet with its [trailer](crate::offload::trailer)
    /// is sealed as it is: of what is longer than the mtu nothing is padded.
    ///
    /// `out` needs `packet.len() + 15 + OVERHEAD` bytes and at least [`super::MAX_HANDSHAKE`].
    pub fn seal(&mut self, packet: &[u8], out: &mut [u8], now: Instant) -> Sealed {
        if let Some(n) = self.seal_now(packet, out, now) {
            return Sealed::Datagram(n);
        }
        if self.has_session(now) || !self.wait(packet) {
            self.dropped += 1;
            return Sealed::Dropped;
        }
        if !self.timers.begin(now) {
            return Sealed::Queued;
        }
        match self.send_initiation(out, now) {
            Some(n) => Sealed::Handshake(n),
            None => Sealed::Queued,
        }
    }

    /// Authenticates a datagram and opens it into `out`, which needs `datagram.len()` bytes and at least
    /// [`super::MAX_HANDSHAKE`].
    ///
    /// `src` is where it came from, for the limiter's cookies; `None` on a carrier without addresses.
    /// After `Established`, `Packet` and `Keepalive`, packets that waited may go: [`Tunnel::flush_queued`].
    pub fn open(
        &mut self,
        datagram: &[u8],
        src: Option<IpAddr>,
        out: &mut [u8],
        now: Instant,
    ) -> Opened {
        let Some(kind) = classify(datagram) else {
            return Opened::Rejected(Reason::Malformed);
        };
        match kind {
            Kind::Data { receiver } | Kind::Response { receiver } | Kind::Cookie { receiver } => {
                if !self.cipher.is_ours(receiver) {
                    return Opened::Rejected(Reason::Unknown);
                }
            }
            Kind::Initiation => {}
        }
        if let Some(limiter) = &self.limiter {
            match limiter.admit(datagram, src, out) {
                Admission::Pass => {}
                Admission::Challenge(n) => return Opened::Challenge(n),
                Admission::Refuse(reason) => return Opened::Rejected(reason),
            }
        }
        match self.cipher.open(datagram, src, out, now) {
            Ok((event, completed)) => self.opened(event, completed, now),
            Err(reason) => Opened::Rejected(reason),
        }
    }

    /// Seals the next packet that waited for a session into `out`; call it until `None`.
    pub fn flush_queued(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        let waiting = self.waiting.as_mut()?;
        self.cipher.session(now)?;
        loop {
            let Some((_, packet)) = waiting.pop() else {
                self.waiting = None;
                return None;
            };
            if let Some(n) = self.cipher.seal(packet, out, now) {
                self.timers.data_sent(now);
                return Some(n);
            }
            self.dropped += 1;
        }
    }

    /// Does what is due at `now`. A result is a datagram `out[..n]` to send; call it until `None`, after which
    /// [`Tunnel::poll_timeout`] is later than `now`. `out` needs [`super::MAX_HANDSHAKE`] bytes.
    pub fn handle_timeout(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        while let Some(due) = self.timers.due(now) {
            let sent = match due {
                Due::Forget => {
                    self.cipher.forget();
                    None
                }
                Due::GiveUp => {
                    self.drop_waiting();
                    None
                }
                Due::Initiate => self.send_initiation(out, now),
                Due::Keepalive => self.seal_now(&[], out, now),
                Due::PersistentKeepalive => self.persistent_keepalive(out, now),
            };
            if sent.is_some() {
                return sent;
            }
        }
        None
    }

    /// When [`Tunnel::handle_timeout`] wants to be called next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.poll()
    }

    /// Writes an initiation into `out` at once, even if one was sent just now, and retries until it is answered or 90 s
    /// have passed. For a new path, or to probe one. `None` when `out` is shorter than [`super::MAX_HANDSHAKE`].
    pub fn initiate(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        self.timers.begin(now);
        self.send_initiation(out, now)
    }

    /// Asks for a new session with the next [`Tunnel::handle_timeout`], at most one in 5 s.
    pub fn rekey_now(&mut self, now: Instant) {
        self.timers.want_rekey(now);
    }

    /// Whether a packet would be sealed at once.
    pub fn has_session(&self, now: Instant) -> bool {
        self.cipher.session(now).is_some()
    }

    /// When something authenticated last came from the peer.
    pub fn last_received(&self) -> Option<Instant> {
        self.cipher.last_received
    }

    /// When a handshake was last completed.
    pub fn last_handshake(&self) -> Option<Instant> {
        self.last_handshake
    }

    /// Packets that waited for a session in vain, or found no room to wait.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn opened(&mut self, event: Event, completed: bool, now: Instant) -> Opened {
        if completed {
            self.timers.handshake_complete();
            self.last_handshake = Some(now);
        }
        match event {
            Event::Data { len, plaintext } => {
                self.timers.data_received(now);
                self.rekey_if_received_on_old_session(now);
                Opened::Packet { len, plaintext }
            }
            Event::Keepalive => {
                self.timers.received(now);
                self.rekey_if_received_on_old_session(now);
                Opened::Keepalive
            }
            Event::Response(n) => {
                self.timers.received(now);
                self.timers.response_sent(now);
                self.timers.session_made(now);
                Opened::Reply(n)
            }
            Event::Established(n) => {
                self.timers.received(now);
                self.timers.sent(now);
                self.timers.session_made(now);
                Opened::Established(n)
            }
            Event::Challenge(n) => Opened::Challenge(n),
            Event::Cookie => Opened::Cookie,
        }
    }

    /// So late that an answer and a retry would just fit in before the session dies.
    fn rekey_if_received_on_old_session(&mut self, now: Instant) {
        let limit = REJECT_AFTER - KEEPALIVE - REKEY_TIMEOUT;
        let session = self.cipher.session(now);
        if session.is_some_and(|session| session.wants_successor_after(limit, now)) {
            self.timers.want_rekey(now);
        }
    }

    fn seal_now(&mut self, packet: &[u8], out: &mut [u8], now: Instant) -> Option<usize> {
        let wants_successor = self.cipher.session(now)?.wants_successor(now);
        let n = self.cipher.seal(packet, out, now)?;
        if packet.is_empty() {
            self.timers.sent(now);
        } else {
            self.timers.data_sent(now);
        }
        if wants_successor {
            self.timers.want_rekey(now);
        }
        Some(n)
    }

    fn send_initiation(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        let n = self.cipher.initiate(out);
        self.timers.initiation_sent(now);
        n
    }

    fn persistent_keepalive(&mut self, out: &mut [u8], now: Instant) -> Option<usize> {
        if self.has_session(now) {
            return self.seal_now(&[], out, now);
        }
        if self.timers.begin(now) {
            self.send_initiation(out, now)
        } else {
            None
        }
    }

    /// Keeps a packet until there is a session; a keepalive need not wait.
    fn wait(&mut self, packet: &[u8]) -> bool {
        packet.is_empty()
            || self
                .waiting
                .get_or_insert_with(|| PacketQueue::new(MAX_WAITING, MAX_WAITING_BYTES))
                .push((), packet)
    }

    fn drop_waiting(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.dropped += u64::try_from(waiting.len()).expect("a length fits");
        }
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("timers", &self.timers)
            .field("last_received", &self.cipher.last_received)
            .field("last_handshake", &self.last_handshake)
            .finish_non_exhaustive()
    }
}
