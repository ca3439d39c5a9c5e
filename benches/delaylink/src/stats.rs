//! Counters of one direction.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that one thread counts and others read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Only the one writer may call this: a plain load and store is enough then.
    pub(crate) fn add(&self, count: u64) {
        self.set(self.get() + count);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn raise(&self, value: u64) {
        if value > self.get() {
            self.set(value);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What became of the frames of one direction.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) received: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) sent: Counter,
    pub(crate) lost: Counter,
    pub(crate) cut: Counter,
    /// The queue before the bottleneck was full.
    pub(crate) tail_drops: Counter,
    /// The ring was full.
    pub(crate) overflow: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) reordered: Counter,
    /// The kernel did not take them.
    pub(crate) refused: Counter,
    /// The kernel dropped them before this program saw them.
    pub(crate) kernel_drops: Counter,
    pub(crate) queued: Counter,
    pub(crate) queued_max: Counter,
    /// How much later than due frames left, added up, and the worst; microseconds.
    pub(crate) late_sum: Counter,
    pub(crate) late_max: Counter,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = self.late_sum.get() / self.sent.get().max(1);
        let figures = [
            ("rx", self.received.get()),
            ("rx_mb", self.received_bytes.get() >> 20),
            ("tx", self.sent.get()),
            ("lost", self.lost.get()),
            ("cut_frames", self.cut.get()),
            ("tail_drop", self.tail_drops.get()),
            ("overflow", self.overflow.get()),
            ("dup", self.duplicates.get()),
            ("reordered", self.reordered.get()),
            ("refused", self.refused.get()),
            ("kernel_drop", self.kernel_drops.get()),
            ("queued_kb", self.queued.get() >> 10),
            ("queued_max_kb", self.queued_max.get() >> 10),
            ("late_mean_us", mean),
            ("late_max_us", self.late_max.get()),
        ];
        let words = figures.map(|(name, value)| format!("{name}={value}"));
        f.write_str(&words.join(" "))
    }
}
