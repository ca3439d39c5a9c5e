//! How long a segment takes. Run by hand, in release mode:
//! `cargo test --release -p kvpn-wire offload::tests::speed -- --ignored --nocapture`

use std::hint::black_box;
use std::time::Instant;

use super::*;
use crate::offload::virtio;

/// Each figure is the best of so many tries, because other programs run beside.
const TRIES: usize = 400;

const ROUNDS: usize = 40;

const SEGMENTS: usize = 46;

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn measure(name: &str, segments: usize, mut body: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..TRIES {
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            body();
        }
        let segments = f64::from(u32::try_from(ROUNDS * segments).unwrap());
        best = best.min(begin.elapsed().as_secs_f64() * 1e9 / segments);
    }
    println!("{name}: {best:.1} ns");
}

#[test]
#[ignore = "measures; says nothing about right or wrong"]
fn nanoseconds_a_segment() {
    let payload = bytes(1, 1300);
    measure("checksum of 1300 bytes", 1, || {
        black_box(checksum::of(black_box(&payload)));
    });
    let packets = train(v4(), &[1300; SEGMENTS]);
    let mut slab = vec![0; SEGMENTS * 1352];
    measure("copy of 1352 bytes", SEGMENTS, || {
        for (packet, place) in packets.iter().zip(slab.chunks_exact_mut(1352)) {
            place.copy_from_slice(black_box(packet));
        }
        black_box(&slab);
    });
    for (family, ends) in [("v4", v4()), ("v6", v6())] {
        let packets = train(ends, &[1300; SEGMENTS]);
        let mut queue = Coalescer::new(1 << 20, 1024, ALL);
        measure(
            &format!("coalesce {family} (with copy in)"),
            SEGMENTS,
            || {
                for packet in &packets {
                    queue.push(packet);
                }
                while let Some((packet, segmentation)) = queue.pop() {
                    black_box(virtio::write(packet, segmentation));
                }
            },
        );
        let (packet, segmentation) = coalesced(&packets).remove(0);
        let mut out = vec![0; 2048];
        measure(&format!("split {family}"), SEGMENTS, || {
            let mut split = Split::new(black_box(&packet), segmentation).unwrap();
            while let Some(len) = split.next(&mut out) {
                black_box(&out[..len]);
            }
        });
    }
}
