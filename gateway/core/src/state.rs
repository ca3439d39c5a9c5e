//! [`GatewayState`]: everything the gateway decides, as one state machine. Each of its doors has a file.

mod control;
mod dialled;
mod elsewhere;
mod flows;
mod inbox;
mod inward;
mod outward;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use kvpn_netstack::FlowCounts;
use kvpn_wire::wireguard::{Limiter, PrivateKey, PublicKey};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::config::Config;
use crate::event::SessionIndex;
use crate::output::{Drops, Output, Totals};
use crate::policy::Policy;
use crate::rooms::Rooms;
use crate::schedule::Schedule;
use crate::session::Session;
use crate::sessions::Sessions;
use crate::strangers::Strangers;

pub use control::Refused;
pub use dialled::Undialled;
use inbox::Inbox;

/// Handshakes a second that are answered without asking for proof of the source address. One costs about 0.2 ms.
const HANDSHAKES_A_SECOND: u64 = 500;
/// The longest inner packet: what an IPv4 or IPv6 header without jumbo option can say.
const MAX_PACKET: usize = 65_575;

/// The gateway's state: see the [crate's usage loop](crate).
#[derive(Debug)]
pub struct GatewayState {
    config: Config,
    policy: Policy,
    private: PrivateKey,
    public: PublicKey,
    limiter: Limiter,
    limiter_reset: Instant,
    random: StdRng,
    sessions: Sessions,
    schedule: Schedule,
    output: Output,
    /// Which of the pod's nameservers DNS is relayed to.
    nameserver: usize,
    /// Sessions whose events and deadlines are to be looked at.
    touched: VecDeque<SessionIndex>,
    /// Sessions that may have packets to send, served in turn.
    ready: VecDeque<SessionIndex>,
    /// What paths take at present.
    rooms: Rooms,
    /// Where answers are built; kept to spare an allocation a packet.
    answer: Vec<u8>,
    /// Datagrams that wait to be opened; there once there were any.
    inbox: Option<Box<Inbox>>,
    inbox_seed: u64,
    /// Packets that were for flows of the userspace datapath.
    to_flows: u64,
    /// Initiations whose senders have no session here.
    strangers: Strangers,
    /// How many sessions have flows of the userspace datapath.
    with_flows: usize,
    /// What the gateway's other parts have.
    elsewhere: Elsewhere,
    /// Counts of flows that ended sessions dropped.
    ended_drops: BTreeMap<&'static str, u64>,
}

/// What the other parts of a gateway have (see [`Shard`](crate::Shard)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Sessions.
    pub sessions: usize,
    /// Sessions among them that have flows of the userspace datapath.
    pub with_flows: usize,
}

/// Counts for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Sessions there are.
    pub sessions: usize,
    /// Sessions ever created.
    pub sessions_created: u64,
    /// Flows of the userspace datapath.
    pub flows: FlowCounts,
    /// Inner packets sent to clients, and their bytes.
    pub sent: (u64, u64),
    /// Inner packets received from clients, and their bytes.
    pub received: (u64, u64),
    /// Datagrams and packets dropped, by reason.
    pub drops: Drops,
    /// What the userspace datapath dropped, by its own reasons.
    pub userspace_drops: BTreeMap<&'static str, u64>,
}

impl Snapshot {
    /// Adds what another part of the gateway counted.
    pub fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.sessions_created += other.sessions_created;
        self.flows.tcp += other.flows.tcp;
        self.flows.udp += other.flows.udp;
        self.flows.echo += other.flows.echo;
        for (sum, more) in [
            (&mut self.sent, other.sent),
            (&mut self.received, other.received),
        ] {
            sum.0 += more.0;
            sum.1 += more.1;
        }
        self.drops.add(&other.drops);
        for (name, count) in &other.userspace_drops {
            *self.userspace_drops.entry(name).or_default() += count;
        }
    }
}

impl GatewayState {
    /// A gateway without sessions. Its WireGuard key comes from the seed and lives as long as the state.
    pub fn new(config: Config, now: Instant) -> Self {
        let mut random = StdRng::from_seed(config.seed);
        let mut seed = [0; 32];
        random.fill_bytes(&mut seed);
        let private = PrivateKey::from_seed(seed);
        // One key for all shards, and for each a sequence of its own that has nothing to do with the key.
        for _ in 0..=config.shard.number() {
            random.fill_bytes(&mut seed);
        }
        let mut random = StdRng::from_seed(seed);
        let inbox_seed = random.next_u64();
        let public = private.public();
        Self {
            policy: Policy::new(&config),
            limiter: Limiter::new(&public, HANDSHAKES_A_SECOND),
            limiter_reset: now,
            private,
            public,
            random,
            sessions: Sessions::new(config.shard),
            output: Output::new(config.kernel),
            config,
            schedule: Schedule::default(),
            nameserver: 0,
            touched: VecDeque::new(),
            ready: VecDeque::new(),
            rooms: Rooms::default(),
            answer: vec![0; MAX_PACKET],
            inbox: None,
            inbox_seed,
            to_flows: 0,
            strangers: Strangers::default(),
            with_flows: 0,
            elsewhere: Elsewhere::default(),
            ended_drops: BTreeMap::new(),
        }
    }

    /// The gateway's WireGuard key.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// What was counted until now.
    pub fn snapshot(&self) -> Snapshot {
        let Totals {
            sent_packets,
            sent_bytes,
            received_packets,
            received_bytes,
            sessions,
            drops,
        } = self.output.totals.clone();
        let mut snapshot = Snapshot {
            sessions: self.sessions.len(),
            sessions_created: sessions,
            flows: FlowCounts::default(),
            sent: (sent_packets, sent_bytes),
            received: (received_packets, received_bytes),
            drops,
            userspace_drops: self.ended_drops.clone(),
        };
        for session in self.sessions.iter() {
            let flows = session.flows();
            snapshot.flows.tcp += flows.tcp;
            snapshot.flows.udp += flows.udp;
            snapshot.flows.echo += flows.echo;
            add_userspace_drops(&mut snapshot.userspace_drops, session);
        }
        snapshot
    }

    /// Puts the session on the list of those whose events and deadlines are looked at before the next poll returns `None`.
    fn touch(&mut self, index: SessionIndex) {
        if let Some(session) = self
            .sessions
            .session_mut(index)
            .filter(|session| !session.touched)
        {
            session.touched = true;
            self.touched.push_back(index);
        }
    }
}

/// Adds what the session's userspace datapath dropped.
fn add_userspace_drops(sums: &mut BTreeMap<&'static str, u64>, session: &Session) {
    for (name, count) in session
        .netstack
        .iter()
        .flat_map(|netstack| netstack.dropped().iter())
    {
        *sums.entry(name).or_default() += count;
    }
}
