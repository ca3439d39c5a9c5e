//! `make bench-cores`: what a packet costs in both states together, from TUN to TUN (`kernel` datapath) and from TCP to TCP
//! (`userspace`, client's `stack`): routing, tracking, policy, crypto and, in the second, `kvpn-netstack` at both ends.

#[path = "pair.rs"]
mod pair;

use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use pair::{PAYLOAD, Pair};

/// Datagrams a turn of a driver.
const BATCH: usize = 32;
/// Bytes a connection carries.
const STREAM: usize = 4 << 20;

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> Instant {
    Instant::now()
}

fn datagrams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("TUN to TUN");
    group.throughput(Throughput::Bytes((BATCH * PAYLOAD) as u64));
    let mut pair = Pair::new(true, now());
    group.bench_function("32 datagrams of 1,200 bytes", |bencher| {
        bencher.iter(|| assert_eq!(pair.datagrams(BATCH), BATCH));
    });
    group.finish();
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("TCP to TCP");
    group.throughput(Throughput::Bytes(STREAM as u64));
    group.sample_size(20);
    let mut pair = Pair::new(false, now());
    group.bench_function("a connection with 4 MiB", |bencher| {
        bencher.iter(|| pair.stream(STREAM));
    });
    group.finish();
}

criterion_group!(benches, datagrams, streams);
criterion_main!(benches);
