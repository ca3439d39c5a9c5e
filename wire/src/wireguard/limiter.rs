//! How many handshakes a gateway answers before it asks for proof of address.
//!
//! One handshake costs four Diffie-Hellman operations. Above the limit an initiation is answered with a cookie
//! reply, which costs a hash, and only the owner of the source address can use the cookie (WireGuard paper, 5.3).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use boringtun::noise::TunnResult;
use boringtun::noise::rate_limiter::RateLimiter;

use super::message::COOKIE_LEN;
use super::{Kind, PublicKey, Reason, classify};

/// What to do with a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Handle it. (Data and cookie messages always pass.)
    Pass,
    /// Do not handle it; send `out[..n]` back instead.
    Challenge(usize),
    /// Drop it.
    Refuse(Reason),
}

/// A limit that all tunnels of one static key share.
///
/// boringtun's own limiter counts by the system's clock; this one counts itself and uses boringtun's for the cookies.
/// The owner calls [`Limiter::reset`] once a second.
#[derive(Clone)]
pub struct Limiter {
    shared: Arc<Shared>,
}

struct Shared {
    /// Never loaded: only checks the first message authentication code.
    calm: Arc<RateLimiter>,
    /// Always loaded: demands the cookie.
    strict: RateLimiter,
    per_second: u64,
    seen: AtomicU64,
}

impl Limiter {
    /// For messages to the owner of `public`: `per_second` handshake messages between two resets pass without proof.
    pub fn new(public: &PublicKey, per_second: u64) -> Self {
        let key = public.to_x25519();
        let shared = Shared {
            calm: Arc::new(RateLimiter::new(&key, u64::MAX)),
            strict: RateLimiter::new(&key, 0),
            per_second,
            seen: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Begins the next second.
    pub fn reset(&self) {
        self.shared.seen.store(0, Ordering::Relaxed);
    }

    /// Judges a datagram before anything expensive is done with it.
    ///
    /// `out` needs room for [`super::MAX_HANDSHAKE`] bytes. A gateway calls this before [`super::initiator`]; tunnels that
    /// were given the limiter call it themselves, so give it to one of the two.
    pub fn admit(&self, datagram: &[u8], src: Option<IpAddr>, out: &mut [u8]) -> Admission {
        match classify(datagram) {
            Some(Kind::Initiation | Kind::Response { .. }) => {
                self.admit_handshake(datagram, src, out)
            }
            Some(Kind::Data { .. } | Kind::Cookie { .. }) => Admission::Pass,
            None => Admission::Refuse(Reason::Malformed),
        }
    }

    fn admit_handshake(&self, datagram: &[u8], src: Option<IpAddr>, out: &mut [u8]) -> Admission {
        let mut cookie = [0; COOKIE_LEN];
        if let Err(TunnResult::Err(error)) =
            self.shared.calm.verify_packet(src, datagram, &mut cookie)
        {
            return Admission::Refuse(Reason::of(&error));
        }
        if self.shared.seen.fetch_add(1, Ordering::Relaxed) < self.shared.per_second {
            return Admission::Pass;
        }
        match self.shared.strict.verify_packet(src, datagram, &mut cookie) {
            Ok(_) => Admission::Pass,
            Err(TunnResult::WriteToNetwork(reply)) => match out.get_mut(..reply.len()) {
                Some(out) => {
                    out.copy_from_slice(reply);
                    Admission::Challenge(reply.len())
                }
                None => Admission::Refuse(Reason::ShortBuffer),
            },
            Err(TunnResult::Err(error)) => Admission::Refuse(Reason::of(&error)),
            Err(_) => Admission::Refuse(Reason::Loaded),
        }
    }

    /// The limiter to hand to boringtun, which must not count a second time.
    pub(super) fn calm(&self) -> Arc<RateLimiter> {
        Arc::clone(&self.shared.calm)
    }
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter")
            .field("per_second", &self.shared.per_second)
            .finish_non_exhaustive()
    }
}
