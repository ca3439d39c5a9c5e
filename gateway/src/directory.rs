//! Which part of the gateway has whose session, and how much each part has. Asked when sessions are created and when a handshake comes to
//! the wrong part; never for a packet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvpn_gateway_core::{Elsewhere, Shard};
use kvpn_wire::control::CreateSession;
use kvpn_wire::wireguard::PublicKey;

/// The sessions of all parts.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Each part writes its own sessions.
    by_key: Mutex<BTreeMap<PublicKey, u8>>,
    /// How many sessions of each part have flows of the userspace datapath.
    with_flows: Box<[AtomicUsize]>,
}

impl Directory {
    /// No sessions in `count` parts.
    pub(crate) fn new(count: u8) -> Self {
        Self {
            by_key: Mutex::default(),
            with_flows: (0..count).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// The part that has the client's session.
    pub(crate) fn part_of(&self, key: &PublicKey) -> Option<u8> {
        self.by_key().get(key).copied()
    }

    /// The client's session is in `part`.
    pub(crate) fn put(&self, key: PublicKey, part: u8) {
        self.by_key().insert(key, part);
    }

    /// The client's session is in `part` no more.
    pub(crate) fn remove(&self, key: &PublicKey, part: u8) {
        let mut by_key = self.by_key();
        if by_key.get(key) == Some(&part) {
            by_key.remove(key);
        }
    }

    /// The parts to be asked for a session, one after the other: the one that has it; else the one whose addresses the client
    /// prefers, and the others, least loaded first.
    pub(crate) fn candidates(&self, request: &CreateSession) -> Vec<u8> {
        if let Some(part) = self.part_of(&request.public_key) {
            return vec![part];
        }
        let loads = self.loads();
        let mut parts: Vec<u8> = (0..self.count()).collect();
        parts.sort_by_key(|&part| loads[usize::from(part)]);
        let shard = Shard::all(parts.len()).next().unwrap_or_default();
        let preferred = request.prefer.first();
        if let Some(first) = preferred.and_then(|&address| shard.of_address(address)) {
            parts.sort_by_key(|&part| part != first);
        }
        parts
    }

    /// What the parts other than `part` have.
    pub(crate) fn elsewhere(&self, part: u8) -> Elsewhere {
        let sessions: usize = self.loads().iter().sum();
        Elsewhere {
            sessions: sessions - self.loads()[usize::from(part)],
            with_flows: self.flows_elsewhere(part),
        }
    }

    /// How many sessions of other parts have flows.
    pub(crate) fn flows_elsewhere(&self, part: u8) -> usize {
        let counts = self.with_flows.iter().enumerate();
        counts
            .filter(|&(other, _)| other != usize::from(part))
            .map(|(_, count)| count.load(Ordering::Relaxed))
            .sum()
    }

    /// So many sessions of `part` have flows; whether that is news.
    pub(crate) fn set_flows(&self, part: u8, count: usize) -> bool {
        self.with_flows[usize::from(part)].swap(count, Ordering::Relaxed) != count
    }

    fn count(&self) -> u8 {
        u8::try_from(self.with_flows.len()).expect("made of as many")
    }

    fn loads(&self) -> Vec<usize> {
        let mut loads = vec![0; self.with_flows.len()];
        for &part in self.by_key().values() {
            loads[usize::from(part)] += 1;
        }
        loads
    }

    /// No holder leaves it half written.
    fn by_key(&self) -> MutexGuard<'_, BTreeMap<PublicKey, u8>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kvpn_wire::control::VERSION;
    use kvpn_wire::wireguard::PrivateKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_seed([seed; 32]).public()
    }

    fn request(seed: u8, prefer: &[&str]) -> CreateSession {
        CreateSession {
            version: VERSION,
            client_version: String::new(),
            public_key: key(seed),
            avoid: Vec::new(),
            prefer: prefer.iter().map(|text| text.parse().unwrap()).collect(),
            session_name: String::new(),
            super_packets: false,
        }
    }

    #[test]
    fn sessions_go_where_they_are_then_where_they_want_then_where_there_are_few() {
        let directory = Directory::new(4);
        assert_eq!(directory.candidates(&request(1, &[])), [0, 1, 2, 3]);
        directory.put(key(1), 0);
        directory.put(key(2), 1);
        directory.put(key(3), 1);
        assert_eq!(directory.candidates(&request(4, &[])), [2, 3, 0, 1]);
        assert_eq!(directory.candidates(&request(2, &["198.19.200.2"])), [1]);
        let prefers = request(4, &["198.19.64.2"]);
        assert_eq!(directory.candidates(&prefers), [1, 2, 3, 0]);
        let foreign = request(4, &["10.0.0.1"]);
        assert_eq!(directory.candidates(&foreign), [2, 3, 0, 1]);
    }

    #[test]
    fn a_part_knows_what_the_others_have() {
        let directory = Directory::new(2);
        directory.put(key(1), 0);
        directory.put(key(2), 1);
        directory.put(key(3), 1);
        assert!(directory.set_flows(1, 2) && !directory.set_flows(1, 2));
        let elsewhere = |sessions, with_flows| Elsewhere {
            sessions,
            with_flows,
        };
        assert_eq!(directory.elsewhere(0), elsewhere(2, 2));
        assert_eq!(directory.elsewhere(1), elsewhere(1, 0));
        // Another part has it by now.
        directory.remove(&key(1), 1);
        assert_eq!(directory.part_of(&key(1)), Some(0));
        directory.remove(&key(1), 0);
        assert_eq!(directory.part_of(&key(1)), None);
    }
}
