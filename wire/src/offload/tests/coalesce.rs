//! Packets that become super-packets, and those that must not.

use super::*;

#[test]
fn a_train_becomes_one_and_comes_apart_again() {
    for ends in [v4(), v6()] {
        let packets = train(ends, &[1300, 1300, 1300, 1300, 700]);
        let supers = coalesced(&packets);
        assert_eq!(supers.len(), 1);
        assert_eq!(supers[0].1, Segmentation::Tcp { size: 1300 });
        let ip = Ip::parse(&supers[0].0).unwrap();
        assert_eq!(ip.total_len(), supers[0].0.len());
        assert_eq!(apart(&supers), packets);
    }
}
