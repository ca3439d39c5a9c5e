//! What a link does to a datagram: delay, loss, repetition, reordering, a limit to its size, a cut.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// One direction of a link.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) latency: Duration,
    /// Up to this much more, at random: what reorders.
    pub(crate) jitter: Duration,
    /// Of 100 datagrams.
    pub(crate) loss: u32,
    pub(crate) repeated: u32,
    /// The longest datagram in bytes.
    pub(crate) max_len: usize,
    /// Bytes a second of a stream; as many as there are if nothing is said.
    pub(crate) rate: Option<u32>,
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
            rate: None,
            cut: false,
        }
    }

    /// How long the link is busy with so many bytes of a stream.
    pub(crate) fn takes(&self, len: usize) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(len as f64 / f64::from(rate))
        })
    }

    /// When the copies of a datagram arrive, counted from now; none when it is lost.
    pub(crate) fn delays(&self, len: usize, random: &mut StdRng) -> Vec<Duration> {
        if self.cut || len > self.max_len || random.random_ratio(self.loss, 100) {
            return Vec::new();
        }
        let copies = 1 + u32::from(random.random_ratio(self.repeated, 100));
        (0..copies)
            .map(|_| self.latency + self.some_jitter(random))
            .collect()
    }

    fn some_jitter(&self, random: &mut StdRng) -> Duration {
        random.random_range(Duration::ZERO..=self.jitter)
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
