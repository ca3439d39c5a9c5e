//! Which packets out of the tunnel answer a flow that was opened from here. Everything else is refused: whoever is inside
//! the cluster cannot reach the laptop. Decides about packets, changes none.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use kvpn_wire::packet::{FiveTuple, IcmpMessage, Ip, Protocol, TcpFlags};

/// Flows at once.
const MAX_FLOWS: usize = 65_536;

/// Fragmented packets whose later fragments may still come.
const MAX_FRAGMENTED: usize = 256;

/// An idle TCP flow is forgotten after this time; keepalives of programs and kernels come every two hours.
const TCP_IDLE: Duration = Duration::from_secs(24 * 3600);

/// A TCP flow that was reset or finished both ways: its last packets may still come.
const TCP_CLOSED_IDLE: Duration = Duration::from_secs(120);

/// An idle UDP flow is forgotten after this time (RFC 4787 section 4.3 asks for at least 5 min).
const UDP_IDLE: Duration = Duration::from_secs(300);

/// An unanswered ping is forgotten after this time.
const ECHO_IDLE: Duration = Duration::from_secs(60);

/// Fragments of one packet come within this time (RFC 791 suggests 15 s, RFC 8200 60 s).
const FRAGMENT_IDLE: Duration = Duration::from_secs(30);

/// Pause between two searches for idle flows.
const SWEEP: Duration = Duration::from_secs(30);

/// Pause between two searches for room when the table is full.
const SQUEEZE: Duration = Duration::from_secs(1);

/// Whose a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A program's, through the TUN.
    Tun,
    /// kvpn's own, through the userspace stack.
    Stack,
}

/// Why a packet may not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The same flow is kvpn's own (or a program's).
    Taken,
    /// Too many flows.
    Full,
    /// Answers to it could not be told from anybody's packets.
    Untrackable,
}

/// The flows opened from here, by the packets that leave.
#[derive(Debug)]
pub(crate) struct Tracker {
    /// Looked up by key only; where the order matters nothing is iterated.
    flows: HashMap<FiveTuple, Flow, BuildHasherDefault<DefaultHasher>>,
    fragmented: BTreeMap<(IpAddr, u32), (Owner, Instant)>,
    swept: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    owner: Owner,
    last: Instant,
    finished_here: bool,
    finished_there: bool,
}

impl Tracker {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            flows: HashMap::default(),
            fragmented: BTreeMap::new(),
            swept: now,
        }
    }

    /// How many flows are remembered.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// The TCP connections of programs that are open, as the packets that leave name them.
    pub(crate) fn open_connections(&self, now: Instant) -> impl Iterator<Item = &FiveTuple> {
        let open = move |tuple: &FiveTuple, flow: &Flow| {
            let ended = flow.finished_here && flow.finished_there;
            tuple.protocol == Protocol::Tcp
                && flow.owner == Owner::Tun
                && !ended
                && flow.is_alive(tuple.protocol, now)
        };
        let flows = self.flows.iter();
        flows
            .filter(move |(tuple, flow)| open(tuple, flow))
            .map(|(tuple, _)| tuple)
    }

    /// The session has other addresses: no flow goes on.
    pub(crate) fn clear(&mut self) {
        self.flows.clear();
        self.fragmented.clear();
    }

    /// A packet that leaves; it opens a flow or belongs to one.
    pub(crate) fn outgoing(
        &mut self,
        ip: &Ip<'_>,
        owner: Owner,
        now: Instant,
    ) -> Result<(), Refused> {
        if !ip.has_transport_header() {
            return Ok(());
        }
        let Some(tuple) = FiveTuple::of(ip) else {
            return self.outgoing_error(ip, owner);
        };
        if ip
            .icmp()
            .is_some_and(|icmp| matches!(icmp.message(), IcmpMessage::EchoReply { .. }))
        {
            return Err(Refused::Untrackable);
        }
        let end = ending(ip);
        if let Some(flow) = self.flows.get_mut(&tuple) {
            if flow.owner != owner && flow.is_alive(tuple.protocol, now) {
                return Err(Refused::Taken);
            }
            flow.owner = owner;
            flow.last = now;
            flow.note(end, true);
            return Ok(());
        }
        self.make_room(now)?;
        let mut flow = Flow {
            owner,
            last: now,
            finished_here: false,
            finished_there: false,
        };
        flow.note(end, true);
        self.flows.insert(tuple, flow);
        Ok(())
    }

    /// Whose packet out of the tunnel this is; none when nobody asked for it.
    pub(crate) fn incoming(&mut self, ip: &Ip<'_>, now: Instant) -> Option<Owner> {
        if !ip.has_transport_header() {
            return self.incoming_fragment(ip, now);
        }
        let owner = match FiveTuple::of(ip) {
            Some(tuple) => self.incoming_flow(ip, tuple.reversed(), now)?,
            None => self.flow_of_error(FiveTuple::quoted_by(ip)?, now)?,
        };
        if let Some(fragment) = ip.fragment() {
            self.note_fragmented((ip.src(), fragment.id), owner, now);
        }
        Some(owner)
    }

    fn incoming_flow(&mut self, ip: &Ip<'_>, tuple: FiveTuple, now: Instant) -> Option<Owner> {
        let request = ip
            .icmp()
            .is_some_and(|icmp| matches!(icmp.message(), IcmpMessage::EchoRequest { .. }));
        let flow = self
            .flows
            .get_mut(&tuple)
            .filter(|flow| !request && flow.is_alive(tuple.protocol, now))?;
        flow.last = now;
        flow.note(ending(ip), false);
        Some(flow.owner)
    }

    /// An error about a packet of ours; it keeps no flow alive.
    fn flow_of_error(&self, quoted: FiveTuple, now: Instant) -> Option<Owner> {
        self.flows
            .get(&quoted)
            .filter(|flow| flow.is_alive(quoted.protocol, now))
            .map(|flow| flow.owner)
    }

    /// An error of the laptop's about a packet it got; anything else without ports cannot be answered. The stack's own are
    /// about what was let in to it, and may be the first that leaves of that flow.
    fn outgoing_error(&self, ip: &Ip<'_>, owner: Owner) -> Result<(), Refused> {
        let about_ours = FiveTuple::quoted_by(ip).is_some_and(|quoted| {
            owner == Owner::Stack || self.flows.contains_key(&quoted.reversed())
        });
        if about_ours {
            Ok(())
        } else {
            Err(Refused::Untrackable)
        }
    }

    fn incoming_fragment(&self, ip: &Ip<'_>, now: Instant) -> Option<Owner> {
        let (owner, seen) = self.fragmented.get(&(ip.src(), ip.fragment()?.id))?;
        (now.saturating_duration_since(*seen) < FRAGMENT_IDLE).then_some(*owner)
    }

    fn note_fragmented(&mut self, key: (IpAddr, u32), owner: Owner, now: Instant) {
        if self.fragmented.len() >= MAX_FRAGMENTED {
            let oldest = self
                .fragmented
                .iter()
                .min_by_key(|(_, (_, seen))| *seen)
                .map(|(key, _)| *key);
            oldest.and_then(|key| self.fragmented.remove(&key));
        }
        self.fragmented.insert(key, (owner, now));
    }

    /// Forgets idle flows now and then; when the table is full, younger and younger ones.
    fn make_room(&mut self, now: Instant) -> Result<(), Refused> {
        let since = now.saturating_duration_since(self.swept);
        let full = self.flows.len() >= MAX_FLOWS;
        if since >= SWEEP || (full && since >= SQUEEZE) {
            self.swept = now;
            self.flows
                .retain(|tuple, flow| flow.is_alive(tuple.protocol, now));
            for limit in [UDP_IDLE, ECHO_IDLE, FRAGMENT_IDLE] {
                if self.flows.len() >= MAX_FLOWS {
                    self.flows
                        .retain(|_, flow| now.saturating_duration_since(flow.last) < limit);
                }
            }
        }
        if self.flows.len() < MAX_FLOWS {
            Ok(())
        } else {
            Err(Refused::Full)
        }
    }
}

impl Flow {
    fn is_alive(&self, protocol: Protocol, now: Instant) -> bool {
        let limit = match protocol {
            Protocol::Tcp if self.finished_here && self.finished_there => TCP_CLOSED_IDLE,
            Protocol::Tcp => TCP_IDLE,
            Protocol::Udp => UDP_IDLE,
            Protocol::Icmpv4 | Protocol::Icmpv6 | Protocol::Other(_) => ECHO_IDLE,
        };
        now.saturating_duration_since(self.last) < limit
    }

    fn note(&mut self, end: End, outgoing: bool) {
        match end {
            End::None => {}
            End::Opening => (self.finished_here, self.finished_there) = (false, false),
            End::Reset => (self.finished_here, self.finished_there) = (true, true),
            End::Finished if outgoing => self.finished_here = true,
            End::Finished => self.finished_there = true,
        }
    }
}

/// What a TCP segment says about the life of its flow.
enum End {
    None,
    Opening,
    Finished,
    Reset,
}

fn ending(ip: &Ip<'_>) -> End {
    let Some(flags) = ip.tcp().map(|tcp| tcp.flags()) else {
        return End::None;
    };
    if flags.contains(TcpFlags::RST) {
        End::Reset
    } else if flags.contains(TcpFlags::SYN) {
        End::Opening
    } else if flags.contains(TcpFlags::FIN) {
        End::Finished
    } else {
        End::None
    }
}

#[cfg(test)]
mod tests;
