//! Sequence numbers and their arithmetic modulo 2^32 (RFC 9293 section 3.4). Two of them are compared as long as they lie less
//! than 2^31 apart, which windows of at most 2^30 (RFC 7323 section 2.3) ensure.

/// A sequence number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seq(pub(crate) u32);

impl Seq {
    /// The number `count` further on.
    pub(crate) fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// The number `count` further back.
    pub(crate) fn minus(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }

    /// How much further on it is than `earlier`, which must not be after it.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// How far it is from `other`: negative when it is before it.
    pub(crate) fn distance(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0).cast_signed()
    }

    pub(crate) fn is_after(self, other: Self) -> bool {
        self.distance(other) > 0
    }

    pub(crate) fn is_before(self, other: Self) -> bool {
        self.distance(other) < 0
    }

    pub(crate) fn max(self, other: Self) -> Self {
        if other.is_after(self) { other } else { self }
    }

    pub(crate) fn min(self, other: Self) -> Self {
        if other.is_before(self) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_wrap() {
        let (low, high) = (Seq(5), Seq(u32::MAX - 5));
        assert!(low.is_after(high) && high.is_before(low));
        assert!(!low.is_after(low) && !low.is_before(low));
        assert_eq!(
            (low.since(high), high.plus(11), low.minus(11)),
            (11, low, high)
        );
        assert_eq!((low.distance(high), high.distance(low)), (11, -11));
        assert_eq!((low.max(high), low.min(high)), (low, high));
    }
}
