//! Makes packets of what a stack emits, as a link would carry them, and checks that each of them is sound and fits.

use kvpn_netstack::Emitted;
use kvpn_wire::offload::Segmentation;
use kvpn_wire::packet::{Ip, build, checksum};

/// The packets of `emitted`, each at most `mtu` long.
pub fn packets(emitted: &Emitted<'_>, mtu: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut split = emitted.split().expect("what is emitted can be cut");
    let mut out = vec![0; 65_535];
    while let Some(len) = split.next(&mut out) {
        assert!(len <= mtu, "{len} bytes");
        assert!(checksum::verify(&Ip::parse(&out[..len]).unwrap()));
        packets.push(out[..len].to_vec());
    }
    packets
}

/// The same in one piece, with its checksum: what a link that carries super-packets delivers.
pub fn joined(emitted: &Emitted<'_>) -> Vec<u8> {
    let whole = [emitted.header, emitted.payload[0], emitted.payload[1]].concat();
    let ip = Ip::parse(&whole).unwrap();
    assert_eq!(ip.total_len(), whole.len(), "the length field is right");
    if emitted.segmentation == Segmentation::Whole {
        return whole;
    }
    let tcp = ip.tcp().unwrap();
    let segment = build::Segment {
        sequence: tcp.sequence(),
        acknowledgement: tcp.acknowledgement(),
        flags: tcp.flags(),
        window: tcp.window(),
        options: &ip.payload()[20..tcp.header_len()],
        payload: tcp.payload(),
    };
    let (src, dst) = (
        (ip.src(), tcp.src_port()).into(),
        (ip.dst(), tcp.dst_port()).into(),
    );
    let mut out = vec![0; whole.len()];
    let len = build::tcp(src, dst, &segment, &mut out).unwrap();
    assert_eq!(len, out.len());
    out
}
