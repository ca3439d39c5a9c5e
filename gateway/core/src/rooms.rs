//! How much each path takes at present, and which sessions wait for it to take more. It does not know what they would send.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::SessionIndex;
use crate::path::Path;

/// What a path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes of sealed datagrams.
    pub(crate) left: usize,
    /// The longest super-packet in bytes: what waits behind it waits that long.
    pub(crate) piece: usize,
}

impl Room {
    /// A path that manages its own queue.
    pub(crate) const UNBOUNDED: Self = Self {
        left: usize::MAX,
        piece: usize::MAX,
    };

    /// So many bytes were sealed.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }
}

/// The paths of which something was said.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    paths: BTreeMap<Path, (Room, BTreeSet<SessionIndex>)>,
}

impl Rooms {
    /// Takes note of a path's room; the sessions that it is enough for again.
    pub(crate) fn set(&mut self, path: Path, room: Room) -> BTreeSet<SessionIndex> {
        let (old, waiting) = self
            .paths
            .entry(path)
            .or_insert_with(|| (room, BTreeSet::new()));
        *old = room;
        if room.left > 0 {
            std::mem::take(waiting)
        } else {
            BTreeSet::new()
        }
    }

    /// Forgets a path; the sessions that waited for it.
    pub(crate) fn forget(&mut self, path: Path) -> BTreeSet<SessionIndex> {
        self.paths
            .remove(&path)
            .map_or_else(BTreeSet::new, |(_, waiting)| waiting)
    }

    /// What `path` takes. A session without a path waits for nothing.
    pub(crate) fn of(&self, path: Option<Path>) -> Room {
        path.and_then(|path| self.paths.get(&path))
            .map_or(Room::UNBOUNDED, |(room, _)| *room)
    }

    /// What is left after something was sealed.
    pub(crate) fn leave(&mut self, path: Option<Path>, room: Room) {
        if let Some((old, _)) = path.and_then(|path| self.paths.get_mut(&path)) {
            *old = room;
        }
    }

    /// Lets a session wait for a path that has no room; false when it has.
    pub(crate) fn wait(&mut self, path: Option<Path>, index: SessionIndex) -> bool {
        let Some((room, waiting)) = path.and_then(|path| self.paths.get_mut(&path)) else {
            return false;
        };
        if room.left == 0 {
            waiting.insert(index);
        }
        room.left == 0
    }
}
