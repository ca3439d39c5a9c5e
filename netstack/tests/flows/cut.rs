//! Cuts what a stack emits into the packets that a link would carry, and checks that each of them is sound and fits.

use kvpn_netstack::{Emitted, Segmentation};
use kvpn_wire::packet::{Ip, TcpFlags, build, checksum};

/// The packets of `emitted`, each at most `mtu` long.
pub fn packets(emitted: &Emitted<'_>, mtu: usize) -> Vec<Vec<u8>> {
    let [one, two] = emitted.payload;
    let payload = [one, two].concat();
    let packets = match emitted.segmentation {
        Segmentation::Whole => {
            assert!(payload.is_empty());
            vec![emitted.header.to_vec()]
        }
        Segmentation::Tcp { size } => cut(emitted.header, &payload, size.into()),
    };
    for packet in &packets {
        assert!(packet.len() <= mtu, "{} bytes", packet.len());
        assert!(checksum::verify(&Ip::parse(packet).unwrap()));
    }
    packets
}

fn cut(header: &[u8], payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let whole = [header, payload].concat();
    assert!(whole.len() <= 65_535 && !payload.is_empty() && size > 0);
    let ip = Ip::parse(&whole).unwrap();
    assert_eq!(ip.total_len(), whole.len(), "the length field is right");
    let tcp = ip.tcp().unwrap();
    let (src, dst) = (
        (ip.src(), tcp.src_port()).into(),
        (ip.dst(), tcp.dst_port()).into(),
    );
    let options = &ip.payload()[20..tcp.header_len()];
    let last = (payload.len() - 1) / size;
    let segments = payload.chunks(size).enumerate().map(|(index, chunk)| {
        let later = TcpFlags::FIN.with(TcpFlags::PSH).0;
        let flags = if index == last { tcp.flags().0 } else { tcp.flags().0 & !later };
        let segment = build::Segment {
            sequence: tcp.sequence().wrapping_add((index * size) as u32),
            acknowledgement: tcp.acknowledgement(),
            flags: TcpFlags(flags),
            window: tcp.window(),
            options,
            payload: chunk,
        };
        let mut out = vec![0; header.len() + chunk.len()];
        let len = build::tcp(src, dst, &segment, &mut out).unwrap();
        assert_eq!(len, out.len());
        out
    });
    segments.collect()
}

/// The same in one piece, with its checksum: what a link that carries super-packets delivers.
pub fn joined(emitted: &Emitted<'_>) -> Vec<u8> {
    match emitted.segmentation {
        Segmentation::Whole => emitted.header.to_vec(),
        Segmentation::Tcp { .. } => {
            let [one, two] = emitted.payload;
            let payload = [one, two].concat();
            cut(emitted.header, &payload, payload.len()).remove(0)
        }
    }
}
