//! A bounded queue of packets on their way to a TUN, in which consecutive packets of a flow become super-packets.
//!
//! Which packets may be joined is in [`candidate`]; here is only where they lie. The payloads join without a copy:
//! [`Coalescer::space`] lends memory in which the next packet's headers lie over the end of the packet before it, whose bytes
//! there are kept aside and put back. Only a packet that does not continue the one before is moved.

mod candidate;

use std::collections::VecDeque;

use super::shape::Shape;
use super::{Abilities, Segmentation, Split};
use crate::queue::Used;
use candidate::{Candidate, MAX_DATAGRAMS, MAX_HEADER as MAX_COVERED};

/// Packets and super-packets in arrival order.
///
/// ```
/// use kvpn_wire::offload::{Abilities, Coalescer, Segmentation};
///
/// let mut queue = Coalescer::new(256 * 1024, 256, Abilities { tcp: true, udp: false });
/// let packet = b"not IP, so it passes as it is";
/// let space = queue.space(packet.len()).expect("there is room");
/// space[..packet.len()].copy_from_slice(packet);
/// queue.commit(packet.len());
/// let (out, segmentation) = queue.pop().expect("there is a packet");
/// assert_eq!((&*out, segmentation), (&packet[..], Segmentation::Whole));
/// ```
pub struct Coalescer {
    slab: Vec<u8>,
    entries: VecDeque<Entry>,
    max_packets: usize,
    abilities: Abilities,
    /// The last entry, while packets may join it.
    open: Option<Candidate>,
    lent: Option<Lent>,
    /// What lies under the headers of the lent memory.
    aside: [u8; MAX_COVERED],
    dropped: u64,
}

/// A packet or super-packet in the slab.
struct Entry {
    start: usize,
    len: usize,
    segmentation: Segmentation,
}

/// Memory that was given out to write one packet into.
struct Lent {
    start: usize,
    len: usize,
    /// How many bytes of the last entry lie under it.
    covered: usize,
}

impl Default for Coalescer {
    /// A queue without room, to stand in for another for a moment; takes no memory.
    fn default() -> Self {
        Self::new(0, 0, Abilities::default())
    }
}

impl Coalescer {
    /// A queue for at most `max_packets` packets or super-packets and `max_bytes` bytes. The slab is reserved at once; the
    /// operating system gives it pages as they are touched.
    pub fn new(max_bytes: usize, max_packets: usize, abilities: Abilities) -> Self {
        Self {
            slab: vec![0; max_bytes],
            entries: VecDeque::with_capacity(max_packets.min(1024)),
            max_packets,
            abilities,
            open: None,
            lent: None,
            aside: [0; MAX_COVERED],
            dropped: 0,
        }
    }

    /// What the receiver takes from now on; super-packets that are in the queue stay.
    pub fn set_abilities(&mut self, abilities: Abilities) {
        self.abilities = abilities;
    }

    /// Lends `len` bytes to write one packet into; [`Coalescer::commit`] tells how long it became. What is not committed before
    /// the next call never was. `None` when there is no room, which counts as a drop, or `len` is 0.
    pub fn space(&mut self, len: usize) -> Option<&mut [u8]> {
        self.take_back();
        if len == 0 {
            return None;
        }
        let Some(lent) = self.place(len) else {
            self.dropped += 1;
            return None;
        };
        let Lent { start, covered, .. } = lent;
        self.aside[..covered].copy_from_slice(&self.slab[start..start + covered]);
        self.lent = Some(lent);
        Some(&mut self.slab[start..start + len])
    }

    /// Queues the packet in the first `len` bytes of what [`Coalescer::space`] lent; nothing when `len` is 0.
    ///
    /// It joins the packet before it when that changes nothing for the receiver, see [`Coalescer::pop`]. `len` is the packet's
    /// length by its header; a packet of another length never joins. More than was lent is cut to what was lent.
    pub fn commit(&mut self, len: usize) {
        let Some(lent) = self.lent.take() else {
            return;
        };
        let len = len.min(lent.len);
        let start = lent.start + lent.covered;
        let mut header = [0; MAX_COVERED];
        let header = &mut header[..lent.covered];
        header.copy_from_slice(&self.slab[lent.start..start]);
        self.uncover(&lent);
        if self.join(start, header, len) {
            return;
        }
        self.make_whole(start, header, len);
        if len > 0 {
            self.append(start, len, Segmentation::Whole);
            self.open = Candidate::of(&self.slab[start..start + len], self.abilities);
        }
    }

    /// Like [`Coalescer::commit`] for a super-packet; nothing joins it. It is cut when the receiver does not take its kind or
    /// size, behind the memory that was lent, where there has to be room for all segments.
    ///
    /// False when it is malformed, or there was no room for all of it; each packet without room is counted, and so is a
    /// malformed one.
    pub fn commit_super(&mut self, len: usize, segmentation: Segmentation) -> bool {
        if segmentation == Segmentation::Whole {
            self.commit(len);
            return true;
        }
        let Some(lent) = &self.lent else {
            return false;
        };
        let (start, len) = (lent.start + lent.covered, len.min(lent.len));
        self.put_down();
        let Ok(split) = Split::new(&self.slab[start..start + len], segmentation) else {
            self.dropped += 1;
            return false;
        };
        if split.remaining() == 1 {
            complete(&mut self.slab[start..start + len]);
            self.append(start, len, Segmentation::Whole);
        } else if self.takes(segmentation, split.remaining()) {
            self.append(start, len, segmentation);
        } else {
            return self.cut(start, len, segmentation);
        }
        true
    }

    /// Queues a copy of a packet; false when it is empty, or there is no room (counted).
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let Some(space) = self.space(packet.len()) else {
            return false;
        };
        space.copy_from_slice(packet);
        self.commit(packet.len());
        true
    }

    /// Queues a copy of a super-packet, cut into packets when the receiver does not take its kind or size.
    ///
    /// False as for [`Coalescer::commit_super`].
    pub fn push_super(&mut self, packet: &[u8], segmentation: Segmentation) -> bool {
        let Ok(mut split) = Split::new(packet, segmentation) else {
            self.dropped += 1;
            return false;
        };
        if self.takes(segmentation, split.remaining()) {
            let Some(space) = self.space(packet.len()) else {
                return false;
            };
            space.copy_from_slice(packet);
            return self.commit_super(packet.len(), segmentation);
        }
        while split.remaining() > 0 {
            let Some(space) = self.space(split.max_len()) else {
                self.dropped += split.remaining() as u64 - 1;
                return false;
            };
            let len = split.next(space).unwrap_or(0);
            self.commit(len);
        }
        true
    }

    /// Takes the oldest packet; its bytes stay where they are until the next call.
    ///
    /// A super-packet's lengths and IPv4 checksum are right, the content of its transport checksum means nothing.
    /// [`Split`] gives back what was joined, byte for byte, but for the identification of IPv4 packets with "don't
    /// fragment", which means nothing either (RFC 6864, section 4.1).
    pub fn pop(&mut self) -> Option<(&mut [u8], Segmentation)> {
        self.take_back();
        let entry = self.entries.pop_front()?;
        if self.entries.is_empty() {
            self.open = None;
        }
        let packet = &mut self.slab[entry.start..entry.start + entry.len];
        if entry.segmentation != Segmentation::Whole {
            finish(packet);
        }
        Some((packet, entry.segmentation))
    }

    /// Packets and super-packets in the queue.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no packet in the queue.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Packets refused since the queue was made.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the receiver takes a super-packet of so many segments.
    fn takes(&self, segmentation: Segmentation, segments: usize) -> bool {
        let few = match segmentation {
            Segmentation::Udp { .. } => segments <= MAX_DATAGRAMS,
            Segmentation::Tcp { .. } | Segmentation::Whole => true,
        };
        few && self.abilities.takes(segmentation)
    }

    /// Where the next packet of up to `len` bytes goes: over the end of the one before, if it may join that.
    fn place(&self, len: usize) -> Option<Lent> {
        let start = self.free(len)?;
        let covered = match (&self.open, self.entries.back()) {
            (Some(open), Some(last)) if last.start + last.len == start => open.header_len(),
            _ => 0,
        };
        Some(Lent {
            start: start - covered,
            len,
            covered,
        })
    }

    /// The start of `len` free bytes in one piece, behind the last entry if possible.
    fn free(&self, len: usize) -> Option<usize> {
        if self.entries.len() >= self.max_packets {
            return None;
        }
        let used = Used::between(self.entries.front(), self.entries.back(), |entry| {
            (entry.start, entry.len)
        });
        used.room_for(len, self.slab.len())
    }

    /// Lets the packet whose headers are `header` and whose rest lies at `start` join the last entry, if it may.
    fn join(&mut self, start: usize, header: &[u8], len: usize) -> bool {
        let (Some(open), Some(last)) = (&mut self.open, self.entries.back_mut()) else {
            return false;
        };
        if header.is_empty() || len <= header.len() {
            return false;
        }
        let (before, behind) = self.slab.split_at_mut(start);
        let first = &mut before[last.start..];
        let payload = &behind[..len - header.len()];
        if !open.continues(first, header, payload) {
            return false;
        }
        last.len += payload.len();
        last.segmentation = open.segmentation();
        if !open.join(first, header, payload) {
            self.open = None;
        }
        true
    }

    /// Brings the packet in the lent memory to where it does not cover the last entry, which nothing joins any more.
    fn put_down(&mut self) {
        let Some(lent) = self.lent.take() else {
            return;
        };
        if lent.covered > 0 {
            let end = lent.start + lent.len;
            self.slab
                .copy_within(lent.start..end, lent.start + lent.covered);
            self.uncover(&lent);
        }
        self.open = None;
    }

    /// Makes one piece of a packet whose headers are `header` and whose rest lies at `start`, where it shall begin.
    fn make_whole(&mut self, start: usize, header: &[u8], len: usize) {
        let header = &header[..header.len().min(len)];
        let rest = len - header.len();
        self.slab
            .copy_within(start..start + rest, start + header.len());
        self.slab[start..start + header.len()].copy_from_slice(header);
    }

    /// Queues the segments of the super-packet at `start`, which is not queued itself, behind it.
    fn cut(&mut self, start: usize, len: usize, segmentation: Segmentation) -> bool {
        let first = self.entries.front().map_or(0, |entry| entry.start);
        let end = if first > start {
            first
        } else {
            self.slab.len()
        };
        let (packet, room) = self.slab[..end].split_at_mut(start + len);
        let mut split = Split::new(&packet[start..], segmentation)
            .expect("the caller has found it well formed");
        let max = match segmentation {
            Segmentation::Udp { size } if self.abilities.udp => {
                split.max_len() + (MAX_DATAGRAMS - 1) * usize::from(size)
            }
            Segmentation::Udp { .. } | Segmentation::Tcp { .. } | Segmentation::Whole => 0,
        };
        let mut at = 0;
        while self.entries.len() < self.max_packets {
            let Some((len, segmentation)) = split.next_super(max, &mut room[at..]) else {
                break;
            };
            self.entries.push_back(Entry {
                start: packet.len() + at,
                len,
                segmentation,
            });
            at += len;
        }
        self.dropped += split.remaining() as u64;
        split.remaining() == 0
    }

    fn append(&mut self, start: usize, len: usize, segmentation: Segmentation) {
        self.entries.push_back(Entry {
            start,
            len,
            segmentation,
        });
    }

    /// Forgets what was lent and not committed.
    fn take_back(&mut self) {
        if let Some(lent) = self.lent.take() {
            self.uncover(&lent);
        }
    }

    /// Puts back what was kept aside.
    fn uncover(&mut self, lent: &Lent) {
        self.slab[lent.start..lent.start + lent.covered]
            .copy_from_slice(&self.aside[..lent.covered]);
    }
}

/// Computes the checksum of a super-packet that is but one segment.
fn complete(packet: &mut [u8]) {
    let shape = Shape::read(packet).expect("only packets with such headers are super");
    shape.mend_ip_checksum(packet);
    shape.mend_transport_checksum(packet);
}

/// Writes into a super-packet's headers how long it has become.
fn finish(packet: &mut [u8]) {
    let shape = Shape::read(packet).expect("only packets with such headers are super");
    shape.set_total_len(packet, packet.len());
    shape.mend_ip_checksum(packet);
}

impl std::fmt::Debug for Coalescer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coalescer")
            .field("len", &self.entries.len())
            .field("max_packets", &self.max_packets)
            .field("max_bytes", &self.slab.len())
            .field("abilities", &self.abilities)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}
