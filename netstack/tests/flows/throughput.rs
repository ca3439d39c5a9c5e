//! What a segment costs each side, what a flow costs in memory, how fast flows grow on long and lossy paths. Figures to read, run by hand:
//! `cargo test -p kvpn-netstack --release -- --ignored --nocapture --test-threads 1`. Nothing is asserted about time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kvpn_netstack::{Config, Event, FlowId, Netstack};

use crate::link::Quality;
use crate::pair::{Pair, SERVER, Script, client_addr, server_addr, start};

/// Bytes moved in one measurement.
const BYTES: usize = 2 << 30;
/// Segments that come in one batch, as one `recvmsg` with UDP_GRO gives.
const BATCH: usize = 46;

/// What each side took for one-way bulk, without what is between them.
///
/// Batches are timed one by one, and the median counts: the machine does other things beside.
#[derive(Default)]
struct Cost {
    sending: Vec<f64>,
    receiving: Vec<f64>,
    segments: u32,
    acknowledgements: u32,
}

impl Cost {
    /// Ends a batch: nanoseconds a segment.
    fn batch(times: &mut Vec<f64>, took: Duration, segments: usize) {
        if segments > 0 {
            times.push(took.as_secs_f64() * 1e9 / segments as f64);
        }
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn throughput() {
    for (name, supers) in [("segments", false), ("super-packets", true)] {
        let mut cost = pump(supers);
        println!(
            "{name}: {:.0} ns to send, {:.0} ns to receive each of {} segments; {} acknowledgements",
            median(&mut cost.sending),
            median(&mut cost.receiving),
            cost.segments,
            cost.acknowledgements,
        );
    }
}

/// Runs `act` and adds what it took.
#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn timed<R>(total: &mut Duration, act: impl FnOnce(Instant) -> R) -> R {
    let start = Instant::now();
    let result = act(start);
    *total += start.elapsed();
    result
}

/// Two stacks, a flow between them.
struct Bulk {
    client: Netstack,
    server: Netstack,
    to: FlowId,
    from: Option<FlowId>,
    cost: Cost,
    packets: Vec<Vec<u8>>,
    waiting: VecDeque<usize>,
    spare: Vec<usize>,
    answers: Vec<Vec<u8>>,
}

/// Moves bytes one way as fast as they go, in batches as a driver would.
fn pump(supers: bool) -> Cost {
    let now = start();
    let [mut client, server] = [1, 2].map(|seed| {
        let config = Config {
            seed,
            ..Config::default()
        };
        Netstack::new(config, now)
    });
    let to = client
        .tcp_connect(client_addr(1000), server_addr(), now)
        .unwrap();
    let mut bulk = Bulk {
        client,
        server,
        to,
        from: None,
        cost: Cost::default(),
        packets: Vec::new(),
        waiting: VecDeque::new(),
        spare: Vec::new(),
        answers: Vec::new(),
    };
    let mut received = 0;
    while received < BYTES {
        bulk.send(supers);
        received += bulk.receive();
    }
    bulk.cost
}

impl Bulk {
    /// The caller's bytes in, packets out; cutting them is not timed.
    fn send(&mut self, supers: bool) {
        let (client, to) = (&mut self.client, self.to);
        let (mut took, mut segments) = (Duration::ZERO, 0);
        timed(&mut took, |now| {
            client.handle_timeout(now);
            for answer in self.answers.drain(..) {
                client.handle_packet(&answer, now);
            }
            while client.poll_event().is_some() {}
            while client.tcp_send_with(to, now, |free| free.len()) > 0 {}
        });
        while self.waiting.len() < 2 * BATCH {
            let Some(emitted) = timed(&mut took, |_| client.poll_packet(usize::MAX)) else {
                break;
            };
            let made = match supers {
                true => vec![crate::cut::joined(&emitted)],
                false => crate::cut::packets(&emitted, 1360),
            };
            segments += segments_of(emitted.total_len() - emitted.header.len());
            for packet in made {
                let slot = self.spare.pop().unwrap_or(self.packets.len());
                self.packets
                    .resize_with(self.packets.len().max(slot + 1), Vec::new);
                self.packets[slot] = packet;
                self.waiting.push_back(slot);
            }
        }
        Cost::batch(&mut self.cost.sending, took, segments);
        self.cost.segments += segments as u32;
    }

    /// One batch in, its bytes and answers out.
    fn receive(&mut self) -> usize {
        let Self {
            server,
            packets,
            waiting,
            spare,
            from,
            answers,
            ..
        } = self;
        let mut took = Duration::ZERO;
        let received = timed(&mut took, |now| {
            server.handle_timeout(now);
            for _ in 0..BATCH {
                let Some(slot) = waiting.pop_front() else {
                    break;
                };
                server.handle_packet(&packets[slot], now);
                spare.push(slot);
            }
            while let Some(event) = server.poll_event() {
                if let Event::TcpOpening { flow, .. } = event {
                    server.tcp_accept(flow, now);
                    *from = Some(flow);
                }
            }
            let mut received = 0;
            while let Some(flow) = *from {
                let taken = server.tcp_recv_with(flow, now, <[u8]>::len);
                received += taken;
                if taken == 0 {
                    break;
                }
            }
            while let Some(answer) = server.poll_packet(usize::MAX) {
                answers.push(answer.header.to_vec());
            }
            received
        });
        Cost::batch(&mut self.cost.receiving, took, segments_of(received));
        self.cost.acknowledgements += self.answers.len() as u32;
        received
    }
}

fn segments_of(bytes: usize) -> usize {
    bytes.div_ceil(1320)
}

#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn many_flows() {
    for flows in [0, 1000, 20_000] {
        let before = resident();
        let began = Instant::now();
        let pair = idle_flows(flows);
        let seconds = began.elapsed().as_secs_f64();
        let bytes = resident().saturating_sub(before);
        println!(
            "{flows} idle flows: {} bytes each (both ends), {:.0} connections a second, {} bytes in buffers",
            bytes / (flows * 2).max(1),
            flows as f64 / seconds,
            pair.stacks[SERVER].memory_used(),
        );
    }
}

/// Opens flows that move something and stay.
fn idle_flows(count: usize) -> Pair {
    let config = Config {
        max_flows: 50_000,
        seed: 5,
        ..Config::default()
    };
    let mut pair = Pair::with([config.clone(), config], Quality::PERFECT, 5);
    for port in 0..count {
        let [client, server] = Script::both_ways(1, 100, 100);
        let stay = |script| Script {
            finish_last: true,
            ..script
        };
        pair.open(10_000 + port as u16, [stay(client), stay(server)]);
        if port % 64 == 0 {
            pair.run_for(Duration::from_millis(1));
        }
    }
    pair.run_for(Duration::from_secs(10));
    assert_eq!(pair.stacks[SERVER].flows().tcp, count);
    pair
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
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
