//! How much two stacks back to back move, and how fast flows grow on long and lossy paths. Figures to read, run by hand: `cargo test -p
//! kvpn-netstack --release -- --ignored --nocapture throughput`. Nothing is asserted about time.

use std::time::{Duration, Instant};

use kvpn_netstack::{Config, Event, FlowId, Netstack};

use crate::link::Quality;
use crate::pair::{Pair, SERVER, Script, client_addr, server_addr};

const GIB: usize = 1 << 30;

#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn throughput() {
    for mtu in [1360, 16_000] {
        let start = Instant::now();
        let (moved, packets) = pump(GIB, mtu, Instant::now);
        let seconds = start.elapsed().as_secs_f64();
        let gigabits = moved as f64 * 8.0 / 1e9 / seconds;
        println!(
            "mtu {mtu}: {gigabits:.2} Gbit/s one way, {:.0} ns a packet, both stacks",
            seconds * 1e9 / packets as f64
        );
    }
}

/// Moves bytes from one stack to the other as fast as they go, in batches as a driver would.
fn pump(bytes: usize, mtu: usize, clock: impl Fn() -> Instant) -> (usize, usize) {
    let config = Config {
        mtu,
        ..Config::default()
    };
    let [mut client, mut server] = [1, 2].map(|seed| {
        Netstack::new(
            Config {
                seed,
                ..config.clone()
            },
            clock(),
        )
    });
    let to = client
        .tcp_connect(client_addr(1000), server_addr(), clock())
        .unwrap();
    let mut from = None;
    let (mut sent, mut received, mut packets) = (0, 0, 0);
    while received < bytes {
        let now = clock();
        while sent < bytes {
            let taken = client.tcp_send_with(to, now, |free| free.len().min(bytes - sent));
            sent += taken;
            if taken == 0 {
                break;
            }
        }
        packets += carry(&mut client, &mut server, now);
        from = from.or_else(|| accept(&mut server, now));
        if let Some(from) = from {
            received += read_all(&mut server, from, now);
        }
        while server.poll_event().is_some() {}
        packets += carry(&mut server, &mut client, now);
        while client.poll_event().is_some() {}
        client.handle_timeout(now);
        server.handle_timeout(now);
    }
    (received, packets)
}

fn accept(server: &mut Netstack, now: Instant) -> Option<FlowId> {
    let Event::TcpOpening { flow, .. } = server.poll_event()? else {
        return None;
    };
    server.tcp_accept(flow, now);
    Some(flow)
}

fn read_all(stack: &mut Netstack, flow: FlowId, now: Instant) -> usize {
    let mut received = 0;
    loop {
        let taken = stack.tcp_recv_with(flow, now, <[u8]>::len);
        received += taken;
        if taken == 0 {
            return received;
        }
    }
}

/// One batch of at most 64 packets.
fn carry(from: &mut Netstack, to: &mut Netstack, now: Instant) -> usize {
    for count in 0..64 {
        let Some(packet) = from.poll_segment() else {
            return count;
        };
        to.handle_packet(packet, now);
    }
    64
}

#[test]
#[ignore = "a measurement"]
fn growth() {
    let path = |millis: u64, loss| Quality {
        loss,
        ..Quality::delayed(millis / 2)
    };
    for (millis, loss) in [(2, 0), (20, 0), (80, 0), (2, 1), (20, 1), (80, 1), (20, 10)] {
        measure(
            &format!("{millis} ms, loss {loss}/1000"),
            path(millis, loss),
        );
    }
    for (millis, micros, queue) in [
        (2, 3, 100),
        (2, 10, 100),
        (20, 10, 100),
        (20, 100, 100),
        (20, 100, 1000),
    ] {
        let spacing = Duration::from_micros(micros);
        let megabits = 1320 * 8 / micros;
        let quality = Quality {
            spacing,
            queue,
            ..path(millis, 0)
        };
        measure(
            &format!("{millis} ms, {megabits} Mbit/s, queue of {queue}"),
            quality,
        );
    }
}

fn measure(name: &str, quality: Quality) {
    const BYTES: usize = 64 << 20;
    let config = Config {
        seed: 5,
        ..Config::default()
    };
    let mut pair = Pair::with([config.clone(), config], quality, 5);
    let [client, server] = Script::both_ways(1, BYTES, 0);
    pair.open(
        1000,
        [
            client,
            Script {
                finish_last: true,
                ..server
            },
        ],
    );
    pair.run_until(Duration::from_secs(100_000), Pair::all_ended);
    pair.assert_all_closed();
    let seconds = (pair.now - pair.start).as_secs_f64();
    let rate = BYTES as f64 * 8.0 / 1e6 / seconds;
    let lost = pair.links[SERVER].lost;
    println!("{name}: 64 MiB in {seconds:.2} s, {rate:.0} Mbit/s, {lost} lost");
}
