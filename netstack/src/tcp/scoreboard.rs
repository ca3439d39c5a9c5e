//! Which bytes behind the first missing one have arrived, as selective acknowledgements tell (RFC 2018). Ranges only; what
//! follows from them is decided in `sender.rs`.

use super::numbers::is_after;

/// Most separate ranges remembered; the farthest are forgotten first, and sent again in vain.
const MAX_RANGES: usize = 512;

/// Ranges of sequence numbers, in order and apart from each other, all behind SND.UNA.
#[derive(Debug, Clone, Default)]
pub(super) struct Scoreboard {
    ranges: Vec<(u32, u32)>,
    bytes: u32,
}

impl Scoreboard {
    /// Bytes that arrived.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The ranges, in order.
    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    pub(super) fn clear(&mut self) {
        self.ranges.clear();
        self.bytes = 0;
    }

    /// Whether all of this arrived.
    pub(super) fn covers(&self, start: u32, end: u32) -> bool {
        let at = self.ranges.partition_point(|&(_, to)| !is_after(to, start));
        self.ranges
            .get(at)
            .is_some_and(|&(from, to)| !is_after(from, start) && !is_after(end, to))
    }

    /// Adds a block that lies between SND.UNA and SND.NXT; returns how many bytes of it are news.
    pub(super) fn add(&mut self, (start, end): (u32, u32), first: u32, next: u32) -> u32 {
        let sound = is_after(end, start) && !is_after(first, start) && !is_after(end, next);
        if !sound || self.covers(start, end) {
            return 0;
        }
        let from = self.ranges.partition_point(|&(_, to)| is_after(start, to));
        let to = self
            .ranges
            .partition_point(|&(from, _)| !is_after(from, end));
        let (mut start, mut end) = (start, end);
        if from < to {
            start = earlier(start, self.ranges[from].0);
            end = later(end, self.ranges[to - 1].1);
        }
        self.ranges.splice(from..to, [(start, end)]);
        self.ranges.truncate(MAX_RANGES);
        self.count()
    }

    /// The end of the last range.
    pub(super) fn end(&self) -> Option<u32> {
        self.ranges.last().map(|&(_, to)| to)
    }

    /// How many of its bytes lie before `edge`.
    pub(super) fn bytes_before(&self, edge: u32) -> u32 {
        let before = self
            .ranges
            .iter()
            .take_while(|&&(from, _)| is_after(edge, from));
        before
            .map(|&(from, to)| earlier(to, edge).wrapping_sub(from))
            .sum()
    }

    /// Forgets what lies before SND.UNA; returns how many bytes that were.
    pub(super) fn advance(&mut self, first: u32) -> u32 {
        let before = self.bytes;
        let past = self.ranges.partition_point(|&(_, to)| !is_after(to, first));
        self.ranges.drain(..past);
        if let Some(range) = self.ranges.first_mut() {
            range.0 = later(range.0, first);
        }
        self.count();
        before - self.bytes
    }

    /// Forgets the range that begins here.
    pub(super) fn remove_first(&mut self, start: u32) {
        self.ranges.retain(|&(from, _)| from != start);
        self.count();
    }

    /// Counts anew; returns by how much there is more.
    fn count(&mut self) -> u32 {
        let before = self.bytes;
        self.bytes = self
            .ranges
            .iter()
            .map(|(from, to)| to.wrapping_sub(*from))
            .sum();
        self.bytes.saturating_sub(before)
    }
}

fn earlier(a: u32, b: u32) -> u32 {
    if is_after(a, b) { b } else { a }
}

fn later(a: u32, b: u32) -> u32 {
    if is_after(a, b) { a } else { b }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a set of bytes would do it, around the wrap.
        #[test]
        fn like_a_set(
            origin in prop::sample::select(vec![0_u32, 1000, u32::MAX - 50]),
            steps in prop::collection::vec((0..100_u32, 0..30_u32, any::<bool>()), 1..60),
        ) {
            let (mut board, mut set, mut first) = (Scoreboard::default(), BTreeSet::new(), 0);
            for (at, len, advance) in steps {
                let number = |offset: u32| origin.wrapping_add(offset);
                if advance && at > first {
                    first = at;
                    let before = set.len();
                    set = set.split_off(&first);
                    prop_assert_eq!(board.advance(number(first)) as usize, before - set.len());
                } else {
                    let before = set.len();
                    if at >= first && at + len <= 110 {
                        set.extend(at..at + len);
                    }
                    let news = board.add((number(at), number(at + len)), number(first), number(110));
                    prop_assert_eq!(news as usize, set.len() - before);
                }
                prop_assert_eq!(board.bytes() as usize, set.len());
                let half = set.range(..50.max(first)).count();
                prop_assert_eq!(board.bytes_before(number(50.max(first))) as usize, half);
                for start in first..100 {
                    let all = (start..start + 5).all(|byte| set.contains(&byte));
                    prop_assert_eq!(board.covers(number(start), number(start + 5)), all);
                }
            }
        }
    }
}
