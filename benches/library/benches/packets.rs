//! `make bench-cores` runs it: cost of a packet and of a handshake, by library.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kvpn_library_bench::{Boringtun, Cipher, Gotatun, Library, spent};

/// Bytes of an inner packet: a bare acknowledgement, kvpn's MTU, an api carrier's larger one.
const SIZES: [usize; 3] = [64, 1360, 8912];

fn packets<L: Library>(criterion: &mut Criterion) {
    for (what, run) in [
        ("seal", L::seal as fn(&mut L, u64, usize) -> _),
        ("open", L::open),
    ] {
        let mut group = criterion.benchmark_group(what);
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_with_input(BenchmarkId::new(L::NAME, size), &size, |bencher, &size| {
                let mut library = L::connected();
                bencher.iter_custom(|count| run(&mut library, count, size));
            });
        }
        group.finish();
    }
}

fn handshake<L: Library>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake, both ends");
    group.bench_function(L::NAME, |bencher| {
        bencher.iter_custom(|count| {
            let start = spent();
            for _ in 0..count {
                std::hint::black_box(L::connected());
            }
            spent() - start
        });
    });
    group.finish();
}

fn all(criterion: &mut Criterion) {
    packets::<Cipher>(criterion);
    packets::<Boringtun>(criterion);
    packets::<Gotatun>(criterion);
    handshake::<Boringtun>(criterion);
    handshake::<Gotatun>(criterion);
}

criterion_group!(benches, all);
criterion_main!(benches);
