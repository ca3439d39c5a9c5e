//! One direction of a virtual link: loses, repeats, delays and reorders packets as its seed says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a link does to packets; probabilities in thousandths.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    pub delay: Duration,
    /// Each packet takes up to this much longer, which reorders.
    pub jitter: Duration,
    pub loss: u64,
    pub duplication: u64,
    /// How long each packet occupies the link; zero for none of this.
    pub spacing: Duration,
    /// Packets that may wait for the link; what comes on top is lost.
    pub queue: u32,
}

impl Quality {
    pub const PERFECT: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0,
        duplication: 0,
        spacing: Duration::ZERO,
        queue: u32::MAX,
    };

    pub fn delayed(millis: u64) -> Self {
        Self {
            delay: Duration::from_millis(millis),
            ..Self::PERFECT
        }
    }
}

#[derive(Debug)]
pub struct Link {
    quality: Quality,
    rng: Rng,
    flying: BTreeMap<(Instant, u64), Vec<u8>>,
    count: u64,
    pub lost: u64,
    /// When the link has sent all that waits for it.
    free: Option<Instant>,
}

impl Link {
    pub fn new(quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            rng: Rng(seed | 1),
            flying: BTreeMap::new(),
            count: 0,
            lost: 0,
            free: None,
        }
    }

    pub fn send(&mut self, packet: &[u8], now: Instant) {
        let copies = if self.rng.chance(self.quality.duplication) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            if self.rng.chance(self.quality.loss) {
                self.lost += 1;
                continue;
            }
            let free = self.free.map_or(now, |free| free.max(now));
            if free - now > self.quality.spacing.saturating_mul(self.quality.queue) {
                self.lost += 1;
                continue;
            }
            let sent = free + self.quality.spacing;
            self.free = Some(sent);
            let jitter = self
                .quality
                .jitter
                .mul_f64(self.rng.below(1000) as f64 / 1000.0);
            self.count += 1;
            self.flying.insert(
                (sent + self.quality.delay + jitter, self.count),
                packet.to_vec(),
            );
        }
    }

    pub fn receive(&mut self, now: Instant) -> Option<Vec<u8>> {
        let entry = self.flying.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    pub fn next(&self) -> Option<Instant> {
        self.flying.first_key_value().map(|(&(at, _), _)| at)
    }
}

/// xorshift64* (Vigna 2016).
#[derive(Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    pub fn chance(&mut self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }
}
