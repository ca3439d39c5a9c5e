//! TIME-WAIT without its buffers (RFC 9293 section 3.6.1): the numbers of flows that ended a short while ago, so that a repeated
//! FIN is acknowledged again and an old segment cannot open or reset anything.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::flows::{Keyed, Tuple};
use crate::tcp::Numbers;

/// How long a tuple is remembered: as long as the longest pause between two repetitions of a FIN (RFC 6298 section 2.5), which is also
/// what Linux takes.
const LINGER: Duration = Duration::from_secs(60);
/// Most tuples remembered; the oldest goes first. About 250 bytes each.
const MAX_LINGERING: usize = 8192;

/// The flows that ended a short while ago.
#[derive(Debug)]
pub(crate) struct Lingering {
    numbers: HashMap<Tuple, (Instant, Numbers), Keyed>,
    order: VecDeque<(Instant, Tuple)>,
}

impl Lingering {
    pub(crate) fn new(keyed: Keyed) -> Self {
        Self {
            numbers: HashMap::with_hasher(keyed),
            order: VecDeque::new(),
        }
    }

    pub(crate) fn insert(&mut self, tuple: Tuple, numbers: Numbers, now: Instant) {
        let until = now + LINGER;
        self.expire(now);
        self.numbers.insert(tuple, (until, numbers));
        self.order.push_back((until, tuple));
    }

    pub(crate) fn find(&self, tuple: &Tuple, now: Instant) -> Option<Numbers> {
        let &(until, numbers) = self.numbers.get(tuple)?;
        (now < until).then_some(numbers)
    }

    pub(crate) fn forget(&mut self, tuple: &Tuple) {
        self.numbers.remove(tuple);
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(until, tuple)) = self.order.front() {
            if now < until && self.order.len() < MAX_LINGERING {
                return;
            }
            self.order.pop_front();
            if self
                .numbers
                .get(&tuple)
                .is_some_and(|&(current, _)| current == until)
            {
                self.numbers.remove(&tuple);
            }
        }
    }
}
