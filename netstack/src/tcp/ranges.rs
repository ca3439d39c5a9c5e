//! Which parts of a stream arrived ahead of a gap, and which of them to tell of first (RFC 2018 section 4).

/// Most separate parts; what would make one more is not kept, and comes again.
const MAX_RANGES: usize = 512;
/// Parts that are told of beside the latest: one acknowledgement has room for so many (RFC 2018 section 3).
pub(super) const MAX_TOLD: usize = 4;

/// Ranges of stream offsets, in order, never touching each other.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    ranges: Vec<(u64, u64)>,
    /// A byte of the ranges that changed last, the latest first.
    recent: [Option<u64>; MAX_TOLD],
}

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether all of it is there.
    pub(super) fn covers(&self, start: u64, end: u64) -> bool {
        self.containing(start).is_some_and(|(_, last)| end <= last)
    }

    /// Adds a range that is not empty. False when there are too many.
    pub(super) fn add(&mut self, start: u64, end: u64) -> bool {
        let first = self.ranges.partition_point(|&(_, to)| to < start);
        let behind = self.ranges.partition_point(|&(from, _)| from <= end);
        if first == behind {
            if self.ranges.len() >= MAX_RANGES {
                return false;
            }
            self.ranges.insert(first, (start, end));
        } else {
            let joined = (
                start.min(self.ranges[first].0),
                end.max(self.ranges[behind - 1].1),
            );
            self.ranges[first] = joined;
            self.ranges.drain(first + 1..behind);
        }
        self.remember(start);
        true
    }

    fn remember(&mut self, byte: u64) {
        let range = self.containing(byte);
        let same = |known: &Option<u64>| known.is_some_and(|known| self.containing(known) == range);
        let at = self.recent.iter().position(same).unwrap_or(MAX_TOLD - 1);
        self.recent[..=at].rotate_right(1);
        self.recent[0] = Some(byte);
    }

    /// The stream arrived up to `end`: returns how far it goes on without a gap.
    pub(super) fn join(&mut self, end: u64) -> u64 {
        let gone = self.ranges.partition_point(|&(from, _)| from <= end);
        let reached = self.ranges[..gone]
            .last()
            .map_or(end, |&(_, to)| to.max(end));
        self.ranges.drain(..gone);
        if self.ranges.is_empty() {
            *self = Self::default();
        }
        reached
    }

    fn containing(&self, byte: u64) -> Option<(u64, u64)> {
        let index = self.ranges.partition_point(|&(_, to)| to <= byte);
        self.ranges
            .get(index)
            .copied()
            .filter(|&(from, _)| from <= byte)
    }

    /// The ranges to tell of, the latest first.
    pub(super) fn told(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut told = [None; MAX_TOLD];
        for (index, byte) in self.recent.iter().enumerate() {
            let range = byte.and_then(|byte| self.containing(byte));
            told[index] = range.filter(|_| !told[..index].contains(&range));
        }
        told.into_iter().flatten()
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> &[(u64, u64)] {
        &self.ranges
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_latest_is_told_first() {
        let mut ranges = Ranges::default();
        for start in [10, 30, 50, 70, 90] {
            assert!(ranges.add(start, start + 10));
        }
        let told: Vec<u64> = ranges.told().map(|(start, _)| start).collect();
        assert_eq!(told, [90, 70, 50, 30]);
        assert!(ranges.add(20, 30));
        assert_eq!(ranges.told().next(), Some((10, 40)));
        assert_eq!(ranges.told().count(), 4);
        assert_eq!(ranges.join(10), 40);
        assert_eq!(ranges.told().next(), Some((90, 100)));
        assert_eq!((ranges.join(100), ranges.is_empty()), (100, true));
    }

    #[test]
    fn bounded() {
        let mut ranges = Ranges::default();
        let kept = (0..10_000)
            .filter(|at| ranges.add(at * 10, at * 10 + 5))
            .count();
        assert_eq!(kept, MAX_RANGES);
        assert!(ranges.add(5, 10));
    }

    proptest! {
        #[test]
        fn like_a_set_of_bytes(added in prop::collection::vec((0..200_u64, 1..30_u64), 0..40), upto in 0..200_u64) {
            let (mut ranges, mut bytes) = (Ranges::default(), std::collections::BTreeSet::new());
            for &(start, len) in &added {
                let known = (start..start + len).all(|byte| bytes.contains(&byte));
                prop_assert_eq!(ranges.covers(start, start + len), known);
                prop_assert!(ranges.add(start, start + len));
                bytes.extend(start..start + len);
            }
            prop_assert!(ranges.all().is_sorted_by(|one, two| one.1 < two.0));
            let listed: Vec<u64> = ranges.all().iter().flat_map(|&(from, to)| from..to).collect();
            prop_assert_eq!(listed, bytes.iter().copied().collect::<Vec<_>>());
            let gap = (upto..).find(|byte| !bytes.contains(byte));
            prop_assert_eq!(Some(ranges.join(upto)), gap);
        }
    }
}
