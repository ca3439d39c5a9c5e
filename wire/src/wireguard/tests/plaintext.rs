//! What lies behind the packet in a sealed message: padding, or a super-packet's trailer.

use super::*;
use crate::offload::Segmentation;
use crate::offload::trailer::{self, MAX_SUPER};

const ROOM: usize = 65_535;

/// A super-packet with its trailer.
fn plaintext(len: usize, segmentation: Segmentation) -> Vec<u8> {
    let mut plaintext = packet(len);
    plaintext.resize(ROOM, 0xaa);
    let total = trailer::append(&mut plaintext, len, segmentation).unwrap();
    plaintext.truncate(total);
    plaintext
}

/// Opens `sealed`, which must be `plaintext` with a packet of `len` bytes; gives the segmentation in it.
fn opened_whole(
    tunnel: &mut Tunnel,
    sealed: &[u8],
    plaintext: &[u8],
    len: usize,
    now: Instant,
) -> Segmentation {
    let mut out = vec![0xbb; ROOM];
    let wanted = Opened::Packet {
        len,
        plaintext: plaintext.len(),
    };
    assert_eq!(tunnel.open(sealed, None, &mut out, now), wanted);
    assert_eq!(&out[..plaintext.len()], plaintext);
    trailer::read(&out[..plaintext.len()], len)
}

#[test]
fn a_trailer_survives_the_tunnel() {
    let mut pair = Pair::connected();
    let mut out = vec![0; ROOM];
    for len in [20, 1356, 1357, 1360, 2000, 30_001, 65_280, MAX_SUPER] {
        for segmentation in [
            Segmentation::Tcp { size: 1300 },
            Segmentation::Udp { size: 1 },
        ] {
            let plaintext = plaintext(len, segmentation);
            let Sealed::Datagram(n) = pair.client.seal(&plaintext, &mut out, pair.now) else {
                panic!("there is a session and room");
            };
            assert_eq!(n, plaintext.len() + OVERHEAD);
            let gateway = &mut pair.gateway;
            let read = opened_whole(gateway, &out[..n], &plaintext, len, pair.now);
            assert_eq!(read, segmentation);
        }
    }
}

#[test]
fn a_super_packet_that_waits_for_a_session_keeps_its_trailer() {
    let mut pair = Pair::new();
    let segmentation = Segmentation::Tcp { size: 1300 };
    let plaintext = plaintext(60_000, segmentation);
    let mut out = vec![0; ROOM];
    let Sealed::Handshake(n) = pair.client.seal(&plaintext, &mut out, pair.now) else {
        panic!("there is no session yet");
    };
    let response = answer(&mut pair.gateway, &out[..n], pair.now);
    establish(&mut pair.client, &response, pair.now);
    let n = pair.client.flush_queued(&mut out, pair.now).unwrap();
    let read = opened_whole(&mut pair.gateway, &out[..n], &plaintext, 60_000, pair.now);
    assert_eq!(read, segmentation);
}

#[test]
fn ordinary_packets_have_no_trailer() {
    let mut pair = Pair::connected();
    for len in (20..100).chain(1340..1380) {
        let sealed = seal(&mut pair.client, &packet(len), pair.now);
        let mut padded = packet(len);
        padded.resize(sealed.len() - OVERHEAD, 0);
        let read = opened_whole(&mut pair.gateway, &sealed, &padded, len, pair.now);
        assert_eq!(read, Segmentation::Whole);
    }
}
