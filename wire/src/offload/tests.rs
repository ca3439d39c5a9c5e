//! Packets through split, coalesce, virtio and trailer; helpers that build them.

mod coalesce;
mod speed;
mod split;
mod trailer;
mod virtio;

use std::net::SocketAddr;

use super::*;
use crate::packet::build::{self, Segment};
use crate::packet::{Ip, TcpFlags, checksum};

const ALL: Abilities = Abilities {
    tcp: true,
    udp: true,
};

const ACK: TcpFlags = TcpFlags::ACK;

/// TCP options as Linux sends them: two NOPs and timestamps.
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 1, 2, 3, 0, 4, 5, 6];

fn v4() -> (SocketAddr, SocketAddr) {
    (
        "10.0.0.1:1234".parse().unwrap(),
        "10.96.0.10:443".parse().unwrap(),
    )
}

fn v6() -> (SocketAddr, SocketAddr) {
    (
        "[fd00::1]:1234".parse().unwrap(),
        "[fd00:96::a]:443".parse().unwrap(),
    )
}

/// `len` bytes that differ from place to place, and from `seed` to `seed`.
fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| u8::try_from((seed * 31 + n * 7 + n / 256) % 256).unwrap())
        .collect()
}

fn tcp_packet((src, dst): (SocketAddr, SocketAddr), segment: &Segment<'_>) -> Vec<u8> {
    let mut out = vec![0; MAX_PACKET];
    let n = build::tcp(src, dst, segment, &mut out).unwrap();
    out.truncate(n);
    out
}

fn udp_packet((src, dst): (SocketAddr, SocketAddr), payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; MAX_PACKET];
    let n = build::udp(src, dst, payload, &mut out).unwrap();
    out.truncate(n);
    out
}

/// A segment of a bulk transfer.
fn data(sequence: u32, payload: &[u8]) -> Segment<'_> {
    Segment {
        sequence,
        acknowledgement: 77,
        flags: ACK,
        window: 500,
        options: &TIMESTAMPS,
        payload,
    }
}

/// `sizes.len()` packets of one flow, one after the other, identifications counting up.
fn train(ends: (SocketAddr, SocketAddr), sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut sequence = u32::MAX - 1000;
    let mut packets = Vec::new();
    for (n, size) in sizes.iter().enumerate() {
        let payload = bytes(n, *size);
        let mut packet = tcp_packet(ends, &data(sequence, &payload));
        set_ident(&mut packet, u16::try_from(n).unwrap().wrapping_add(0xfffe));
        packets.push(packet);
        sequence = sequence.wrapping_add(u32::try_from(*size).unwrap());
    }
    packets
}

fn set_ident(packet: &mut [u8], ident: u16) {
    if packet[0] == 0x45 {
        packet[4..6].copy_from_slice(&ident.to_be_bytes());
        mend(packet);
    }
}

/// Makes the checksums right.
fn mend(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        let len = usize::from(packet[0] & 15) * 4;
        packet[10..12].fill(0);
        let sum = checksum::of(&packet[..len]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let ip = Ip::parse(packet).unwrap();
    let at = ip.header_len();
    let field = at + if ip.udp().is_some() { 6 } else { 16 };
    let (src, dst, protocol) = (ip.src(), ip.dst(), ip.protocol());
    packet[field..field + 2].fill(0);
    let sum = checksum::Sum::default()
        .pseudo_header(src, dst, protocol, packet.len() - at)
        .bytes(&packet[at..])
        .finish();
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// All packets that a split gives.
fn split_all(mut split: Split<'_>) -> Vec<Vec<u8>> {
    let mut out = vec![0xaa; split.max_len()];
    let mut packets = Vec::new();
    loop {
        let remaining = split.remaining();
        let Some(len) = split.next(&mut out) else {
            assert_eq!(remaining, 0);
            return packets;
        };
        assert_eq!(split.remaining(), remaining - 1);
        packets.push(out[..len].to_vec());
    }
}

/// What a queue holds.
fn pop_all(queue: &mut Coalescer) -> Vec<(Vec<u8>, Segmentation)> {
    std::iter::from_fn(|| {
        queue
            .pop()
            .map(|(packet, segmentation)| (packet.to_vec(), segmentation))
    })
    .collect()
}

/// What a queue for `packets` holds.
fn coalesced(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, Segmentation)> {
    let mut queue = Coalescer::new(1 << 20, 10_000, ALL);
    for packet in packets {
        assert!(queue.push(packet));
    }
    pop_all(&mut queue)
}

/// The packets in what a queue held.
fn apart(supers: &[(Vec<u8>, Segmentation)]) -> Vec<Vec<u8>> {
    supers
        .iter()
        .flat_map(|(packet, segmentation)| split_all(Split::new(packet, *segmentation).unwrap()))
        .collect()
}

/// An IPv4 packet with an option in front of its payload.
fn with_ipv4_option(packet: &[u8]) -> Vec<u8> {
    let mut out = packet[..20].to_vec();
    out[0] = 0x46;
    out.extend([1, 1, 1, 0]);
    out.extend(&packet[20..]);
    let len = u16::try_from(out.len()).unwrap();
    out[2..4].copy_from_slice(&len.to_be_bytes());
    mend(&mut out);
    out
}

/// An IPv6 packet with destination options in front of its payload.
fn with_extension(packet: &[u8]) -> Vec<u8> {
    let mut out = packet[..40].to_vec();
    out[6] = 60;
    out.extend([packet[6], 0, 1, 4, 0, 0, 0, 0]);
    out.extend(&packet[40..]);
    let len = u16::try_from(out.len() - 40).unwrap();
    out[4..6].copy_from_slice(&len.to_be_bytes());
    mend(&mut out);
    out
}
