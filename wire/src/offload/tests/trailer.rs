//! The segment size behind a sealed packet.

use proptest::prelude::*;

use super::*;
use crate::offload::trailer::{self, MAX_PLAINTEXT, MAX_SUPER};

#[test]
fn what_is_appended_is_read() {
    for len in (20..60).chain([1360, 65_280, MAX_SUPER]) {
        for segmentation in [
            Segmentation::Whole,
            Segmentation::Tcp { size: 1300 },
            Segmentation::Udp { size: 1 },
            Segmentation::Tcp { size: u16::MAX },
        ] {
            let mut buf = vec![0xff; 65_535];
            let total = trailer::append(&mut buf, len, segmentation).unwrap();
            assert!(total.is_multiple_of(16) && total - len < 20);
            assert!(buf[..len].iter().all(|byte| *byte == 0xff));
            assert!(buf[total..].iter().all(|byte| *byte == 0xff));
            assert_eq!(trailer::read(&buf[..total], len), segmentation);
        }
    }
}

#[test]
fn the_bytes_are_as_documented() {
    let mut buf = [0xff; 48];
    let total = trailer::append(&mut buf, 40, Segmentation::Tcp { size: 0x0514 });
    assert_eq!(total, Some(48));
    assert_eq!(buf[40..], [0, 0, 0, 0, 0x05, 0x14, 0x6b, 1]);
    let total = trailer::append(&mut buf, 28, Segmentation::Udp { size: 0x0514 });
    assert_eq!(total, Some(32));
    assert_eq!(buf[28..32], [0x05, 0x14, 0x6b, 2]);
}

#[test]
fn an_ordinary_peers_padding_says_nothing() {
    for packet_len in 20..200 {
        for padding in 0..40 {
            let mut plaintext = vec![0xff; packet_len];
            plaintext.resize(packet_len + padding, 0);
            assert_eq!(trailer::read(&plaintext, packet_len), Segmentation::Whole);
        }
    }
}

#[test]
fn what_is_not_quite_a_trailer_is_none() {
    let mut good = [0xff; 48];
    trailer::append(&mut good, 36, Segmentation::Tcp { size: 1300 }).unwrap();
    assert_ne!(trailer::read(&good, 36), Segmentation::Whole);
    // The packet is longer or shorter by its header than the peer's trailer left room for.
    for len in [45, 47, 48, 49, 1000] {
        assert_eq!(trailer::read(&good, len), Segmentation::Whole);
    }
    assert_eq!(trailer::read(&good, 28), Segmentation::Whole);
    for (byte, value) in [(36, 1), (43, 1), (46, 0), (46, 0x6a), (47, 0), (47, 3)] {
        let mut changed = good;
        changed[byte] = value;
        assert_eq!(trailer::read(&changed, 36), Segmentation::Whole);
    }
    let mut no_size = good;
    no_size[44..46].fill(0);
    assert_eq!(trailer::read(&no_size, 36), Segmentation::Whole);
    assert_eq!(trailer::read(&good[1..], 35), Segmentation::Whole);
}

#[test]
fn what_does_not_fit_is_refused() {
    let tcp = Segmentation::Tcp { size: 1300 };
    let mut buf = vec![0; 100_000];
    assert_eq!(
        trailer::append(&mut buf, MAX_SUPER, tcp),
        Some(MAX_PLAINTEXT)
    );
    assert_eq!(trailer::append(&mut buf, MAX_SUPER + 1, tcp), None);
    let whole = Segmentation::Whole;
    assert_eq!(
        trailer::append(&mut buf, MAX_PLAINTEXT, whole),
        Some(MAX_PLAINTEXT)
    );
    assert_eq!(trailer::append(&mut buf, MAX_PLAINTEXT + 1, whole), None);
    assert_eq!(trailer::append(&mut buf, usize::MAX, tcp), None);
    assert_eq!(trailer::append(&mut buf[..47], 40, tcp), None);
    assert_eq!(trailer::append(&mut buf[..30], 40, tcp), None);
    const { assert!(MAX_PLAINTEXT + 32 <= u16::MAX as usize) };
}

proptest! {
    #[test]
    fn any_plaintext_is_survived(plaintext in prop::collection::vec(any::<u8>(), 0..100), len in 0..200_usize) {
        let _ = trailer::read(&plaintext, len);
    }
}
