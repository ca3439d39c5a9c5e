//! Cuts datagrams that are longer than the MTU into IP fragments. Taking fragments in is `reassembly.rs`.

use kvpn_wire::packet::checksum;

use crate::outbox::Outbox;

/// Length of an IPv4 header without options.
const IPV4_HEADER_LEN: usize = 20;
/// Length of the IPv6 header.
const IPV6_HEADER_LEN: usize = 40;
/// The flag of IPv4 that more fragments follow.
const MORE: u16 = 0x2000;
/// Length of the IPv6 fragment header (RFC 8200 section 4.5).
const FRAGMENT_HEADER: usize = 8;
/// Its number in the chain of headers.
const FRAGMENT: u8 = 44;

/// Queues an IP packet in as many fragments as the MTU asks for. False when a part of it found no room.
pub(crate) fn send(packet: &[u8], identification: u32, outbox: &mut Outbox) -> bool {
    match packet.first().map(|first| first >> 4) {
        _ if packet.len() <= outbox.mtu() => outbox.push_with(packet.len(), |buf| {
            buf.copy_from_slice(packet);
            packet.len()
        }),
        Some(4) => send_v4(packet, identification, outbox),
        Some(6) => send_v6(packet, identification, outbox),
        Some(_) | None => false,
    }
}

/// The packet must have a header without options, as ours have.
fn send_v4(packet: &[u8], identification: u32, outbox: &mut Outbox) -> bool {
    let (header, payload) = packet.split_at(IPV4_HEADER_LEN);
    let step = (outbox.mtu() - IPV4_HEADER_LEN) & !7;
    payload.chunks(step).enumerate().all(|(index, chunk)| {
        let total = IPV4_HEADER_LEN + chunk.len();
        outbox.push_with(total, |buf| {
            buf[..IPV4_HEADER_LEN].copy_from_slice(header);
            buf[IPV4_HEADER_LEN..].copy_from_slice(chunk);
            let more = if (index + 1) * step < payload.len() {
                MORE
            } else {
                0
            };
            let offset = (index * step / 8) as u16;
            buf[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            buf[4..6].copy_from_slice(&(identification as u16).to_be_bytes());
            buf[6..8].copy_from_slice(&(more | offset).to_be_bytes());
            fill_checksum(&mut buf[..IPV4_HEADER_LEN]);
            total
        })
    })
}

/// The packet must have no extension headers, as ours have.
fn send_v6(packet: &[u8], identification: u32, outbox: &mut Outbox) -> bool {
    let (header, payload) = packet.split_at(IPV6_HEADER_LEN);
    let step = (outbox.mtu() - IPV6_HEADER_LEN - FRAGMENT_HEADER) & !7;
    payload.chunks(step).enumerate().all(|(index, chunk)| {
        let more = u16::from((index + 1) * step < payload.len());
        let offset = (index * step) as u16 | more;
        let behind = FRAGMENT_HEADER + chunk.len();
        outbox.push_with(IPV6_HEADER_LEN + behind, |buf| {
            let (ip, rest) = buf.split_at_mut(IPV6_HEADER_LEN);
            let (fragment, body) = rest.split_at_mut(FRAGMENT_HEADER);
            ip.copy_from_slice(header);
            ip[4..6].copy_from_slice(&(behind as u16).to_be_bytes());
            ip[6] = FRAGMENT;
            fragment[..2].copy_from_slice(&[header[6], 0]);
            fragment[2..4].copy_from_slice(&offset.to_be_bytes());
            fragment[4..].copy_from_slice(&identification.to_be_bytes());
            body.copy_from_slice(chunk);
            IPV6_HEADER_LEN + behind
        })
    })
}

/// Completes an IPv4 header.
pub(crate) fn fill_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = checksum::of(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}
