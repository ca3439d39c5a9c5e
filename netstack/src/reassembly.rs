//! Puts IP fragments together again, within bounds. Fragments are rare in a tunnel whose MTU the senders know: this
//! is for UDP datagrams that are longer than it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use kvpn_wire::packet::{Fragment, Ip, Protocol, Version};

use crate::fragments::fill_checksum;

/// Length of the IPv6 header.
const IPV6_HEADER_LEN: usize = 40;

/// How long a packet may stay in pieces (RFC 8200 section 4.5 and RFC 1122 section 3.3.2 say 60 s; Linux takes 30).
const PATIENCE: Duration = Duration::from_secs(30);
/// Most packets in pieces at once; the oldest is given up for a new one. 64 KiB each at most.
const MAX_PACKETS: usize = 32;
/// Most pieces of one packet.
const MAX_PIECES: usize = 128;
/// Most bytes behind the IP header.
const MAX_PAYLOAD: usize = 65_535 - IPV6_HEADER_LEN;

/// What the pieces of one packet share (RFC 791 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    protocol: Option<Protocol>,
    id: u32,
}

/// A packet in pieces.
#[derive(Debug)]
struct Pieces {
    since: Instant,
    /// The first piece's IP header, and what it carries.
    header: Option<(Vec<u8>, Protocol)>,
    payload: Vec<u8>,
    /// Where pieces begin and end in the payload.
    ranges: Vec<(usize, usize)>,
    /// The payload's whole length, once the last piece came.
    total: Option<usize>,
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// More is needed.
    Kept,
    /// The whole packet.
    Whole(Vec<u8>),
    /// This many fragments were thrown away.
    Dropped(usize),
}

/// All packets in pieces.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    packets: BTreeMap<Key, Pieces>,
}

impl Reassembly {
    pub(crate) fn add(&mut self, ip: &Ip<'_>, fragment: Fragment, now: Instant) -> Outcome {
        let key = Key::of(ip, fragment);
        let given_up = self.make_room(&key, now);
        let pieces = self.packets.entry(key).or_insert_with(|| Pieces::new(now));
        match pieces.add(ip, fragment) {
            Ok(()) if pieces.is_whole() => {
                let whole = self.packets.remove(&key).and_then(Pieces::join);
                whole.map_or(Outcome::Dropped(1), Outcome::Whole)
            }
            Ok(()) if given_up > 0 => Outcome::Dropped(given_up),
            Ok(()) => Outcome::Kept,
            Err(Unfitting) => {
                let lost = self
                    .packets
                    .remove(&key)
                    .map_or(0, |pieces| pieces.ranges.len());
                Outcome::Dropped(lost + 1 + given_up)
            }
        }
    }

    /// Gives up what is too old, and the oldest when there is no room for another. Returns how many fragments that lost.
    fn make_room(&mut self, key: &Key, now: Instant) -> usize {
        let before = self.fragments();
        self.packets
            .retain(|_, pieces| now < pieces.since + PATIENCE);
        if self.packets.len() >= MAX_PACKETS && !self.packets.contains_key(key) {
            let oldest = self
                .packets
                .iter()
                .min_by_key(|(_, pieces)| pieces.since)
                .map(|(&key, _)| key);
            oldest.map(|oldest| self.packets.remove(&oldest));
        }
        before - self.fragments()
    }

    fn fragments(&self) -> usize {
        self.packets
            .values()
            .map(|pieces| pieces.ranges.len())
            .sum()
    }
}

impl Key {
    /// IPv6 tells packets apart by addresses and identification alone (RFC 8200 section 4.5).
    fn of(ip: &Ip<'_>, fragment: Fragment) -> Self {
        let protocol = match ip.version() {
            Version::V4 => Some(ip.protocol()),
            Version::V6 => None,
        };
        Self {
            src: ip.src(),
            dst: ip.dst(),
            protocol,
            id: fragment.id,
        }
    }
}

/// A piece overlaps another (RFC 5722: then none of them counts), or does not fit.
struct Unfitting;

impl Pieces {
    fn new(since: Instant) -> Self {
        Self {
            since,
            header: None,
            payload: Vec::new(),
            ranges: Vec::new(),
            total: None,
        }
    }

    fn add(&mut self, ip: &Ip<'_>, fragment: Fragment) -> Result<(), Unfitting> {
        let start = fragment.offset as usize;
        let end = start + ip.payload().len();
        if self.ranges.contains(&(start, end)) {
            return Ok(());
        }
        let aligned = !fragment.more || end.is_multiple_of(8);
        let overlaps = self
            .ranges
            .iter()
            .any(|&(from, to)| start < to && from < end);
        if start == end
            || end > MAX_PAYLOAD
            || !aligned
            || overlaps
            || self.ranges.len() == MAX_PIECES
        {
            return Err(Unfitting);
        }
        self.learn_total(end, fragment.more)?;
        if start == 0 {
            self.header = Some((ip.bytes()[..ip.header_len()].to_vec(), ip.protocol()));
        }
        self.payload.resize(self.payload.len().max(end), 0);
        self.payload[start..end].copy_from_slice(ip.payload());
        self.ranges.push((start, end));
        Ok(())
    }

    fn learn_total(&mut self, end: usize, more: bool) -> Result<(), Unfitting> {
        let known = self.total;
        if !more {
            self.total = Some(end);
        }
        let last = self
            .ranges
            .iter()
            .map(|&(_, to)| to)
            .max()
            .unwrap_or(0)
            .max(end);
        match (known, self.total) {
            (Some(known), Some(total)) if known != total => Err(Unfitting),
            (_, Some(total)) if last > total => Err(Unfitting),
            (_, _) => Ok(()),
        }
    }

    /// Ranges never overlap, so their lengths add up to the total only when there is no gap.
    fn is_whole(&self) -> bool {
        let held: usize = self.ranges.iter().map(|(from, to)| to - from).sum();
        self.total == Some(held)
    }

    /// The packet as if it had never been cut: without fragment header, IPv6 extension headers, or IPv4 fragment fields.
    fn join(self) -> Option<Vec<u8>> {
        let (mut packet, protocol) = self.header?;
        let is_v4 = packet[0] >> 4 == 4;
        if !is_v4 {
            packet.truncate(IPV6_HEADER_LEN);
        }
        packet.extend_from_slice(&self.payload);
        let total = u16::try_from(packet.len()).ok()?;
        if is_v4 {
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            // "Don't fragment" stays as it was.
            packet[6] &= 0x40;
            packet[7] = 0;
            let header = usize::from(packet[0] & 0xf) * 4;
            fill_checksum(&mut packet[..header]);
        } else {
            let payload = total - IPV6_HEADER_LEN as u16;
            packet[4..6].copy_from_slice(&payload.to_be_bytes());
            packet[6] = protocol.number();
        }
        Some(packet)
    }
}

#[cfg(test)]
mod tests;
