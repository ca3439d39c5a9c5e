//! Sessions: created, renewed, asked about, ended. Who may create one is decided outside, by RBAC on the port-forward.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use kvpn_wire::control::{
    CreateSession, Datapath, Limits, SUPPORTED, SessionGrant, SessionStatus, VERSION,
};
use kvpn_wire::pmtud;
use kvpn_wire::wireguard::{PresharedKey, PublicKey, Tunnel, TunnelConfig};
use rand::Rng as _;

use super::{GatewayState, add_userspace_drops};
use crate::address::Block;
use crate::event::{Event, Flow, SessionIndex};
use crate::session::{NewSession, Session};

/// How long a session lives on after its client asked for its end, so that the answer gets through.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why no session was created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The client speaks a version that this gateway does not understand.
    #[error("the client speaks control version {asked}, this gateway understands {} to {}", .supported.start(), .supported.end())]
    Version {
        /// What the client speaks.
        asked: u32,
        /// What the gateway understands.
        supported: RangeInclusive<u32>,
    },
    /// There are as many sessions as there may be.
    #[error("the gateway has {0} sessions already, which is its limit")]
    Full(usize),
    /// No free block of tunnel addresses lies outside the ranges to avoid.
    #[error("no tunnel addresses are free outside the ranges that the client must avoid")]
    NoAddresses,
}

impl GatewayState {
    /// Creates the session of `request.public_key`, or renews it: the same key gets the same grant.
    ///
    /// # Errors
    /// See [`Refused`]; a renewal only fails for its version.
    pub fn create_session(
        &mut self,
        request: &CreateSession,
        now: Instant,
    ) -> Result<SessionGrant, Refused> {
        if !SUPPORTED.contains(&request.version) {
            return Err(Refused::Version {
                asked: request.version,
                supported: SUPPORTED,
            });
        }
        let index = match self.sessions.with_key(&request.public_key) {
            Some(index) => index,
            None => self.add_session(request, now)?,
        };
        let lease_end = now + self.config.limits.lease;
        let session = self
            .sessions
            .session_mut(index)
            .expect("found or added above");
        session.lease_end = lease_end;
        self.touch(index);
        Ok(self.grant(self.sessions.session(index).expect("found or added above")))
    }

    /// Whether the client has a session here.
    pub fn has_session(&self, key: &PublicKey) -> bool {
        self.sessions.with_key(key).is_some()
    }

    /// What the session did until now; `None` when it ended.
    pub fn session_status(&self, index: SessionIndex, now: Instant) -> Option<SessionStatus> {
        self.sessions
            .session(index)
            .map(|session| session.status(now))
    }

    /// Ends a session in a second, when the answer to whoever asked for it inside the tunnel is through.
    /// False when there is no such session.
    pub fn end_session(&mut self, index: SessionIndex, now: Instant) -> bool {
        let Some(session) = self.sessions.session_mut(index) else {
            return false;
        };
        session.lease_end = session.lease_end.min(now + FAREWELL);
        self.touch(index);
        true
    }

    /// The id of the session that `flow` belongs to, for logs.
    pub fn session_id(&self, flow: Flow) -> Option<&str> {
        self.sessions
            .session(flow.session)
            .map(|session| session.id.as_str())
    }

    /// Ends a session at once.
    pub(super) fn remove_session(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.remove(index) else {
            return;
        };
        self.schedule.remove(index);
        add_userspace_drops(&mut self.ended_drops, &session);
        if session.netstack.is_some() {
            self.share_memory();
        }
        self.output.events.push_back(Event::SessionEnded {
            session: index,
            key: session.key,
        });
        tracing::info!(
            session = session.id,
            sessions = self.sessions.len(),
            "session ended"
        );
    }

    fn add_session(
        &mut self,
        request: &CreateSession,
        now: Instant,
    ) -> Result<SessionIndex, Refused> {
        self.make_way(&request.prefer, now);
        if self.sessions.len() + self.elsewhere.sessions >= self.config.limits.max_sessions {
            return Err(Refused::Full(self.config.limits.max_sessions));
        }
        let start = (self.random.next_u32() >> 16) as u16;
        let block = self
            .sessions
            .blocks
            .take(&request.prefer, &request.avoid, start)
            .ok_or(Refused::NoAddresses)?;
        let session = self.new_session(request, block, now);
        tracing::info!(
            session = session.id,
            client_version = %shown(&request.client_version),
            sessions = self.sessions.len() + 1,
            "session created"
        );
        let index = session.index;
        self.sessions.insert(session);
        self.output.totals.sessions += 1;
        Ok(index)
    }

    /// A client that comes back wants its addresses; a session of its own that is already saying farewell must not keep them.
    fn make_way(&mut self, prefer: &[IpAddr], now: Instant) {
        for &address in prefer {
            let former = self
                .sessions
                .with_block_of(address)
                .and_then(|index| self.sessions.session(index));
            if let Some(index) = former
                .filter(|former| former.lease_end <= now + FAREWELL)
                .map(|former| former.index)
            {
                self.remove_session(index);
            }
        }
    }

    fn new_session(&mut self, request: &CreateSession, block: Block, now: Instant) -> Session {
        let index = self.free_index();
        let mut preshared = [0; 32];
        self.random.fill_bytes(&mut preshared);
        let preshared = PresharedKey::from_bytes(preshared);
        let tunnel = TunnelConfig {
            private: self.private.clone(),
            peer: request.public_key,
            preshared: Some(preshared.clone()),
            index: index.0,
            persistent_keepalive: None,
            mtu: pmtud::MAX,
            jitter_seed: self.random.next_u64(),
            limiter: None,
        };
        let new = NewSession {
            index,
            id: format!("{:016x}", self.random.next_u64()),
            key: request.public_key,
            preshared,
            block,
            tunnel: Tunnel::new(tunnel, now),
            super_packets: request.super_packets,
            netstack_seed: self.random.next_u64(),
            lease: self.config.limits.lease,
        };
        Session::new(new, now)
    }

    /// An index that no session has; at random, so that it cannot be guessed and is not soon used again.
    fn free_index(&mut self) -> SessionIndex {
        loop {
            let index = self.config.shard.mark(self.random.next_u32() >> 8);
            if !self.sessions.contains(index) {
                return index;
            }
        }
    }

    fn grant(&self, session: &Session) -> SessionGrant {
        let config = &self.config;
        let datapath = if config.kernel.any() {
            Datapath::Kernel
        } else {
            Datapath::Userspace
        };
        SessionGrant {
            version: VERSION,
            gateway_version: config.version.clone(),
            session_id: session.id.clone(),
            gateway_public_key: self.public,
            preshared_key: session.preshared.clone(),
            addresses: vec![session.block.v4(), session.block.v6()],
            mtu: pmtud::BASE as u16,
            datapath,
            datapath_note: config.datapath_note.clone(),
            offload: None,
            udp_port: config.udp_port,
            udp_endpoints: config.udp_endpoints.clone(),
            cluster: config.cluster.clone(),
            limits: Limits {
                max_flows: config.limits.max_flows,
                lease_seconds: u32::try_from(config.limits.lease.as_secs()).unwrap_or(u32::MAX),
            },
            super_packets: true,
            stream_control: true,
            path_mtu: true,
        }
    }
}

/// A text from the client as it may stand in a log: short, without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}
