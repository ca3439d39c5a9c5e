//! Super-packets: cut, joined, described by virtio headers.

use std::net::SocketAddr;

use kvpn_wire::offload::{Abilities, Coalescer, MAX_PACKET, Segmentation, Split, trailer, virtio};
use kvpn_wire::packet::build::{self, Segment};
use kvpn_wire::packet::{Ip, TcpFlags, checksum};

/// Kind and size in three bytes, then a packet, or headers and payload: every segment is sound, none of the payload is lost.
pub(super) fn split(data: &[u8]) {
    let Some((&[kind, high, low], packet)) = data.split_first_chunk() else {
        return;
    };
    let segmentation = segmentation(kind, u16::from_be_bytes([high, low]));
    if let Ok(split) = Split::new(packet, segmentation) {
        sound(segments(split), packet, segmentation);
        smaller(packet, segmentation, usize::from(kind) * 8);
    }
    let (header, payload) = packet.split_at(packet.len().min(usize::from(kind)));
    let (front, back) = payload.split_at(payload.len() / 3);
    if let Ok(split) = Split::of_parts(header, [front, back], segmentation) {
        sound(segments(split), packet, segmentation);
    }
    let read = trailer::read(packet, usize::from(kind));
    assert!(read == Segmentation::Whole || packet.last().is_some_and(|kind| *kind > 0));
}

fn segmentation(kind: u8, size: u16) -> Segmentation {
    match kind % 3 {
        0 => Segmentation::Whole,
        1 => Segmentation::Tcp { size },
        _ => Segmentation::Udp { size },
    }
}

fn segments(mut split: Split<'_>) -> Vec<Vec<u8>> {
    let mut out = vec![0; split.max_len()];
    let mut found = Vec::new();
    while let Some(len) = split.next(&mut out) {
        found.push(out[..len].to_vec());
    }
    assert_eq!(split.remaining(), 0);
    found
}

/// Checks the segments of `packet`.
fn sound(segments: Vec<Vec<u8>>, packet: &[u8], segmentation: Segmentation) {
    if segmentation == Segmentation::Whole {
        assert_eq!(segments.concat(), packet);
        return;
    }
    let mut payload = Vec::new();
    for segment in &segments {
        let ip = Ip::parse(segment).expect("a segment is a packet");
        assert!(ip.total_len() == segment.len() && checksum::verify(&ip));
        match (ip.tcp(), ip.udp()) {
            (Some(tcp), _) => payload.extend(tcp.payload()),
            (None, udp) => payload.extend(udp.expect("TCP or UDP").payload()),
        }
    }
    assert!(packet.ends_with(&payload));
}

/// Cut by way of smaller super-packets, the segments are the same.
fn smaller(packet: &[u8], segmentation: Segmentation, max: usize) {
    let split = || Split::new(packet, segmentation).expect("it could be split before");
    let (mut out, mut found) = (vec![0; MAX_PACKET], Vec::new());
    let mut pieces = split();
    while let Some((len, segmentation)) = pieces.next_super(max, &mut out) {
        let again = Split::new(&out[..len], segmentation).expect("it is as good as the whole");
        found.extend(segments(again));
    }
    assert_eq!(found, segments(split()));
}

/// The first byte is the receiver's abilities; then packets of two flows as recipes of eight bytes, or raw bytes: what is
/// joined comes apart as it was, in order.
pub(super) fn coalesce(data: &[u8]) {
    let Some((&abilities, mut rest)) = data.split_first() else {
        return;
    };
    let abilities = Abilities {
        tcp: abilities & 1 != 0,
        udp: abilities & 2 != 0,
    };
    let mut queue = Coalescer::new(12_000, 16, abilities);
    let (mut wanted, mut found) = (Vec::new(), Vec::new());
    let mut sequence = 0;
    while let Some((recipe, behind)) = rest.split_first_chunk::<8>() {
        rest = behind;
        let packet = cook(recipe, &mut sequence, &mut rest);
        if recipe[0] & 0x80 != 0 {
            found.extend(queue.pop().map(taken));
        }
        let Some(space) = queue.space(packet.len() + usize::from(recipe[7])) else {
            continue;
        };
        space[..packet.len()].copy_from_slice(&packet);
        if recipe[0] & 0x40 == 0 {
            queue.commit(packet.len());
            wanted.push(packet);
        }
    }
    while let Some(popped) = queue.pop() {
        found.push(taken(popped));
    }
    let apart = found.iter().flat_map(|(packet, segmentation)| {
        let split = Split::new(packet, *segmentation).expect("what was joined can be split");
        segments(split)
    });
    let (apart, wanted) = (apart.map(atomic), wanted.into_iter().map(atomic));
    assert_eq!(apart.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
}

fn taken((packet, segmentation): (&mut [u8], Segmentation)) -> (Vec<u8>, Segmentation) {
    (packet.to_vec(), segmentation)
}

/// The identification of a packet with "don't fragment" means nothing.
fn atomic(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() > 20 && packet[0] == 0x45 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// What (1), payload (2), flags (1), identification (1), a byte to change (2): or as many raw bytes as the length says.
fn cook(recipe: &[u8; 8], sequence: &mut u32, raw: &mut &[u8]) -> Vec<u8> {
    let [what, high, low, flags, ident, place, change, _] = *recipe;
    let len = usize::from(u16::from_be_bytes([high, low])) % 1500;
    if what & 0x20 != 0 {
        let (bytes, behind) = raw.split_at(raw.len().min(len));
        *raw = behind;
        return if bytes.is_empty() {
            vec![what]
        } else {
            bytes.to_vec()
        };
    }
    let ends: [SocketAddr; 2] = if what & 1 == 0 {
        [([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into()]
    } else {
        [
            ([0xfd00, 0, 0, 0, 0, 0, 0, 1], 1).into(),
            ([0xfd00, 0, 0, 0, 0, 0, 0, 2], 2).into(),
        ]
    };
    let payload = vec![ident; len];
    let mut out = vec![0; 2048];
    let n = if what & 2 == 0 {
        let segment = Segment {
            sequence: *sequence,
            flags: TcpFlags::ACK.with(TcpFlags(flags)),
            window: 500,
            payload: &payload,
            ..Segment::default()
        };
        *sequence = sequence.wrapping_add(u32::try_from(len).expect("it is short"));
        build::tcp(ends[0], ends[1], &segment, &mut out)
    } else {
        build::udp(ends[0], ends[1], &payload, &mut out)
    };
    out.truncate(n.expect("there is room"));
    if out[0] == 0x45 {
        out[5] = ident;
        out[6] = if what & 4 == 0 { 0x40 } else { 0 };
        out[10..12].fill(0);
        let sum = checksum::of(&out[..20]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if what & 8 != 0 {
        let at = usize::from(place) % out.len();
        out[at] ^= change;
    }
    out
}

/// Ten bytes of header and a packet: what is read can be split, and what is written is read again.
pub(super) fn vnet(data: &[u8]) {
    let Some((header, packet)) = data.split_first_chunk() else {
        return;
    };
    let mut packet = packet.to_vec();
    let before = packet.clone();
    let Ok(segmentation) = virtio::read(header, &mut packet) else {
        assert_eq!(packet, before, "what is refused is left alone");
        return;
    };
    let changed = packet
        .iter()
        .zip(&before)
        .filter(|(now, before)| now != before);
    assert!(changed.count() <= 4, "checksums only");
    let split = Split::new(&packet, segmentation).expect("what was read can be split");
    let wanted = segments(split);
    let written = virtio::write(&mut packet, segmentation);
    assert_eq!(virtio::read(&written, &mut packet), Ok(segmentation));
    let split = Split::new(&packet, segmentation).expect("what was written can be split");
    assert_eq!(segments(split), wanted);
}
