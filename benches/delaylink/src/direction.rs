//! One direction of the link: what happens to a frame, and when it leaves.

use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use crate::Link;
use crate::chance::{Chance, Losses};
use crate::os::{BATCH, PacketSocket, Received, VIRTIO_HEADER, now, precise_timers};
use crate::ring::Ring;
use crate::shape::Shape;
use crate::stats::Stats;

/// A changed configuration is seen this soon, in nanoseconds.
const LOOK: u64 = 200_000_000;
/// What is due but could not be sent is tried again after this, in nanoseconds.
const RETRY: u64 = 20_000;
/// Sending pauses after this long, in nanoseconds: frames wait on the other side too.
const TURN: u64 = 1_000_000;

/// A thread's possessions.
pub(crate) struct Direction<'a> {
    index: usize,
    link: &'a Link,
    from: PacketSocket,
    to: PacketSocket,
    shape: Shape,
    generation: u64,
    ring: Ring,
    late: BinaryHeap<Late>,
    chance: Chance,
    losses: Losses,
    /// When the bottleneck has sent what it holds.
    free_at: u64,
    /// Keeps the order under jitter.
    last_due: u64,
}

/// A frame that leaves out of turn, earliest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Late {
    due: std::cmp::Reverse<u64>,
    frame: Vec<u8>,
}

impl<'a> Direction<'a> {
    pub(crate) fn new(index: usize, link: &'a Link, from: PacketSocket, to: PacketSocket) -> Self {
        let shape = link.shapes.lock().unwrap_or_else(PoisonError::into_inner)[index];
        Self {
            index,
            link,
            from,
            to,
            shape,
            generation: 0,
            ring: Ring::new(shape.limit.max(1 << 20)),
            late: BinaryHeap::new(),
            chance: Chance::new(shape.seed * 2 + index as u64),
            losses: Losses::default(),
            free_at: 0,
            last_due: 0,
        }
    }

    /// Moves frames until receiving fails for good.
    ///
    /// # Errors
    /// The interface is gone.
    pub(crate) fn run(mut self) -> io::Result<Infallible> {
        precise_timers();
        let mut received = Received::new();
        let mut next_look = 0;
        loop {
            self.look_at_shape();
            let count = received.receive(&self.from)?;
            let time = now();
            for index in 0..count {
                self.take(time, received.frame(index));
            }
            self.release();
            if time >= next_look {
                next_look = time + LOOK;
                self.stats().kernel_drops.add(self.from.kernel_drops());
            }
            if count < BATCH {
                self.wait();
            }
        }
    }

    fn stats(&self) -> &'a Stats {
        &self.link.stats[self.index]
    }

    fn look_at_shape(&mut self) {
        let generation = self.link.generation.load(Relaxed);
        if generation != self.generation {
            let shapes = self.link.shapes.lock();
            self.shape = shapes.unwrap_or_else(PoisonError::into_inner)[self.index];
            self.generation = generation;
        }
    }

    /// Decides the fate of a frame that has just arrived.
    fn take(&mut self, time: u64, frame: &[u8]) {
        let (stats, shape) = (self.stats(), self.shape);
        let bytes = frame.len().saturating_sub(VIRTIO_HEADER) as u64;
        stats.received.add(1);
        stats.received_bytes.add(bytes);
        if shape.cut {
            return stats.cut.add(1);
        }
        if self.losses.next(shape.loss, shape.burst, &mut self.chance) {
            return stats.lost.add(1);
        }
        let Some(leave) = self.pass_bottleneck(time, bytes) else {
            return stats.tail_drops.add(1);
        };
        self.send_at(leave, frame);
        if self.chance.hits(shape.duplicates) {
            stats.duplicates.add(1);
            self.send_at(leave, frame);
        }
    }

    /// When the bottleneck has let the frame through; `None` when its queue is full.
    fn pass_bottleneck(&mut self, time: u64, bytes: u64) -> Option<u64> {
        if self.shape.rate == 0 {
            return Some(time);
        }
        let start = self.free_at.max(time);
        if start - time > self.shape.buffer {
            return None;
        }
        self.free_at = start + (bytes * 8).saturating_mul(1_000_000_000) / self.shape.rate;
        Some(self.free_at)
    }

    fn send_at(&mut self, leave: u64, frame: &[u8]) {
        let (stats, shape) = (self.stats(), self.shape);
        let mut due = leave + shape.delay;
        if shape.jitter > 0 {
            let jitter = (self.chance.next() * 2.0 - 1.0) * shape.jitter as f64;
            due = due.saturating_add_signed(jitter as i64).max(leave);
        }
        if self.chance.hits(shape.reorder) {
            stats.reordered.add(1);
            let due = std::cmp::Reverse(due + shape.reorder_by);
            let frame = frame.to_vec();
            return self.late.push(Late { due, frame });
        }
        let due = due.max(self.last_due);
        if self.ring.push(frame, due) {
            self.last_due = due;
        } else {
            stats.overflow.add(1);
        }
    }

    /// Sends what is due.
    fn release(&mut self) {
        let stats = self.stats();
        let queued = self.ring.used() as u64;
        stats.queued.set(queued);
        stats.queued_max.raise(queued);
        let start = now();
        let mut time = start;
        while self.release_batch(time) == BATCH {
            time = now();
            if time - start > TURN {
                break;
            }
        }
        while self.late.peek().is_some_and(|late| late.due.0 <= time) {
            if let Some(late) = self.late.pop() {
                self.count(self.to.send(&[&late.frame]));
            }
        }
    }

    /// Sends at most a batch of frames in order; how many are done with.
    fn release_batch(&mut self, time: u64) -> usize {
        let Some(due) = self.ring.due().filter(|due| *due <= time) else {
            return 0;
        };
        let mut frames: [&[u8]; BATCH] = [&[]; BATCH];
        let mut count = 0;
        for (slot, frame) in frames.iter_mut().zip(self.ring.ready(time)) {
            *slot = frame;
            count += 1;
        }
        let sent = self.to.send(&frames[..count]);
        self.count(sent);
        let late = (time - due) / 1000;
        self.stats().late_sum.add(late * sent.done as u64);
        self.stats().late_max.raise(late);
        self.ring.drop_first(sent.done);
        sent.done
    }

    fn count(&self, sent: crate::os::Sent) {
        self.stats().sent.add((sent.done - sent.refused) as u64);
        self.stats().refused.add(sent.refused as u64);
    }

    /// Sleeps until a frame arrives or one is due.
    fn wait(&self) {
        let time = now();
        let dues = self.ring.due().into_iter();
        let dues = dues.chain(self.late.peek().map(|late| late.due.0));
        let until = dues.fold(time + LOOK, u64::min);
        let nanos = if until <= time { RETRY } else { until - time };
        self.from.wait(nanos);
    }
}
