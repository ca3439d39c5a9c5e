//! What the drivers of a gateway's parts hand each other: bounded channels, each with a waker. Nothing goes through them for a data
//! message that came where it belongs.

use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use kvpn_gateway_core::{Shard, Stranger};
use mio::Waker;

use crate::directory::Directory;
use crate::driver::Handover;

/// Messages that may wait for one driver, each at most 64 KiB.
const WAITING: usize = 128;

/// What one driver has for another.
pub(crate) enum Message {
    /// Datagrams of the `udp` carrier that lie side by side: from whom, and how long each is but the last.
    Datagrams(SocketAddr, Box<[u8]>, usize),
    /// An initiation that came by the `udp` carrier.
    Initiation(Box<Stranger>),
    /// A stream of the `api` carrier.
    Stream(Box<Handover>),
}

/// How often one driver handed something to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HandedOver {
    pub(crate) datagrams: u64,
    pub(crate) initiations: u64,
    pub(crate) streams: u64,
    /// There was no room; a stream is closed then.
    pub(crate) dropped: u64,
}

impl AddAssign for HandedOver {
    fn add_assign(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.initiations += other.initiations;
        self.streams += other.streams;
        self.dropped += other.dropped;
    }
}

/// The way into one driver.
#[derive(Clone)]
struct Door {
    messages: SyncSender<Message>,
    waker: Arc<Waker>,
}

/// One driver's view of the others.
pub(crate) struct Neighbours {
    shard: Shard,
    doors: Box<[Door]>,
    received: Receiver<Message>,
    /// Who has which session.
    pub(crate) directory: Arc<Directory>,
    /// What was handed over by this driver.
    pub(crate) handed_over: HandedOver,
    unfinished: bool,
}

impl Neighbours {
    /// The views of drivers with these wakers, in the order of their parts.
    pub(crate) fn all(wakers: &[Arc<Waker>], directory: &Arc<Directory>) -> Vec<Self> {
        let (doors, receivers): (Vec<Door>, Vec<_>) = wakers
            .iter()
            .map(|waker| {
                let (messages, received) = sync_channel(WAITING);
                let waker = Arc::clone(waker);
                (Door { messages, waker }, received)
            })
            .unzip();
        Shard::all(wakers.len())
            .zip(receivers)
            .map(|(shard, received)| Self {
                shard,
                doors: doors.clone().into(),
                received,
                directory: Arc::clone(directory),
                handed_over: HandedOver::default(),
                unfinished: false,
            })
            .collect()
    }

    /// The part whose driver this is.
    pub(crate) fn shard(&self) -> Shard {
        self.shard
    }

    /// Hands datagrams that are others' to them, and runs of those that are ours to `ours`: `stride` bytes each but the last.
    pub(crate) fn sort(
        &mut self,
        from: SocketAddr,
        bytes: &[u8],
        stride: usize,
        mut ours: impl FnMut(&[u8]),
    ) {
        if self.shard.count() == 1 {
            return ours(bytes);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let owner = self.owner(rest, stride);
            let mut length = rest.len().min(stride);
            while length < rest.len() && self.owner(&rest[length..], stride) == owner {
                length = rest.len().min(length + stride);
            }
            let (run, others) = rest.split_at(length);
            if owner == self.shard.number() {
                ours(run);
            } else {
                self.hand_over(owner, Message::Datagrams(from, run.into(), stride));
            }
            rest = others;
        }
    }

    /// How many sessions have flows at the other drivers.
    pub(crate) fn flows_elsewhere(&self) -> usize {
        self.directory.flows_elsewhere(self.shard.number())
    }

    /// Whose the first of these datagrams is; ours when it does not say.
    fn owner(&self, datagrams: &[u8], stride: usize) -> u8 {
        let first = &datagrams[..datagrams.len().min(stride)];
        let owner = self.shard.of_datagram(first);
        owner.unwrap_or_else(|| self.shard.number())
    }

    /// Gives `message` to the driver of `part`, or drops it and counts that.
    pub(crate) fn hand_over(&mut self, part: u8, message: Message) {
        let count = match &message {
            Message::Datagrams(..) => &mut self.handed_over.datagrams,
            Message::Initiation(_) => &mut self.handed_over.initiations,
            Message::Stream(_) => &mut self.handed_over.streams,
        };
        let door = &self.doors[usize::from(part)];
        match door.messages.try_send(message) {
            Ok(()) => *count += 1,
            Err(_) => self.handed_over.dropped += 1,
        }
        self.wake(part);
    }

    /// Tells the others how many sessions have flows here: they share the memory for flows anew.
    pub(crate) fn tell_flows(&self, count: usize) {
        let own = self.shard.number();
        if self.directory.set_flows(own, count) {
            (0..self.shard.count())
                .filter(|&part| part != own)
                .for_each(|part| self.wake(part));
        }
    }

    /// The next that another driver had for this one.
    pub(crate) fn next(&mut self) -> Option<Message> {
        // Each driver holds a way into its own channel, so that it never closes.
        let message = self.received.try_recv().ok();
        self.unfinished = message.is_some();
        message
    }

    /// Whether the last look at the channel found something.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    fn wake(&self, part: u8) {
        if let Err(error) = self.doors[usize::from(part)].waker.wake() {
            tracing::error!(%error, part, "a driver cannot be woken");
        }
    }
}

#[cfg(test)]
mod tests {
    use mio::{Poll, Token};

    use super::*;

    /// A data message for the part of this number of four.
    fn data(part: u8, fill: u8) -> [u8; 48] {
        let mut datagram = [fill; 48];
        datagram[..8].copy_from_slice(&[4, 0, 0, 0, 9, part, 0, 0]);
        datagram
    }

    fn neighbours() -> Vec<Neighbours> {
        let wakers = [0, 1, 2, 3].map(|_| {
            let poll = Poll::new().unwrap();
            Arc::new(Waker::new(poll.registry(), Token(0)).unwrap())
        });
        Neighbours::all(&wakers, &Arc::new(Directory::new(4)))
    }

    #[test]
    fn each_part_gets_its_datagrams_in_order() {
        let mut all = neighbours();
        let from: SocketAddr = "192.0.2.5:4000".parse().unwrap();
        let mut bytes = Vec::new();
        for (part, fill) in [(2, 1), (2, 2), (1, 3), (2, 4), (1, 5)] {
            bytes.extend(data(part, fill));
        }
        // The last may be shorter.
        bytes.truncate(bytes.len() - 16);
        let mut ours = Vec::new();
        all[1].sort(from, &bytes, 48, |run| ours.push(run.to_vec()));
        assert_eq!(ours, [data(1, 3).to_vec(), data(1, 5)[..32].to_vec()]);
        for expected in [&bytes[..96], &bytes[144..192]] {
            let Some(Message::Datagrams(sender, bytes, 48)) = all[2].next() else {
                panic!("no datagrams");
            };
            assert_eq!((sender, &*bytes), (from, expected));
        }
        assert!(all[2].next().is_none() && all[3].next().is_none());
        assert_eq!(all[1].handed_over.datagrams, 2);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut all = neighbours();
        let from = "192.0.2.5:4000".parse().unwrap();
        for _ in 0..WAITING + 3 {
            all[0].sort(from, &data(3, 0), 48, |_| panic!("not ours"));
        }
        let HandedOver {
            datagrams, dropped, ..
        } = all[0].handed_over;
        assert_eq!((datagrams, dropped), (WAITING as u64, 3));
    }
}
