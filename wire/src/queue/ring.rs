//! Where there is room in a slab that is used as a ring of records in one piece each. It owns no bytes.

/// The used part of a slab, from the oldest record to the newest; `None` when there is no record.
pub(crate) struct Used(Option<Span>);

struct Span {
    oldest_start: usize,
    newest_start: usize,
    newest_end: usize,
}

impl Used {
    /// What lies between the oldest and the newest record, which `place` gives as start and length.
    pub(crate) fn between<R>(
        oldest: Option<&R>,
        newest: Option<&R>,
        place: impl Fn(&R) -> (usize, usize),
    ) -> Self {
        let (Some(oldest), Some(newest)) = (oldest.map(&place), newest.map(&place)) else {
            return Self(None);
        };
        Self(Some(Span {
            oldest_start: oldest.0,
            newest_start: newest.0,
            newest_end: newest.0 + newest.1,
        }))
    }

    /// The start of `len` free bytes in one piece of a slab of `size` bytes: behind the newest record if they fit there, else
    /// at the slab's beginning.
    pub(crate) fn room_for(&self, len: usize, size: usize) -> Option<usize> {
        let Some(span) = &self.0 else {
            return (len <= size).then_some(0);
        };
        if span.newest_start < span.oldest_start {
            return (len <= span.oldest_start - span.newest_end).then_some(span.newest_end);
        }
        if len <= size - span.newest_end {
            return Some(span.newest_end);
        }
        (len <= span.oldest_start).then_some(0)
    }
}
