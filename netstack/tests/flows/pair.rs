//! Two stacks, the link between them, a clock that jumps to whatever is due next, and programs at both ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvpn_netstack::{Config, Event, FlowId, Netstack};

use kvpn_wire::packet::Ip;

use crate::cut;
use crate::link::{Link, Quality, Rng};

pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

/// What a program at one end of a flow sends, expects, and does when it sent everything.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    pub send: Pattern,
    pub expect: Pattern,
    /// Send FIN only after the peer's.
    pub finish_last: bool,
    /// Bytes read at a time.
    pub read: usize,
    /// Nobody looks at the bytes: there are too many.
    pub bulk: bool,
}

/// Bytes that can be checked without keeping them.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    pub seed: u64,
    pub len: usize,
}

impl Pattern {
    pub fn byte(self, at: usize) -> u8 {
        ((at as u64 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
    }
}

impl Script {
    pub fn both_ways(seed: u64, up: usize, down: usize) -> [Self; 2] {
        let (up, down) = (
            Pattern { seed, len: up },
            Pattern {
                seed: !seed,
                len: down,
            },
        );
        let client = Self {
            send: up,
            expect: down,
            finish_last: false,
            read: 16 * 1024,
            bulk: false,
        };
        [
            client,
            Self {
                send: down,
                expect: up,
                ..client
            },
        ]
    }
}

/// A program at one end of a flow.
#[derive(Debug)]
pub struct Program {
    pub flow: FlowId,
    pub script: Script,
    pub sent: usize,
    pub received: usize,
    pub finished: bool,
    pub connected: bool,
    pub peer_finished: bool,
    pub end: Option<Event>,
}

impl Program {
    pub fn new(flow: FlowId, script: Script) -> Self {
        Self {
            flow,
            script,
            sent: 0,
            received: 0,
            finished: false,
            connected: false,
            peer_finished: false,
            end: None,
        }
    }

    fn take(&mut self, event: Event, stack: &mut Netstack, now: Instant) {
        match event {
            Event::TcpConnected { .. } => {
                assert!(!self.connected, "connected once");
                self.connected = true;
                self.write(stack, now);
            }
            Event::TcpWritable { .. } => self.write(stack, now),
            Event::TcpReadable { .. } => self.read(stack, now),
            Event::TcpPeerFinished { .. } => {
                assert!(!self.peer_finished, "finished once");
                assert_eq!(
                    self.received, self.script.expect.len,
                    "finished after everything was read"
                );
                self.peer_finished = true;
                self.write(stack, now);
            }
            Event::TcpReset { .. } | Event::TcpClosed { .. } => {
                assert!(self.end.is_none(), "ends once");
                self.end = Some(event);
            }
            other => panic!("{other:?} is not for a TCP program"),
        }
    }

    pub fn write(&mut self, stack: &mut Netstack, now: Instant) {
        let Pattern { len, .. } = self.script.send;
        while self.script.bulk && self.sent < len {
            let rest = len - self.sent;
            let taken = stack.tcp_send_with(self.flow, now, |free| free.len().min(rest));
            self.sent += taken;
            if taken == 0 {
                return;
            }
        }
        while self.sent < len {
            let chunk: Vec<u8> = (self.sent..len.min(self.sent + 8192))
                .map(|at| self.script.send.byte(at))
                .collect();
            let taken = stack.tcp_send(self.flow, &chunk, now);
            self.sent += taken;
            if taken < chunk.len() {
                return;
            }
        }
        if !self.finished && (self.peer_finished || !self.script.finish_last) {
            self.finished = true;
            stack.tcp_finish(self.flow, now);
        }
    }

    fn read(&mut self, stack: &mut Netstack, now: Instant) {
        while self.script.bulk {
            let taken = stack.tcp_recv_with(self.flow, now, <[u8]>::len);
            self.received += taken;
            if taken == 0 {
                return;
            }
        }
        let mut buf = vec![0; self.script.read];
        loop {
            let ready = stack.tcp_recv_ready(self.flow);
            let len = stack.tcp_recv(self.flow, &mut buf, now);
            assert_eq!(len, ready.min(buf.len()));
            for (offset, &byte) in buf[..len].iter().enumerate() {
                assert_eq!(
                    byte,
                    self.script.expect.byte(self.received + offset),
                    "byte {}",
                    self.received + offset
                );
            }
            self.received += len;
            assert!(
                self.received <= self.script.expect.len,
                "more than was sent"
            );
            if len < buf.len() {
                return;
            }
        }
    }
}

pub struct Pair {
    pub stacks: [Netstack; 2],
    /// Towards the stack of the same number.
    pub links: [Link; 2],
    pub now: Instant,
    pub start: Instant,
    pub programs: [BTreeMap<FlowId, Program>; 2],
    /// What a new flow's server runs, by the client's port.
    pub servers: BTreeMap<u16, Script>,
    /// Events that belong to no program.
    pub others: [Vec<Event>; 2],
    /// Wake-ups by timers, to see that they do not run wild.
    pub wakes: u64,
    /// Of a thousand packets, how many get a bit turned.
    pub turned_bits: u64,
    rng: Rng,
    /// Of a thousand times that something can be read, how often that waits for up to half a second.
    pub reluctance: u64,
    put_off: Vec<(Instant, usize, FlowId)>,
    /// When bytes last arrived at a program, and the longest pause between two such times.
    arrived: Instant,
    pub longest_pause: Duration,
    /// Super-packets go over the link as they are.
    pub supers: bool,
    /// What each stack was told.
    pub mtus: [usize; 2],
    /// Print what goes over the link and what happens.
    pub trace: bool,
}

pub fn config(seed: u64) -> Config {
    Config {
        tcp_buffer: 64 * 1024,
        seed,
        ..Config::default()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as the start of a clock that is moved by hand"
)]
pub fn start() -> Instant {
    Instant::now()
}

impl Pair {
    pub fn new(quality: Quality, seed: u64) -> Self {
        Self::with([config(seed), config(seed + 1)], quality, seed)
    }

    pub fn with(configs: [Config; 2], quality: Quality, seed: u64) -> Self {
        let now = start();
        let mtus = [configs[0].mtu, configs[1].mtu];
        Self {
            stacks: configs.map(|config| Netstack::new(config, now)),
            links: [
                Link::new(quality, seed * 2 + 5),
                Link::new(quality, seed * 2 + 11),
            ],
            now,
            start: now,
            programs: [BTreeMap::new(), BTreeMap::new()],
            servers: BTreeMap::new(),
            others: [Vec::new(), Vec::new()],
            wakes: 0,
            turned_bits: 0,
            rng: Rng(seed | 1),
            reluctance: 0,
            put_off: Vec::new(),
            arrived: now,
            longest_pause: Duration::ZERO,
            supers: false,
            mtus,
            trace: false,
        }
    }

    /// Opens a flow from the client and sets a program at each end.
    pub fn open(&mut self, port: u16, [client, server]: [Script; 2]) -> FlowId {
        self.servers.insert(port, server);
        let (src, dst) = (client_addr(port), server_addr());
        let flow = self.stacks[CLIENT]
            .tcp_connect(src, dst, self.now)
            .expect("room for a flow");
        self.programs[CLIENT].insert(flow, Program::new(flow, client));
        flow
    }

    /// Runs until nothing is left to do before `until`.
    pub fn run_for(&mut self, longest: Duration) {
        let until = self.now + longest;
        while self.settle(until) {}
    }

    /// Runs until `done`, which must come within `longest`.
    pub fn run_until(&mut self, longest: Duration, done: impl Fn(&Self) -> bool) {
        let until = self.now + longest;
        while !done(self) {
            let more = self.settle(until);
            assert!(
                more || done(self),
                "not done after {:?}: {:#?}",
                self.now - self.start,
                self.unended()
            );
        }
    }

    /// Everything that is due now, then the clock jumps. False when nothing is left before `until`.
    fn settle(&mut self, until: Instant) -> bool {
        for side in [CLIENT, SERVER] {
            self.drain(side);
        }
        let times = [CLIENT, SERVER].map(|side| {
            let timeout = self.stacks[side].poll_timeout().map(|(at, _)| at);
            [timeout, self.links[side].next()]
        });
        let later = self.put_off.iter().map(|&(at, ..)| at).min();
        let Some(next) = times.into_iter().flatten().flatten().chain(later).min() else {
            return false;
        };
        if next > until {
            self.now = until;
            return false;
        }
        self.now = self.now.max(next);
        self.read_what_was_put_off();
        for side in [CLIENT, SERVER] {
            self.deliver(side);
        }
        true
    }

    fn read_what_was_put_off(&mut self) {
        let now = self.now;
        for (_, side, flow) in self.put_off.extract_if(.., |&mut (at, ..)| at <= now) {
            if let Some(program) = self.programs[side].get_mut(&flow) {
                program.take(Event::TcpReadable { flow }, &mut self.stacks[side], now);
            }
        }
    }

    fn deliver(&mut self, side: usize) {
        while let Some(mut packet) = self.links[side].receive(self.now) {
            if self.rng.chance(self.turned_bits) {
                let bit = self.rng.below(packet.len() as u64 * 8) as usize;
                packet[bit / 8] ^= 1 << (bit % 8);
            }
            self.stacks[side].handle_packet(&packet, self.now);
        }
        if self.stacks[side]
            .poll_timeout()
            .is_some_and(|(at, _)| at <= self.now)
        {
            self.wakes += 1;
            self.stacks[side].handle_timeout(self.now);
        }
    }

    fn drain(&mut self, side: usize) {
        loop {
            let mut idle = true;
            while let Some(event) = self.stacks[side].poll_event() {
                idle = false;
                if self.trace {
                    println!("{:?} {side} {event:?}", self.now - self.start);
                }
                self.dispatch(side, event);
            }
            while let Some(packets) = self.emit(side) {
                idle = false;
                for packet in packets {
                    self.carry(1 - side, &packet);
                }
            }
            if idle {
                return;
            }
        }
    }

    /// What a stack emits next, as packets; as one, where the link carries super-packets.
    fn emit(&mut self, side: usize) -> Option<Vec<Vec<u8>>> {
        let emitted = self.stacks[side].poll_packet(usize::MAX)?;
        Some(match self.supers {
            true => vec![cut::joined(&emitted)],
            false => cut::packets(&emitted, self.mtus[side]),
        })
    }

    fn carry(&mut self, to: usize, packet: &[u8]) {
        if self.trace {
            let (at, from) = (self.now - self.start, 1 - to);
            println!("{at:?} {from} sends {}", describe(packet));
        }
        let lost = self.links[to].lost;
        self.links[to].send(packet, self.now);
        if self.trace && self.links[to].lost > lost {
            println!("  lost");
        }
    }

    fn dispatch(&mut self, side: usize, event: Event) {
        if matches!(event, Event::TcpReadable { .. }) {
            self.longest_pause = self.longest_pause.max(self.now - self.arrived);
            self.arrived = self.now;
            if self.rng.chance(self.reluctance) {
                let at = self.now + Duration::from_millis(self.rng.below(500));
                return self.put_off.push((at, side, event.flow()));
            }
        }
        let stack = &mut self.stacks[side];
        if let Some(program) = self.programs[side].get_mut(&event.flow()) {
            return program.take(event, stack, self.now);
        }
        if let Event::TcpOpening { flow, src, .. } = event
            && let Some(&script) = self.servers.get(&src.port())
        {
            stack.tcp_accept(flow, self.now);
            self.programs[side].insert(flow, Program::new(flow, script));
            return;
        }
        self.others[side].push(event);
    }

    pub fn all_ended(&self) -> bool {
        self.programs
            .iter()
            .flat_map(BTreeMap::values)
            .all(|program| program.end.is_some())
    }

    fn unended(&self) -> Vec<&Program> {
        self.programs
            .iter()
            .flat_map(BTreeMap::values)
            .filter(|program| program.end.is_none())
            .take(4)
            .collect()
    }

    pub fn assert_all_closed(&self) {
        for program in self.programs.iter().flat_map(BTreeMap::values) {
            assert!(
                matches!(program.end, Some(Event::TcpClosed { .. })),
                "{program:?}"
            );
            assert!(program.peer_finished && program.finished);
            assert_eq!(program.sent, program.script.send.len);
            assert_eq!(program.received, program.script.expect.len);
        }
        assert_eq!(self.stacks[CLIENT].flows().tcp, 0);
        assert_eq!(self.stacks[SERVER].flows().tcp, 0);
    }
}

fn describe(packet: &[u8]) -> String {
    let ip = Ip::parse(packet).expect("a sound packet");
    let Some(tcp) = ip.tcp() else {
        return format!("{:?}", ip.protocol());
    };
    let flags: String = "FSRPA"
        .chars()
        .enumerate()
        .filter(|(bit, _)| tcp.flags().0 >> bit & 1 == 1)
        .map(|(_, name)| name)
        .collect();
    format!(
        "{flags} {}+{} ack {} window {}",
        tcp.sequence(),
        tcp.payload().len(),
        tcp.acknowledgement(),
        tcp.window()
    )
}

pub fn client_addr(port: u16) -> SocketAddr {
    SocketAddr::from(([198, 19, 0, 2], port))
}

pub fn server_addr() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}
