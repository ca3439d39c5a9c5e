//! What a link does to a datagram: delay, loss, repetition, reordering, a limit to its size, a cut.

use std::time::Duration;

use super::random::Random;

/// One direction of a link.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) latency: Duration,
    /// Up to this much more, at random: what reorders.
    pub(crate) jitter: Duration,
    /// Of 100 datagrams.
    pub(crate) loss: u64,
    pub(crate) repeated: u64,
    /// The longest datagram in bytes.
    pub(crate) max_len: usize,
    pub(crate) cut: bool,
}

/// Both directions of the way over UDP.
#[derive(Debug, Clone)]
pub(crate) struct Udp {
    pub(crate) to_gateway: Link,
    pub(crate) to_client: Link,
}

impl Link {
    /// A stream: nothing is lost or reordered. Its order is kept by whoever puts datagrams on it.
    pub(crate) fn stream(latency: Duration) -> Self {
        Self {
            latency,
            jitter: Duration::ZERO,
            loss: 0,
            repeated: 0,
            max_len: usize::from(u16::MAX),
            cut: false,
        }
    }

    /// When the copies of a datagram arrive, counted from now; none when it is lost.
    pub(crate) fn delays(&self, len: usize, random: &mut Random) -> Vec<Duration> {
        if self.cut || len > self.max_len || (self.loss > 0 && random.chance(self.loss)) {
            return Vec::new();
        }
        let copies = if self.repeated > 0 && random.chance(self.repeated) {
            2
        } else {
            1
        };
        (0..copies)
            .map(|_| self.latency + self.some_jitter(random))
            .collect()
    }

    fn some_jitter(&self, random: &mut Random) -> Duration {
        match u64::try_from(self.jitter.as_micros()).expect("a short time") {
            0 => Duration::ZERO,
            micros => Duration::from_micros(random.next() % micros),
        }
    }
}

impl Udp {
    /// The same for both directions.
    pub(crate) fn both(link: Link) -> Self {
        Self {
            to_gateway: link.clone(),
            to_client: link,
        }
    }

    pub(crate) fn direction(&self, to_gateway: bool) -> &Link {
        if to_gateway {
            &self.to_gateway
        } else {
            &self.to_client
        }
    }

    pub(crate) fn cut(&mut self, cut: bool) {
        self.to_gateway.cut = cut;
        self.to_client.cut = cut;
    }
}

impl Default for Udp {
    fn default() -> Self {
        Self::both(Link {
            latency: Duration::from_millis(5),
            max_len: 1472,
            ..Link::stream(Duration::ZERO)
        })
    }
}
