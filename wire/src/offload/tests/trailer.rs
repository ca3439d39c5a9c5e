//! The segment size behind a sealed packet.

use super::*;
use crate::offload::trailer::{self, MAX_SUPER};

#[test]
fn what_is_appended_is_read() {
    for len in [20, 60, 1360, 65_280, MAX_SUPER] {
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
            assert_eq!(trailer::read(&buf[..total], len), segmentation);
        }
    }
}
