//! The table of flows: by id in a slab, by addresses in a map. It knows nothing of what a flow does.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::datagram::DatagramFlow;
use crate::event::{FlowCounts, FlowId, Full};
use crate::tcp::TcpFlow;

/// The kinds of flow, for telling their tuples apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    Echo,
}

/// What a flow is known by. `peer` is the end inside the tunnel, whose packets come in; `own` is the end that this
/// stack speaks for. An echo flow has its identifier as the peer's port and 0 as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub(crate) kind: Kind,
    pub(crate) peer: SocketAddr,
    pub(crate) own: SocketAddr,
}

/// What a flow does.
#[derive(Debug)]
pub(crate) enum Protocol {
    Tcp(Box<TcpFlow>),
    Udp(Box<DatagramFlow>),
    Echo(Box<DatagramFlow>),
}

/// One flow and what the stack has to remember about it.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) tuple: Tuple,
    pub(crate) protocol: Protocol,
    /// When the flow is to be woken: the slot of `Deadlines`.
    pub(crate) wake: Option<Instant>,
    /// It may have packets to emit and stands in the stack's queue for that.
    pub(crate) stirred: bool,
    /// The caller knows of it: it opened it, or it took the opening event.
    pub(crate) announced: bool,
}

/// A hasher that nobody outside can predict collisions of (SipHash-1-3), keyed from the stack's own seed. Nothing depends on the
/// order of the maps that use it.
#[derive(Debug, Clone)]
pub(crate) struct Keyed(DefaultHasher);

impl Keyed {
    pub(crate) fn new(key: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(key);
        Self(hasher)
    }
}

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        self.0.clone()
    }
}

/// In few words: it is hashed for every packet that is not of the same flow as the one before.
impl Hash for Tuple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = u64::from(self.peer.port()) << 16 | u64::from(self.own.port());
        state.write_u64(ports << 8 | self.kind as u64);
        match (self.peer.ip(), self.own.ip()) {
            (IpAddr::V4(peer), IpAddr::V4(own)) => {
                state.write_u64(u64::from(peer.to_bits()) << 32 | u64::from(own.to_bits()));
            }
            (peer, own) => [peer, own]
                .map(|ip| match ip {
                    IpAddr::V4(ip) => state.write_u128(u128::from(ip.to_bits())),
                    IpAddr::V6(ip) => state.write_u128(ip.to_bits()),
                })
                .into_iter()
                .collect(),
        }
    }
}

/// All flows of one stack.
#[derive(Debug)]
pub(crate) struct Flows {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_tuple: HashMap<Tuple, FlowId, Keyed>,
    /// The flow that was found last: most packets are of the same as the one before.
    latest: Option<(Tuple, FlowId)>,
    counts: FlowCounts,
    max: usize,
}

#[derive(Debug, Default)]
struct Slot {
    /// Counts the flows that lived here, so that an id of a former one finds nothing.
    generation: u32,
    flow: Option<Flow>,
}

impl Flows {
    pub(crate) fn new(max: usize, keyed: Keyed) -> Self {
        let max = max.clamp(1, 1 << 24);
        let by_tuple = HashMap::with_hasher(keyed);
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_tuple,
            latest: None,
            counts: FlowCounts::default(),
            max,
        }
    }

    pub(crate) fn counts(&self) -> FlowCounts {
        self.counts
    }

    pub(crate) fn is_full(&self) -> bool {
        self.by_tuple.len() >= self.max
    }

    pub(crate) fn find(&self, tuple: &Tuple) -> Option<FlowId> {
        self.by_tuple.get(tuple).copied()
    }

    /// [`Flows::find`] for those who will ask for the same again.
    pub(crate) fn find_again(&mut self, tuple: &Tuple) -> Option<FlowId> {
        if let Some((latest, id)) = &self.latest
            && latest == tuple
        {
            return Some(*id);
        }
        let id = self.find(tuple)?;
        self.latest = Some((*tuple, id));
        Some(id)
    }

    /// The tuple must be free.
    pub(crate) fn insert(
        &mut self,
        tuple: Tuple,
        protocol: Protocol,
        announced: bool,
    ) -> Result<FlowId, Full> {
        if self.is_full() {
            return Err(Full::Flows);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("max is at most 2^24")
        });
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let id = FlowId(u64::from(slot.generation) << 32 | u64::from(index));
        slot.flow = Some(Flow {
            tuple,
            protocol,
            wake: None,
            stirred: false,
            announced,
        });
        self.by_tuple.insert(tuple, id);
        *self.count(tuple.kind) += 1;
        Ok(id)
    }

    /// The caller cancels the flow's deadline.
    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        let flow = self.slot_mut(id)?.flow.take()?;
        self.free.push(id.index());
        self.by_tuple.remove(&flow.tuple);
        self.latest = self.latest.filter(|&(_, latest)| latest != id);
        *self.count(flow.tuple.kind) -= 1;
        Some(flow)
    }

    pub(crate) fn get(&self, id: FlowId) -> Option<&Flow> {
        let slot = self.slots.get(id.index() as usize)?;
        if slot.generation == id.generation() {
            slot.flow.as_ref()
        } else {
            None
        }
    }

    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.slot_mut(id)?.flow.as_mut()
    }

    pub(crate) fn tcp(&self, id: FlowId) -> Option<&TcpFlow> {
        match &self.get(id)?.protocol {
            Protocol::Tcp(flow) => Some(flow),
            Protocol::Udp(_) | Protocol::Echo(_) => None,
        }
    }

    pub(crate) fn tcp_mut(&mut self, id: FlowId) -> Option<&mut TcpFlow> {
        match &mut self.get_mut(id)?.protocol {
            Protocol::Tcp(flow) => Some(flow),
            Protocol::Udp(_) | Protocol::Echo(_) => None,
        }
    }

    /// A UDP flow, or an echo flow, as `kind` says.
    pub(crate) fn datagram_mut(&mut self, id: FlowId, kind: Kind) -> Option<&mut DatagramFlow> {
        match (&mut self.get_mut(id)?.protocol, kind) {
            (Protocol::Udp(flow), Kind::Udp) | (Protocol::Echo(flow), Kind::Echo) => Some(flow),
            (
                Protocol::Tcp(_) | Protocol::Udp(_) | Protocol::Echo(_),
                Kind::Tcp | Kind::Udp | Kind::Echo,
            ) => None,
        }
    }

    fn slot_mut(&mut self, id: FlowId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(id.index() as usize)?;
        (slot.generation == id.generation()).then_some(slot)
    }

    fn count(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Tcp => &mut self.counts.tcp,
            Kind::Udp => &mut self.counts.udp,
            Kind::Echo => &mut self.counts.echo,
        }
    }
}

impl FlowId {
    fn index(self) -> u32 {
        (self.0 & u64::from(u32::MAX)) as u32
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}
