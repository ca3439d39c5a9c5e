//! The header before every packet of a TUN.

use super::*;
use crate::offload::virtio;

#[test]
fn a_super_packet_written_is_read_again() {
    for ends in [v4(), v6()] {
        let supers = coalesced(&train(ends, &[1300, 1300, 700]));
        let (mut packet, segmentation) = supers[0].clone();
        let header = virtio::write(&mut packet, segmentation);
        assert_eq!(virtio::read(&header, &mut packet), Ok(segmentation));
        assert_eq!(apart(&[(packet, segmentation)]), apart(&supers));
    }
}
