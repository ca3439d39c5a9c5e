//! `make bench-cores`: what a packet costs in `kvpn-wire`: sealed, opened, looked at, summed, framed, cut and joined.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kvpn_wire::frame::{self, Deframer, Frame};
use kvpn_wire::offload::{Abilities, Coalescer, Segmentation, Split};
use kvpn_wire::packet::build::Segment;
use kvpn_wire::packet::{FiveTuple, Ip, TcpFlags, build, checksum};
use kvpn_wire::wireguard::{Opened, PrivateKey, Sealed, Tunnel, TunnelConfig};

/// Bytes of an inner packet: a bare acknowledgement, a full one, what the `api` carrier may hold.
const SIZES: [usize; 3] = [64, 1360, 8912];

/// Payload of a segment, and how many make a super-packet.
const MSS: usize = 1320;
const SEGMENTS: usize = 49;

/// Room for any datagram here.
const ROOM: usize = 16 << 10;

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> Instant {
    Instant::now()
}

/// An IPv4 packet of this length.
fn packet(size: usize) -> Vec<u8> {
    let mut packet = vec![0; size];
    let source = SocketAddr::from(([198, 19, 0, 2], 4000));
    let target = SocketAddr::from(([10, 244, 1, 7], 5353));
    let payload = vec![7; size - 28];
    let length = build::udp(source, target, &payload, &mut packet).expect("it fits");
    assert_eq!(length, size);
    packet
}

/// Two tunnels with a session between them.
fn connected(at: Instant) -> (Tunnel, Tunnel) {
    let keys = [
        PrivateKey::from_seed([1; 32]),
        PrivateKey::from_seed([2; 32]),
    ];
    let end = |own: usize| {
        let config = TunnelConfig {
            private: keys[own].clone(),
            peer: keys[1 - own].public(),
            preshared: None,
            index: own as u32,
            persistent_keepalive: None,
            mtu: 9000,
            jitter_seed: 1,
            limiter: None,
        };
        Tunnel::new(config, at)
    };
    let (mut client, mut gateway) = (end(0), end(1));
    let (mut first, mut second) = ([0; ROOM], [0; ROOM]);
    let initiation = client.initiate(&mut first, at).expect("there is room");
    let Opened::Reply(response) = gateway.open(&first[..initiation], None, &mut second, at) else {
        panic!("the initiation is not answered")
    };
    let Opened::Established(keepalive) = client.open(&second[..response], None, &mut first, at)
    else {
        panic!("the response is not taken")
    };
    assert_eq!(
        gateway.open(&first[..keepalive], None, &mut second, at),
        Opened::Keepalive
    );
    (client, gateway)
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("kvpn", size), &size, |bencher, &size| {
            let at = now();
            let (mut client, _) = connected(at);
            let (packet, mut out) = (packet(size), [0; ROOM]);
            bencher.iter(|| {
                let sealed = client.seal(&packet, &mut out, at);
                assert!(matches!(sealed, Sealed::Datagram(_)));
            });
        });
    }
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("kvpn", size), &size, |bencher, &size| {
            let at = now();
            let (mut client, mut gateway) = connected(at);
            let (packet, mut datagram, mut out) = (packet(size), [0; ROOM], [0; ROOM]);
            // A datagram opens once only: each is sealed outside of what is timed.
            bencher.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                for _ in 0..count {
                    let Sealed::Datagram(length) = client.seal(&packet, &mut datagram, at) else {
                        panic!("no session")
                    };
                    let start = now();
                    let opened = gateway.open(&datagram[..length], None, &mut out, at);
                    spent += start.elapsed();
                    assert!(matches!(opened, Opened::Packet { len, .. } if len == size));
                }
                spent
            });
        });
    }
    group.finish();
}

fn look(criterion: &mut Criterion) {
    let packet = packet(1360);
    criterion.bench_function("parse to a five-tuple", |bencher| {
        bencher.iter(|| {
            let ip = Ip::parse(black_box(&packet)).expect("a packet");
            black_box(FiveTuple::of(&ip))
        });
    });
    let mut group = criterion.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(1360));
    group.bench_function("1360", |bencher| {
        bencher.iter(|| checksum::of(black_box(&packet)));
    });
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let datagram = vec![7; 1392];
    let mut group = criterion.benchmark_group("frames, 16 datagrams");
    group.throughput(Throughput::Bytes(16 * 1392));
    let mut stream = Vec::new();
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            stream.clear();
            for _ in 0..16 {
                assert!(frame::encode(black_box(&datagram), &mut stream));
            }
        });
    });
    group.bench_function("decode", |bencher| {
        let mut deframer = Deframer::new();
        bencher.iter(|| {
            let mut count = 0;
            let cut = deframer.feed(&stream, |frame| {
                if let Frame::Datagram(datagram) = frame {
                    count += black_box(datagram).len();
                }
            });
            cut.expect("they are framed");
            assert_eq!(count, 16 * 1392);
        });
    });
    group.finish();
}

/// A TCP super-packet as a TUN gives it: as many full segments as 64 KiB hold.
fn super_packet() -> Vec<u8> {
    let payload = vec![7; SEGMENTS * MSS];
    let segment = Segment {
        sequence: 1,
        acknowledgement: 1,
        flags: TcpFlags::ACK.with(TcpFlags::PSH),
        window: 500,
        options: &[],
        payload: &payload,
    };
    let mut packet = vec![0; 40 + payload.len()];
    let source = SocketAddr::from(([198, 19, 0, 2], 4000));
    let target = SocketAddr::from(([10, 244, 1, 7], 8080));
    build::tcp(source, target, &segment, &mut packet).expect("it fits");
    packet
}

fn offload(criterion: &mut Criterion) {
    let whole = super_packet();
    let segmentation = Segmentation::Tcp { size: MSS as u16 };
    let mut group = criterion.benchmark_group("super-packet of 49 segments");
    group.throughput(Throughput::Bytes(whole.len() as u64));
    let mut out = [0; 2048];
    group.bench_function("split", |bencher| {
        bencher.iter(|| {
            let mut split = Split::new(&whole, segmentation).expect("it can be cut");
            let mut count = 0;
            while let Some(length) = split.next(&mut out) {
                black_box(&out[..length]);
                count += 1;
            }
            assert_eq!(count, SEGMENTS);
        });
    });
    let mut packets = Vec::new();
    let mut split = Split::new(&whole, segmentation).expect("it can be cut");
    while let Some(length) = split.next(&mut out) {
        packets.push(out[..length].to_vec());
    }
    let abilities = Abilities {
        tcp: true,
        udp: true,
    };
    let mut coalescer = Coalescer::new(1 << 20, 1024, abilities);
    group.bench_function("coalesce", |bencher| {
        bencher.iter(|| {
            for packet in &packets {
                let space = coalescer.space(packet.len()).expect("there is room");
                space[..packet.len()].copy_from_slice(packet);
                coalescer.commit(packet.len());
            }
            let (joined, _) = coalescer.pop().expect("something was queued");
            assert_eq!(joined.len(), whole.len());
        });
    });
    group.finish();
}

criterion_group!(benches, seal, open, look, frames, offload);
criterion_main!(benches);
