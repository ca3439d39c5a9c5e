//! boringtun's `Tunn` beside a record of the sessions in it. Seals, opens and shakes hands when told to; decides nothing by time
//! except that a session older than three minutes is dead.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};

use super::message::{COOKIE_LEN, RESPONSE_LEN, counter, sender};
use super::sessions::{Session, Sessions};
use super::{Kind, MAX_HANDSHAKE, OVERHEAD, PresharedKey, PrivateKey, PublicKey, Reason, classify};

/// A session may not be used beyond this counter (WireGuard paper, section 6.1). boringtun does not check it, and
/// its replay window overflows on counters near the end that a malicious peer can send.
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// The smallest IP packet.
const MIN_PACKET: usize = 20;

/// What a datagram turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A packet of this length is in the buffer, at the beginning of a plaintext of that length.
    Data {
        len: usize,
        plaintext: usize,
    },
    Keepalive,
    /// We are the responder: a response of this length is in the buffer.
    Response(usize),
    /// We are the initiator and have a session: a keepalive of this length is in the buffer.
    Established(usize),
    /// A cookie reply of this length is in the buffer.
    Challenge(usize),
    /// The peer sent a cookie; the next initiation will carry it.
    Cookie,
}

pub(super) struct Cipher {
    tunn: Tunn,
    sessions: Sessions,
    private: PrivateKey,
    calm: Arc<RateLimiter>,
    index: u32,
    mtu: usize,
    /// Where packets are padded.
    scratch: Vec<u8>,
    /// When something authenticated last came.
    pub(super) last_received: Option<Instant>,
}

impl Cipher {
    pub(super) fn new(
        private: PrivateKey,
        peer: PublicKey,
        preshared: Option<&PresharedKey>,
        index: u32,
        mtu: usize,
        calm: Arc<RateLimiter>,
    ) -> Self {
        let tunn = Tunn::new(
            private.as_x25519().clone(),
            peer.to_x25519(),
            preshared.map(|key| *key.as_bytes()),
            None,
            index,
            Some(Arc::clone(&calm)),
        );
        Self {
            tunn,
            sessions: Sessions::default(),
            private,
            calm,
            index,
            mtu,
            scratch: Vec::new(),
            last_received: None,
        }
    }

    /// The session to send on, if there is one young enough.
    pub(super) fn session(&self, now: Instant) -> Option<&Session> {
        self.sessions
            .current()
            .filter(|session| session.is_usable(now))
    }

    /// Seals a packet (an empty one is a keepalive) on the current session; `None` when there is none or `out` is too short.
    pub(super) fn seal(&mut self, packet: &[u8], out: &mut [u8], now: Instant) -> Option<usize> {
        self.session(now)?;
        let padded = padded_len(packet.len(), self.mtu);
        if out.len() < padded + OVERHEAD || out.len() < MAX_HANDSHAKE {
            return None;
        }
        let plaintext = if padded == packet.len() {
            packet
        } else {
            self.scratch.clear();
            self.scratch.extend_from_slice(packet);
            self.scratch.resize(padded, 0);
            &self.scratch
        };
        let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(plaintext, out) else {
            // boringtun has no session although the record says so: believe it.
            self.sessions.forget_confirmed();
            return None;
        };
        let n = datagram.len();
        let Some(Kind::Data { receiver }) = classify(datagram) else {
            self.sessions.forget_confirmed();
            return None;
        };
        // boringtun chose the session; a dead or unconfirmed one must not be sent on.
        let chosen = self.sessions.by_theirs(receiver)?;
        (chosen.confirmed && chosen.is_usable(now)).then_some(n)
    }

    /// Writes a fresh initiation; `None` when `out` is too short.
    pub(super) fn initiate(&mut self, out: &mut [u8]) -> Option<usize> {
        self.tick();
        match self.tunn.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            TunnResult::Done
            | TunnResult::Err(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => None,
        }
    }

    /// Authenticates a datagram and acts on it. The flag says that it completed a handshake.
    pub(super) fn open(
        &mut self,
        datagram: &[u8],
        src: Option<IpAddr>,
        out: &mut [u8],
        now: Instant,
    ) -> Result<(Event, bool), Reason> {
        if out.len() < MAX_HANDSHAKE.max(datagram.len()) {
            return Err(Reason::ShortBuffer);
        }
        match classify(datagram).ok_or(Reason::Malformed)? {
            Kind::Data { receiver } => self.open_data(receiver, datagram, out, now),
            Kind::Initiation => self.open_initiation(datagram, src, out, now),
            Kind::Response { receiver } => self.open_response(receiver, datagram, src, out, now),
            Kind::Cookie { .. } => match self.tunn.decapsulate(src, datagram, out) {
                TunnResult::Err(error) => Err(Reason::of(&error)),
                TunnResult::Done
                | TunnResult::WriteToNetwork(_)
                | TunnResult::WriteToTunnelV4(..)
                | TunnResult::WriteToTunnelV6(..) => Ok((Event::Cookie, false)),
            },
        }
    }

    fn open_data(
        &mut self,
        receiver: u32,
        datagram: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Result<(Event, bool), Reason> {
        let session = self.sessions.by_ours(receiver).ok_or(Reason::Unknown)?;
        let spent = counter(datagram).is_none_or(|counter| counter >= REJECT_AFTER_MESSAGES);
        if spent || !session.is_usable(now) {
            return Err(Reason::Expired);
        }
        let event = match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::Done => Event::Keepalive,
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Event::Data {
                    len: packet.len(),
                    plaintext: datagram.len() - OVERHEAD,
                }
            }
            TunnResult::WriteToNetwork(_) => return Err(Reason::Malformed),
            TunnResult::Err(error) => return Err(Reason::of(&error)),
        };
        let confirmed = self.sessions.confirm(receiver);
        self.last_received = Some(now);
        match event {
            Event::Data { len, .. } if len < MIN_PACKET => Err(Reason::Malformed),
            event => Ok((event, confirmed)),
        }
    }

    fn open_initiation(
        &mut self,
        datagram: &[u8],
        src: Option<IpAddr>,
        out: &mut [u8],
        now: Instant,
    ) -> Result<(Event, bool), Reason> {
        self.tick();
        let reply = self.handshake(datagram, src, out)?;
        match reply.len() {
            RESPONSE_LEN => {
                let ours = sender(reply).ok_or(Reason::Malformed)?;
                let theirs = sender(datagram).ok_or(Reason::Malformed)?;
                let session = Session {
                    ours,
                    theirs,
                    born: now,
                    initiator: false,
                    confirmed: false,
                };
                self.sessions.insert(session);
                self.last_received = Some(now);
                Ok((Event::Response(RESPONSE_LEN), false))
            }
            COOKIE_LEN => Ok((Event::Challenge(COOKIE_LEN), false)),
            _ => Err(Reason::Malformed),
        }
    }

    fn open_response(
        &mut self,
        receiver: u32,
        datagram: &[u8],
        src: Option<IpAddr>,
        out: &mut [u8],
        now: Instant,
    ) -> Result<(Event, bool), Reason> {
        let keepalive = self.handshake(datagram, src, out)?;
        let n = keepalive.len();
        let theirs = sender(datagram).ok_or(Reason::Malformed)?;
        let session = Session {
            ours: receiver,
            theirs,
            born: now,
            initiator: true,
            confirmed: true,
        };
        self.sessions.insert(session);
        self.last_received = Some(now);
        Ok((Event::Established(n), true))
    }

    /// Feeds a handshake message to boringtun, which answers each valid one.
    fn handshake<'out>(
        &mut self,
        datagram: &[u8],
        src: Option<IpAddr>,
        out: &'out mut [u8],
    ) -> Result<&'out [u8], Reason> {
        match self.tunn.decapsulate(src, datagram, out) {
            TunnResult::WriteToNetwork(reply) => Ok(reply),
            TunnResult::Err(error) => Err(Reason::of(&error)),
            TunnResult::Done
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => Err(Reason::Malformed),
        }
    }

    /// Wipes the keys of all sessions. What was seen of the peer's timestamps stays, so old initiations stay refused.
    pub(super) fn forget(&mut self) {
        let private = self.private.as_x25519().clone();
        let public = self.private.public().to_x25519();
        self.tunn
            .set_static_private(private, public, Some(Arc::clone(&self.calm)));
        self.sessions.clear();
    }

    /// Lets boringtun look at its clock, before a handshake only.
    ///
    /// It sends on the session whose birth is later by that clock; without this call all births are equal, and an old
    /// packet that arrives late would switch it back to the old session. What else the call does (retries, keepalives)
    /// finds no room in the buffer and is not done, but it may drop sessions, which the record then follows.
    fn tick(&mut self) {
        let mut no_room = [0; OVERHEAD];
        let _ = self.tunn.update_timers(&mut no_room);
        if self.tunn.is_expired() {
            self.sessions.clear();
        } else if self.tunn.time_since_last_handshake().is_none() {
            self.sessions.forget_confirmed();
        }
    }

    /// Whether messages to `receiver` are for this tunnel.
    pub(super) fn is_ours(&self, receiver: u32) -> bool {
        receiver >> 8 == self.index
    }
}

/// Padded to a multiple of 16 bytes, which hides the exact length, but not beyond the MTU.
fn padded_len(len: usize, mtu: usize) -> usize {
    len.next_multiple_of(16).min(mtu.max(len))
}
