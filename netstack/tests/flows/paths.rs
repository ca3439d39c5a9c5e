//! How much of a path flows use, and how they share it: figures in the time of the virtual link, the same in each run.

use std::time::Duration;

use kvpn_netstack::{Config, FlowId};

use crate::link::Quality;
use crate::pair::{Pair, SERVER, Script};

/// Nanoseconds that a full packet of 1,360 bytes takes at 1 Gbit/s.
const GIGABIT: u64 = 10_880;
/// The share of such a packet that is payload, in Gbit/s.
const PAYLOAD: f64 = 1320.0 / 1360.0;

/// A bottleneck of 1 Gbit/s with a queue, 20 ms there and back.
fn gigabit(queue: u32, loss: u64) -> Quality {
    Quality {
        spacing: Duration::from_nanos(GIGABIT),
        queue,
        loss,
        ..Quality::delayed(10)
    }
}

fn pair(quality: Quality) -> Pair {
    let configs = [1, 2].map(|seed| Config {
        seed,
        tcp_buffer: 16 << 20,
        ..Config::default()
    });
    Pair::with(configs, quality, 5)
}

/// A flow upwards that does not end.
fn open(pair: &mut Pair, port: u16) -> FlowId {
    let scripts = Script::both_ways(1, usize::MAX, 0);
    pair.open(
        port,
        scripts.map(|script| Script {
            bulk: true,
            finish_last: true,
            ..script
        }),
    )
}

/// Bytes that each flow delivered, in the order of their opening.
fn received(pair: &Pair) -> Vec<usize> {
    let programs = pair.programs[SERVER].values();
    programs.map(|program| program.received).collect()
}

/// The share of the link that one flow fills in the seconds after the first one, and packets lost of a thousand.
fn utilisation(quality: Quality, seconds: u64) -> (f64, f64) {
    let mut pair = pair(quality);
    open(&mut pair, 1000);
    pair.run_for(Duration::from_secs(1));
    let before = received(&pair)[0];
    pair.run_for(Duration::from_secs(seconds));
    let bytes = received(&pair)[0] - before;
    let rate = bytes as f64 * 8.0 / 1e9 / seconds as f64;
    let packets = received(&pair)[0] as f64 / 1320.0;
    (
        rate / PAYLOAD,
        pair.links[SERVER].lost as f64 * 1000.0 / packets,
    )
}

#[test]
fn one_flow_fills_a_path() {
    let cells = [
        (1000, 0, 0.90),
        (1000, 1, 0.90),
        (1000, 10, 0.90),
        (100, 0, 0.85),
        (100, 1, 0.85),
        (100, 10, 0.75),
    ];
    for (queue, loss, least) in cells {
        let (used, lost) = utilisation(gigabit(queue, loss), 3);
        println!(
            "queue of {queue}, loss {loss}/1000: {:.1} % used, {lost:.1}/1000 lost",
            used * 100.0
        );
        assert!(used >= least, "{used} with {queue}, {loss}");
        assert!(
            lost <= loss as f64 + 10.0,
            "{lost} lost with {queue}, {loss}"
        );
    }
}

/// Jain's index: 1 when all have the same, one share when one has all.
fn fairness(shares: &[usize]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    sum * sum / squares / shares.len() as f64
}

/// Who comes later finds the path full: some probes later it has a share as well, and none starves.
#[test]
fn flows_share_a_path() {
    for (queue, least) in [(100, 0.85), (1000, 0.75)] {
        let mut pair = pair(gigabit(queue, 0));
        for port in 0..4 {
            open(&mut pair, 1000 + port);
            pair.run_for(Duration::from_millis(500));
        }
        pair.run_for(Duration::from_secs(6));
        let before = received(&pair);
        pair.run_for(Duration::from_secs(4));
        let after = received(&pair);
        let shares: Vec<usize> = after
            .iter()
            .zip(before)
            .map(|(now, then)| now - then)
            .collect();
        let (fair, all) = (fairness(&shares), shares.iter().sum::<usize>());
        let used = all as f64 * 8.0 / 4e9 / PAYLOAD;
        println!("queue of {queue}: {shares:?}, Jain's index {fair:.2}, {used:.2} used");
        assert!(fair >= least, "{fair} with {queue}");
        assert!(used >= 0.85, "{used} with {queue}");
        assert!(shares.iter().all(|share| share * 20 > all), "{shares:?}");
    }
}
