//! The userspace TCP/IP: any packets and any commands, in any order.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kvpn_netstack::{Config, Emitted, Event, FlowId, Netstack, Refusal};
use kvpn_wire::packet::{Ip, TcpFlags, build, checksum};

/// Bytes of all buffers together, and what may come on top (see [`Config::memory`]).
const BUDGET: usize = 256 * 1024;
const FLOWS: usize = 16;
const ON_TOP: usize = FLOWS * 2 * 16 * 1024 + 32 * (64 + 4) * 1024;

/// The bytes of an input, taken one after the other; zeros when they end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let first = self.0.split_off_first();
        first.copied().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }
}

/// A stack with its flows, and what a peer would know of them.
struct Rig {
    stack: Netstack,
    now: Instant,
    flows: Vec<FlowId>,
    /// The last segment that came out says what the next is likely to be about.
    next: u32,
    acknowledged: u32,
}

/// Interprets the input as commands, each a byte and what it asks for.
pub(super) fn commands(data: &[u8]) {
    let mut input = Input(data);
    let now = epoch();
    let config = Config {
        max_flows: FLOWS,
        tcp_buffer: 64 * 1024,
        memory: BUDGET,
        seed: 7,
        ..Config::default()
    };
    let mut rig = Rig {
        stack: Netstack::new(config, now),
        now,
        flows: Vec::new(),
        next: 0,
        acknowledged: 0,
    };
    while !input.0.is_empty() {
        rig.step(&mut input);
        assert!(rig.stack.memory_used() <= BUDGET + ON_TOP);
        assert!(rig.stack.flows().tcp + rig.stack.flows().udp <= FLOWS);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as the start of a clock that is moved by hand"
)]
fn epoch() -> Instant {
    Instant::now()
}

fn peer(port: u8) -> SocketAddr {
    SocketAddr::from(([198, 19, 0, 2], 1000 + u16::from(port % 4)))
}

fn own() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

impl Rig {
    fn step(&mut self, input: &mut Input<'_>) {
        let (stack, now) = (&mut self.stack, self.now);
        let index = usize::from(input.byte());
        let flow = self.flows.get(index % self.flows.len().max(1)).copied();
        match (input.byte() % 12, flow) {
            (0, _) => {
                let len = usize::from(input.byte()).min(input.0.len());
                let packet = input.0.split_off(..len).unwrap_or_default();
                stack.handle_packet(packet, now);
            }
            (1..4, _) => self.segment(input),
            (4, _) => {
                self.now += Duration::from_millis(input.word().into());
                self.stack.handle_timeout(self.now);
            }
            (5, _) => {
                if let Ok(flow) = stack.tcp_connect(own(), peer(input.byte()), now) {
                    self.flows.push(flow);
                }
            }
            (6, _) => self.drain(input.byte()),
            (7, Some(flow)) => {
                let len = usize::from(input.word());
                stack.tcp_send(flow, &vec![1; len], now);
            }
            (8, Some(flow)) => {
                let len = usize::from(input.word());
                stack.tcp_recv(flow, &mut vec![0; len], now);
            }
            (9, Some(flow)) => stack.tcp_finish(flow, now),
            (10, Some(flow)) => match input.byte() {
                0..16 => stack.tcp_abort(flow, now),
                16..32 => stack.tcp_refuse(flow, Refusal::HostUnreachable, now),
                _ => stack.tcp_accept(flow, now),
            },
            (11, _) => stack.set_mtu(input.word().into()),
            _ => {}
        }
    }

    /// A segment with a right checksum, near the numbers that a flow has or anywhere.
    fn segment(&mut self, input: &mut Input<'_>) {
        let spread = [0, 4, 1300, 70_000_u64][usize::from(input.byte() % 4)];
        let near = |around: u32, by: u16| {
            let offset = (u64::from(by) * spread) >> 16;
            around
                .wrapping_add(offset as u32)
                .wrapping_sub((spread / 2) as u32)
        };
        let options = match input.byte() % 4 {
            0 => vec![2, 4, 5, 0, 1, 3, 3, input.byte(), 1, 1, 4, 2],
            1 => {
                let start = near(self.acknowledged, input.word());
                let end = start.wrapping_add(input.word().into());
                [&[1, 1, 5, 10][..], &start.to_be_bytes(), &end.to_be_bytes()].concat()
            }
            _ => Vec::new(),
        };
        let payload = vec![9; usize::from(input.word()) % 30_000 * usize::from(input.byte() & 1)];
        let segment = build::Segment {
            sequence: near(self.next, input.word()),
            acknowledgement: near(self.acknowledged, input.word()),
            flags: TcpFlags(input.byte() & 0x1f),
            window: input.word(),
            options: &options,
            payload: &payload,
        };
        let mut out = vec![0; 40 + options.len() + payload.len()];
        if let Some(len) = build::tcp(peer(input.byte()), own(), &segment, &mut out) {
            self.stack.handle_packet(&out[..len], self.now);
        }
    }

    fn drain(&mut self, most: u8) {
        while let Some(event) = self.stack.poll_event() {
            if let Event::TcpOpening { flow, .. } = event {
                self.flows.push(flow);
            }
            if event.is_last() {
                self.flows.retain(|&flow| flow != event.flow());
            }
        }
        for _ in 0..most {
            let Some(emitted) = self.stack.poll_packet(usize::MAX) else {
                return;
            };
            (self.next, self.acknowledged) =
                learn(&emitted).unwrap_or((self.next, self.acknowledged));
        }
    }
}

/// What came out must be sound; it tells what the peer would send next.
fn learn(emitted: &Emitted<'_>) -> Option<(u32, u32)> {
    let mut split = emitted.split().expect("what is emitted can be cut");
    let mut out = vec![0; 65_535];
    let mut last = None;
    while let Some(len) = split.next(&mut out) {
        let ip = Ip::parse(&out[..len]).expect("a packet");
        assert!(checksum::verify(&ip));
        last = ip.tcp().map(|tcp| {
            (
                tcp.acknowledgement(),
                tcp.sequence().wrapping_add(tcp.sequence_len()),
            )
        });
    }
    last
}
