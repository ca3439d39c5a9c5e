//! Packets through a socket that stands for the TUN: batches, headers, what is cut and joined.

use std::os::unix::net::UnixDatagram;

use kvpn_wire::offload::{Abilities, Segmentation};

use super::*;

/// An IPv4 UDP packet of 4 bytes with right checksums.
const PACKET: [u8; 32] = [
    0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0x66, 0xcb, 10, 0, 0, 1, 10, 0, 0, 2, 0x10, 0, 0x20, 0, 0,
    12, 0xee, 0x25, b'p', b'i', b'n', b'g',
];

/// A datagram socket keeps reads and writes apart as a TUN does.
fn pair() -> (UnixDatagram, UnixDatagram) {
    let (ours, kernels) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, kernels)
}

#[test]
fn a_plain_tun_has_no_header() {
    let (ours, kernels) = pair();
    let mut packets = Packets::new(TunOffload::Plain);
    packets
        .write(&ours, &mut { PACKET }, Segmentation::Whole)
        .unwrap();
    let mut buffer = [0; 100];
    let length = kernels.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..length], PACKET);
    kernels.send(&PACKET).unwrap();
    let (packet, segmentation) = packets.read(&ours).unwrap();
    assert_eq!((&*packet, segmentation), (&PACKET[..], Segmentation::Whole));
    let error = packets
        .write(&ours, &mut { PACKET }, Segmentation::Udp { size: 2 })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_header_stands_before_each_packet() {
    let (ours, kernels) = pair();
    let mut packets = Packets::new(TunOffload::TcpAndUdp);
    packets
        .write(&ours, &mut { PACKET }, Segmentation::Whole)
        .unwrap();
    let mut buffer = [0; 100];
    let length = kernels.recv(&mut buffer).unwrap();
    assert_eq!(length, HEADER + PACKET.len());
    assert_eq!(buffer[HEADER..length], PACKET);
    kernels.send(&buffer[..length]).unwrap();
    let (packet, segmentation) = packets.read(&ours).unwrap();
    assert_eq!((&*packet, segmentation), (&PACKET[..], Segmentation::Whole));
    let error = packets.read(&ours).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_read_that_is_no_packet_is_said() {
    let (ours, kernels) = pair();
    let mut packets = Packets::new(TunOffload::Tcp);
    kernels.send(&[0; HEADER - 1]).unwrap();
    let error = packets.read(&ours).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
}

#[test]
fn what_a_kernel_does_not_offer_is_done_without() {
    // No TUN at all, so that every feature is refused.
    let make = |headers: bool| {
        let (ours, _) = pair();
        if headers { Ok(ours) } else { Err(()) }
    };
    assert!(open(true, make).is_err(), "a plain one is asked for");
    let (_, offload) = open(true, |_| Ok::<_, ()>(pair().0)).unwrap();
    assert_eq!(offload, TunOffload::Plain);
    let (_, offload) = open(false, |headers| {
        assert!(!headers);
        Ok::<_, ()>(pair().0)
    })
    .unwrap();
    assert_eq!(offload.abilities(), Abilities::default());
}
