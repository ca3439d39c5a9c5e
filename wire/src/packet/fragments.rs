//! Cutting a packet that is too long for a path into IP fragments (RFC 791 section 3.2, RFC 8200 section 4.5). It does not know
//! what happens to packets that must not be cut.

use super::{be16, checksum, ipv4, ipv6};

/// The least that every IPv6 path carries (RFC 8200, section 5), in bytes: no sender cuts finer, whatever it is told.
pub const MIN_IPV6_MTU: usize = 1280;

const FRAGMENT_HEADER: usize = 8;
/// Its number in the chain of headers, and those of the others: with these a packet is not cut, since some stand before it, and all
/// have to be in the first fragment (RFC 7112).
const FRAGMENT: u8 = 44;
const EXTENSIONS: [u8; 4] = [0, 43, 51, 60];

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_V4: u16 = 0x2000;
const OFFSET_V4: u16 = 0x1fff;
const MORE_V6: u16 = 1;

/// The fragments of a packet, in order. A fragment is cut into smaller ones.
///
/// IPv4 is cut where its sender allows that. An IPv6 packet is for its sender to cut; but up to [`MIN_IPV6_MTU`] it may rely on
/// the link to carry it, so one that does not is cut here as its sender would have, to be put together by its receiver.
#[derive(Debug)]
pub struct Fragments<'a> {
    /// What stands before each fragment's payload, without a fragment header.
    header: &'a [u8],
    payload: &'a [u8],
    limit: usize,
    given: usize,
    done: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Flags and offset of the whole.
    V4 {
        field: u16,
    },
    V6 {
        field: u16,
        id: [u8; 4],
        next: u8,
    },
}

impl<'a> Fragments<'a> {
    /// `packet`, which is an IP packet and nothing more, in fragments of at most `limit` bytes, at least 128. `id` tells the
    /// fragments of one IPv6 packet from those of others. `None` when the packet must not be cut, or cannot.
    pub fn new(packet: &'a [u8], limit: usize, id: u32) -> Option<Self> {
        let (header_len, skip, kind) = match packet.first()? >> 4 {
            4 => v4(packet)?,
            6 => v6(packet, id)?,
            _ => return None,
        };
        let payload = packet.get(header_len + skip..)?;
        let begin = match kind {
            Kind::V4 { field } => usize::from(field & OFFSET_V4) * 8,
            Kind::V6 { field, .. } => usize::from(field & !7),
        };
        // There is no packet that it could be a fragment of.
        if begin + payload.len() > usize::from(u16::MAX) {
            return None;
        }
        Some(Self {
            header: packet.get(..header_len)?,
            payload,
            limit: limit.max(128),
            given: 0,
            done: false,
            kind,
        })
    }

    /// Writes the next fragment to the beginning of `out` and gives its length; `None` when there is no other, or `out` is
    /// shorter than the limit.
    pub fn next(&mut self, out: &mut [u8]) -> Option<usize> {
        let head = match self.kind {
            Kind::V4 { .. } => self.header.len(),
            Kind::V6 { .. } => self.header.len() + FRAGMENT_HEADER,
        };
        let rest = self.payload.get(self.given..).filter(|_| !self.done)?;
        let most = self.limit.saturating_sub(head);
        let take = if rest.len() <= most {
            rest.len()
        } else {
            most & !7
        };
        let out = out.get_mut(..head + take)?;
        out[..self.header.len()].copy_from_slice(self.header);
        out[head..].copy_from_slice(&rest[..take]);
        self.done = take == rest.len();
        match self.kind {
            Kind::V4 { field } => self.finish_v4(out, field),
            Kind::V6 { field, id, next } => self.finish_v6(out, field, id, next),
        }
        self.given += take;
        Some(out.len())
    }

    fn finish_v4(&self, out: &mut [u8], field: u16) {
        let total = out.len() as u16;
        let more = if self.done { field & MORE_V4 } else { MORE_V4 };
        let offset = (field & OFFSET_V4) + (self.given / 8) as u16;
        out[2..4].copy_from_slice(&total.to_be_bytes());
        out[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        out[10..12].fill(0);
        let sum = checksum::of(&out[..self.header.len()]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    fn finish_v6(&self, out: &mut [u8], field: u16, id: [u8; 4], next: u8) {
        let behind = (out.len() - ipv6::HEADER) as u16;
        let more = if self.done { field & MORE_V6 } else { MORE_V6 };
        let field = ((field & !7) + self.given as u16) | more;
        out[4..6].copy_from_slice(&behind.to_be_bytes());
        out[6] = FRAGMENT;
        let header = &mut out[ipv6::HEADER..ipv6::HEADER + FRAGMENT_HEADER];
        header[..2].copy_from_slice(&[next, 0]);
        header[2..4].copy_from_slice(&field.to_be_bytes());
        header[4..].copy_from_slice(&id);
    }
}

fn v4(packet: &[u8]) -> Option<(usize, usize, Kind)> {
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let field = be16(packet, 6);
    let may = header_len >= ipv4::MIN_HEADER && field & DONT_FRAGMENT == 0;
    may.then_some((header_len, 0, Kind::V4 { field }))
}

fn v6(packet: &[u8], id: u32) -> Option<(usize, usize, Kind)> {
    let next = *packet.get(6)?;
    if packet.len() > MIN_IPV6_MTU || EXTENSIONS.contains(&next) {
        return None;
    }
    let whole = Kind::V6 {
        field: 0,
        id: id.to_be_bytes(),
        next,
    };
    if next != FRAGMENT {
        return Some((ipv6::HEADER, 0, whole));
    }
    let header = packet.get(ipv6::HEADER..ipv6::HEADER + FRAGMENT_HEADER)?;
    if EXTENSIONS.contains(&header[0]) || header[0] == FRAGMENT {
        return None;
    }
    let piece = Kind::V6 {
        field: be16(header, 2),
        id: header[4..].try_into().ok()?,
        next: header[0],
    };
    Some((ipv6::HEADER, FRAGMENT_HEADER, piece))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use super::*;
    use crate::packet::{Ip, build};

    const V4: [&str; 2] = ["10.0.0.1:5", "10.0.0.2:7"];
    const V6: [&str; 2] = ["[fd00::1]:5", "[fd00::2]:7"];

    fn udp([src, dst]: [&str; 2], len: usize) -> Vec<u8> {
        let ends: [SocketAddr; 2] = [src.parse().unwrap(), dst.parse().unwrap()];
        let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let mut packet = vec![0; len + 48];
        let n = build::udp(ends[0], ends[1], &payload, &mut packet).unwrap();
        packet.truncate(n);
        packet
    }

    fn cut(packet: &[u8], limit: usize) -> Option<Vec<Vec<u8>>> {
        let mut fragments = Fragments::new(packet, limit, 99)?;
        let mut out = vec![0; limit];
        let mut all = Vec::new();
        while let Some(n) = fragments.next(&mut out) {
            all.push(out[..n].to_vec());
        }
        Some(all)
    }

    /// What the receiver has in the end, if nothing is missing or twice there.
    fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
        let mut pieces = BTreeMap::new();
        let mut end = None;
        for bytes in fragments {
            let ip = Ip::parse(bytes).unwrap();
            let fragment = ip.fragment().unwrap();
            let at = fragment.offset as usize;
            if !fragment.more {
                end = Some(at + ip.payload().len());
            }
            assert!(pieces.insert(at, ip.payload().to_vec()).is_none());
        }
        let mut whole = Vec::new();
        for (at, piece) in pieces {
            assert_eq!(at, whole.len());
            whole.extend(piece);
        }
        assert_eq!(end, Some(whole.len()));
        whole
    }

    fn allow_fragments(packet: &mut [u8]) {
        packet[6] = 0;
    }

    #[test]
    fn ipv4_is_cut_if_its_sender_allows() {
        for len in [1173, 1252, 1400, 4000] {
            let mut packet = udp(V4, len);
            assert!(cut(&packet, 1200).is_none(), "don't fragment");
            allow_fragments(&mut packet);
            let fragments = cut(&packet, 1200).unwrap();
            assert!(fragments.iter().all(|bytes| bytes.len() <= 1200));
            assert!(
                fragments
                    .iter()
                    .all(|bytes| checksum::of(&bytes[..20]) == 0)
            );
            assert_eq!(joined(&fragments), packet[20..]);
        }
    }

    #[test]
    fn ipv6_is_cut_up_to_what_it_may_rely_on() {
        for len in [1153, 1232] {
            let packet = udp(V6, len);
            let fragments = cut(&packet, 1200).unwrap();
            assert!(fragments.iter().all(|bytes| bytes.len() <= 1200));
            assert_eq!(joined(&fragments), packet[40..]);
        }
        assert!(cut(&udp(V6, 1233), 1200).is_none());
    }

    #[test]
    fn a_fragment_is_cut_finer() {
        let mut whole = udp(V4, 4000);
        allow_fragments(&mut whole);
        for (packet, header) in [(whole, 20), (udp(V6, 1232), 40)] {
            let coarse = cut(&packet, 1240).unwrap();
            let fine: Vec<Vec<u8>> = coarse
                .iter()
                .flat_map(|bytes| cut(bytes, 600).unwrap())
                .collect();
            assert!(fine.len() > coarse.len());
            assert_eq!(joined(&fine), packet[header..]);
        }
    }

    #[test]
    fn a_fragment_of_what_cannot_be_is_not_cut() {
        let mut v4 = udp(V4, 1400);
        v4[6..8].copy_from_slice(&OFFSET_V4.to_be_bytes());
        assert!(cut(&v4, 1200).is_none());
        let mut v6 = cut(&udp(V6, 1232), 1240).unwrap().remove(0);
        v6[42..44].copy_from_slice(&0xfff9_u16.to_be_bytes());
        assert!(cut(&v6, 600).is_none());
    }

    #[test]
    fn what_is_no_packet_is_not_cut() {
        for bytes in [&[][..], &[0x45][..], &[0x60; 8][..], &[0x10; 40][..]] {
            assert!(cut(bytes, 1200).is_none_or(|all| all.len() <= 1));
        }
    }
}
