//! delaylink copies Ethernet frames between two interfaces and impairs them on the way: delay, jitter, loss (single
//! or in bursts), duplicates, reordering, a rate with a bounded queue, a complete cut. It stands in for netem on
//! kernels that lack it.
//!
//! One thread a direction. Frames come in by recvmmsg from a packet socket, wait in a byte ring in the order in which
//! they are due, and leave by sendmmsg. Both sockets carry virtio-net headers, so that TSO frames of 64 KiB and
//! unfinished checksums cross as they are. Must not look into a frame.

mod chance;
mod control;
mod direction;
mod os;
mod ring;
mod shape;
mod stats;

use std::fmt::Display;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, mpsc};

use crate::direction::Direction;
use crate::os::PacketSocket;
use crate::shape::Shape;
use crate::stats::Stats;

const USAGE: &str = "\
usage: delaylink run IF_A IF_B [--control SOCKET] [OPTION=VALUE...]
       delaylink ctl SOCKET [OPTION=VALUE...]      change a running link, print its state
A direction: `up.OPTION` is A to B, `down.OPTION` is B to A; without a prefix: both.
  delay=10ms      one way, so RTT grows by twice this       (0)
  jitter=2ms      uniform, +-; keeps the order               (0)
  loss=1%         random loss                                (0)
  burst=4         mean length of a loss burst, in frames     (1)
  dup=0.1%        duplicates                                 (0)
  reorder=1%      this share is held back by reorder-by      (0)
  reorder-by=3ms                                             (3ms)
  rate=100mbit    bottleneck: kbit, mbit, gbit; 0 = none     (0)
  buffer=50ms     queue before the bottleneck, in time       (50ms)
  limit=64mb      memory for frames in flight                (64mb, only at start)
  cut=1           drop everything                            (0)
  seed=N          of the random numbers                      (1, only at start)";

/// Names of the two directions, A to B first.
const DIRECTIONS: [&str; 2] = ["up", "down"];

/// What both directions and the control socket share.
#[derive(Debug)]
struct Link {
    /// One a direction; read again when `generation` has changed.
    shapes: Mutex<[Shape; 2]>,
    generation: AtomicU64,
    stats: [Stats; 2],
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.first().map(String::as_str) {
        Some("run") if words.len() >= 3 => run(&words[1], &words[2], &words[3..]),
        Some("ctl") if words.len() >= 2 => control::ask(&words[1], &words[2..]),
        Some(_) | None => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(why);
            ExitCode::from(2)
        }
    }
}

fn run(a: &str, b: &str, options: &[String]) -> Result<(), String> {
    let (shapes, socket) = parse(options)?;
    let link = Arc::new(Link {
        shapes: Mutex::new(shapes),
        generation: AtomicU64::new(1),
        stats: Default::default(),
    });
    // Opened before anything is reported: whoever waits for "ready" loses no frame.
    let (from_a, from_b) = (open(a)?, open(b)?);
    let (to_a, to_b) = (duplicate(&from_a)?, duplicate(&from_b)?);
    if let Some(path) = socket {
        control::listen(&path, Arc::clone(&link))?;
    }
    say(format_args!("delaylink: ready, {a} (A) <-> {b} (B)"));
    let (ended_tx, ended_rx) = mpsc::channel();
    for (index, from, to) in [(0, from_a, to_b), (1, from_b, to_a)] {
        let (link, ended_tx) = (Arc::clone(&link), ended_tx.clone());
        std::thread::Builder::new()
            .name(DIRECTIONS[index].to_owned())
            .spawn(move || ended_tx.send(Direction::new(index, &link, from, to).run()))
            .map_err(|error| error.to_string())?;
    }
    drop(ended_tx);
    // A link of one direction is none: the first end is the end.
    match ended_rx.recv() {
        Ok(Err(error)) => Err(format!("receiving: {error}")),
        Ok(Ok(never)) => match never {},
        Err(_) => Err("both directions ended".to_owned()),
    }
}

/// The shapes of both directions, and where the control socket goes.
fn parse(options: &[String]) -> Result<([Shape; 2], Option<String>), String> {
    let mut shapes = [Shape::default(); 2];
    let mut socket = None;
    let mut words = options.iter();
    while let Some(word) = words.next() {
        if word == "--control" {
            socket = Some(words.next().ok_or("--control needs a path")?.clone());
        } else {
            shape::apply(&mut shapes, word)?;
        }
    }
    Ok((shapes, socket))
}

fn open(interface: &str) -> Result<PacketSocket, String> {
    PacketSocket::open(interface).map_err(|error| format!("{interface}: {error}"))
}

fn duplicate(socket: &PacketSocket) -> Result<PacketSocket, String> {
    socket.duplicate().map_err(|error| error.to_string())
}

#[expect(clippy::print_stdout, reason = "a command's answer")]
fn say(text: impl Display) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a command's complaint")]
fn complain(text: impl Display) {
    eprintln!("delaylink: {text}");
}
