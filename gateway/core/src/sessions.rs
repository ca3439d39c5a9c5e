//! All sessions, found by index (datagrams), by key (handshakes, renewals) or by tunnel address (packets to clients).

use std::collections::BTreeMap;
use std::net::IpAddr;

use kvpn_wire::wireguard::PublicKey;

use crate::address::{Block, Blocks};
use crate::event::SessionIndex;
use crate::session::Session;
use crate::shard::Shard;

/// The table of sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_index: BTreeMap<SessionIndex, Session>,
    by_key: BTreeMap<PublicKey, SessionIndex>,
    by_block: BTreeMap<Block, SessionIndex>,
    /// The address blocks; a session's is given back when it is removed.
    pub(crate) blocks: Blocks,
}

impl Sessions {
    /// No sessions.
    pub(crate) fn new(shard: Shard) -> Self {
        Self {
            blocks: Blocks::new(shard),
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_index.len()
    }

    /// Adds a session, whose block was taken from [`Self::blocks`].
    pub(crate) fn insert(&mut self, session: Session) {
        self.by_key.insert(session.key, session.index);
        self.by_block.insert(session.block, session.index);
        self.by_index.insert(session.index, session);
    }

    pub(crate) fn remove(&mut self, index: SessionIndex) -> Option<Session> {
        let session = self.by_index.remove(&index)?;
        self.by_key.remove(&session.key);
        self.by_block.remove(&session.block);
        self.blocks.release(session.block);
        Some(session)
    }

    pub(crate) fn contains(&self, index: SessionIndex) -> bool {
        self.by_index.contains_key(&index)
    }

    pub(crate) fn session(&self, index: SessionIndex) -> Option<&Session> {
        self.by_index.get(&index)
    }

    pub(crate) fn session_mut(&mut self, index: SessionIndex) -> Option<&mut Session> {
        self.by_index.get_mut(&index)
    }

    pub(crate) fn with_key(&self, key: &PublicKey) -> Option<SessionIndex> {
        self.by_key.get(key).copied()
    }

    /// The session whose client has `address`.
    pub(crate) fn with_client(&self, address: IpAddr) -> Option<SessionIndex> {
        let block = Block::of(address)?;
        let index = self.by_block.get(&block)?;
        (block.family(address).client == address).then_some(*index)
    }

    /// The session that has the block of `address`.
    pub(crate) fn with_block_of(&self, address: IpAddr) -> Option<SessionIndex> {
        self.by_block.get(&Block::of(address)?).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_index.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.by_index.values_mut()
    }
}
