//! The userspace TCP against the kernel's, over a link between them that loses, repeats, delays and reorders packets, and the kernel
//! against itself over the same link for comparison. Needs root and /dev/net/tun.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "the tests' own tools panic with the test, say what they measured, and run in real time"
)]

#[path = "../netstack/tests/flows/link.rs"]
mod link;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvpn_netstack::{Config, Event, FlowId, Netstack};
use link::{Link, Quality};
use rustix::event::{Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const MTU: u16 = 1360;
const TICK: Duration = Duration::from_micros(100);
/// Nothing here may take longer.
const LIMIT: Duration = Duration::from_secs(120);

/// What a connection carries: first up, then, behind the client's FIN, down.
#[derive(Clone, Copy)]
struct Load {
    up: usize,
    down: usize,
}

fn byte(at: usize) -> u8 {
    ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(byte).collect()
}

/// A network namespace, gone when dropped.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

/// A host whose network is a TUN.
struct Host {
    device: tun::Device,
    namespace: Namespace,
}

impl Host {
    fn new(name: &str, own: Ipv4Addr, others: &str) -> Self {
        let namespace = format!("kvpn-tcp-{name}-{}", std::process::id());
        ip(&format!("netns add {namespace}"));
        let namespace = Namespace(namespace);
        let device = inside(&namespace.0, || {
            let mut configuration = tun::Configuration::default();
            configuration.tun_name("tun0").mtu(MTU);
            let device = tun::create(&configuration).unwrap();
            device.set_nonblock().unwrap();
            device
        });
        for command in [
            format!("addr add {own}/32 dev tun0"),
            "link set tun0 up".to_owned(),
            format!("route add {others} dev tun0"),
        ] {
            ip(&format!("-n {} {command}", namespace.0));
        }
        Self { device, namespace }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// Runs `act` in a thread inside the namespace.
fn inside<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = File::open(Path::new("/run/netns").join(namespace)).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}

/// One end of the link.
trait End {
    /// The next packet that it sends.
    fn take(&mut self, now: Instant) -> Option<Vec<u8>>;
    fn give(&mut self, packet: &[u8], now: Instant);
}

impl End for Host {
    fn take(&mut self, _: Instant) -> Option<Vec<u8>> {
        let mut packet = vec![0; 65_535];
        let len = self.device.read(&mut packet).ok()?;
        packet.truncate(len);
        Some(packet)
    }

    fn give(&mut self, packet: &[u8], _: Instant) {
        self.device.write_all(packet).unwrap();
    }
}

/// A server on the userspace stack, for one connection.
struct Stack {
    stack: Netstack,
    load: Load,
    received: usize,
    down: Vec<u8>,
    sent: usize,
    peer_finished: bool,
    packets: Vec<Vec<u8>>,
}

impl Stack {
    fn new(load: Load) -> Self {
        let config = Config {
            mtu: MTU.into(),
            seed: 11,
            ..Config::default()
        };
        Self {
            stack: Netstack::new(config, Instant::now()),
            load,
            received: 0,
            down: pattern(load.down),
            sent: 0,
            peer_finished: false,
            packets: Vec::new(),
        }
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::TcpOpening { flow, .. } => self.stack.tcp_accept(flow, now),
            Event::TcpReadable { flow } => self.read(flow, now),
            Event::TcpPeerFinished { flow } => {
                assert_eq!(self.received, self.load.up);
                self.peer_finished = true;
                self.write(flow, now);
            }
            Event::TcpWritable { flow } if self.peer_finished => self.write(flow, now),
            Event::TcpReset { .. } => panic!("the kernel reset it after {} bytes", self.received),
            _ => {}
        }
    }

    fn read(&mut self, flow: FlowId, now: Instant) {
        loop {
            let at = self.received;
            let taken = self.stack.tcp_recv_with(flow, now, |ready| {
                let expected = ready.iter().zip(at..).all(|(&found, at)| found == byte(at));
                assert!(expected, "wrong bytes after {at}");
                ready.len()
            });
            if taken == 0 {
                return;
            }
            self.received += taken;
        }
    }

    fn write(&mut self, flow: FlowId, now: Instant) {
        self.sent += self.stack.tcp_send(flow, &self.down[self.sent..], now);
        if self.sent == self.down.len() {
            self.stack.tcp_finish(flow, now);
        }
    }

    fn cut(&mut self) {
        let mut out = [0; 2048];
        while let Some(emitted) = self.stack.poll_packet(usize::MAX) {
            let mut split = emitted.split().unwrap();
            while let Some(len) = split.next(&mut out) {
                self.packets.push(out[..len].to_vec());
            }
        }
        self.packets.reverse();
    }
}

impl End for Stack {
    fn take(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.packets.is_empty() {
            self.stack.handle_timeout(now);
            while let Some(event) = self.stack.poll_event() {
                self.handle(event, now);
            }
            self.cut();
        }
        self.packets.pop()
    }

    fn give(&mut self, packet: &[u8], now: Instant) {
        self.stack.handle_packet(packet, now);
    }
}

/// Carries packets both ways until `done`.
fn carry(mut ends: [&mut dyn End; 2], quality: Quality, seed: u64, done: &AtomicBool) {
    let mut links = [seed, seed + 1].map(|seed| Link::new(quality, seed * 77 + 1));
    let start = Instant::now();
    while !done.load(Ordering::Relaxed) {
        let now = Instant::now();
        assert!(now - start < LIMIT, "not done after {LIMIT:?}");
        for (side, link) in links.iter_mut().enumerate() {
            while let Some(packet) = link.receive(now) {
                ends[side].give(&packet, now);
            }
        }
        for (side, end) in ends.iter_mut().enumerate() {
            while let Some(packet) = end.take(now) {
                links[1 - side].send(&packet, now);
            }
        }
        // The link's clock: what comes between two ticks was sent together.
        let due = links.iter().filter_map(Link::next).min();
        let wait = due.map_or(TICK, |at| at.saturating_duration_since(now).min(TICK));
        poll(&mut [], Some(&Timespec::try_from(wait).unwrap())).unwrap();
    }
}

/// What ours is compared with, where the kernel has it.
fn choose_bbr(stream: &TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_tcp_congestion(stream, "bbr") {
        eprintln!("no BBR in the kernel ({error}): it compares with its own choice");
    }
}

/// The client's side: a program on the kernel's TCP. Returns how long it took.
fn client(load: Load) -> Duration {
    let start = Instant::now();
    let mut stream = TcpStream::connect(SocketAddr::from((SERVER, 80))).unwrap();
    choose_bbr(&stream);
    stream.write_all(&pattern(load.up)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut down = Vec::new();
    stream.read_to_end(&mut down).unwrap();
    assert!(down == pattern(load.down), "{} bytes came", down.len());
    start.elapsed()
}

/// The same as [`Stack`], on the kernel's TCP.
fn serve(listener: &TcpListener, load: Load) {
    let (mut stream, _) = listener.accept().unwrap();
    choose_bbr(&stream);
    let mut up = Vec::new();
    stream.read_to_end(&mut up).unwrap();
    assert!(up == pattern(load.up), "{} bytes came", up.len());
    stream.write_all(&pattern(load.down)).unwrap();
}

fn against_stack(load: Load, quality: Quality, seed: u64) -> Duration {
    let mut host = Host::new("a", CLIENT, "10.96.0.0/16");
    let (namespace, done) = (host.namespace.0.clone(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| {
            let _end = Done(&done);
            inside(&namespace, || client(load))
        });
        carry([&mut host, &mut Stack::new(load)], quality, seed, &done);
        taken.join().unwrap()
    })
}

fn against_kernel(load: Load, quality: Quality, seed: u64) -> Duration {
    let mut client_host = Host::new("b", CLIENT, "10.96.0.0/16");
    let mut server_host = Host::new("c", SERVER, "198.19.0.0/16");
    let done = AtomicBool::new(false);
    let listener = inside(&server_host.namespace.0, || {
        TcpListener::bind((SERVER, 80)).unwrap()
    });
    let namespace = client_host.namespace.0.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&listener, load));
        let taken = scope.spawn(|| {
            let _end = Done(&done);
            inside(&namespace, || client(load))
        });
        carry([&mut client_host, &mut server_host], quality, seed, &done);
        taken.join().unwrap()
    })
}

/// Ends the link when the client ends, whichever way.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn can_run() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    if !can {
        eprintln!("skipped: a peer in the kernel needs root and /dev/net/tun");
    }
    can
}

/// One test, so that transfers do not share the processor.
#[test]
fn the_kernel_understands_us_and_we_it() {
    if !can_run() {
        return;
    }
    let bad = Quality {
        jitter: Duration::from_millis(3),
        loss: 20,
        duplication: 20,
        ..Quality::delayed(3)
    };
    against_stack(
        Load {
            up: 1_000_000,
            down: 1_000_000,
        },
        bad,
        1,
    );
    against_stack(
        Load {
            up: 20_000_000,
            down: 20_000_000,
        },
        Quality::delayed(5),
        2,
    );
    let lossy = Quality {
        loss: 5,
        ..Quality::delayed(5)
    };
    for (load, name) in [
        (
            Load {
                up: 6_000_000,
                down: 0,
            },
            "up",
        ),
        (
            Load {
                up: 0,
                down: 6_000_000,
            },
            "down",
        ),
    ] {
        let [ours, theirs] =
            [against_stack, against_kernel].map(|run| run(load, lossy, 3).as_secs_f64());
        let rate = |seconds: f64| (load.up + load.down) as f64 * 8.0 / 1e6 / seconds;
        eprintln!(
            "{name}: {:.1} Mbit/s, the kernel with itself {:.1}",
            rate(ours),
            rate(theirs)
        );
        // Which packets are lost differs between two runs, and so do rates: by a third, seldom by half.
        assert!(
            ours < 2.0 * theirs,
            "{name}: {ours} s, the kernel with itself {theirs} s"
        );
    }
}
