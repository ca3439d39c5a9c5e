//! An exposure without its proxy: callers whose connections the gateway opens to the laptop, and the laptop's program, which sends
//! back what comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use kvpn_client_core::ClientState;
use kvpn_gateway_core::{Flow, FlowEvent, GatewayState};
use kvpn_netstack::{Event, FlowId, Refusal};
use kvpn_wire::packet::Protocol;

/// The port that the laptop exposes.
pub(crate) const EXPOSED: u16 = 8080;
/// Bytes that wait in the laptop's program.
const MAX_PENDING: usize = 256 * 1024;

/// What the laptop exposes.
pub(crate) fn ports() -> BTreeSet<(Protocol, u16)> {
    [(Protocol::Tcp, EXPOSED)].into()
}

/// The laptop's program, by its connections.
#[derive(Debug, Default)]
pub(crate) struct LaptopProgram {
    pending: BTreeMap<FlowId, VecDeque<u8>>,
}

impl LaptopProgram {
    /// Does what an event of the client's asks for.
    pub(crate) fn handle(&mut self, event: &Event, client: &mut ClientState, now: Instant) {
        match *event {
            Event::TcpOpening { flow, dst, .. } if dst.port() == EXPOSED => {
                self.pending.insert(flow, VecDeque::new());
                client.tcp_accept(flow, now);
            }
            Event::TcpOpening { flow, .. } => client.tcp_refuse(flow, Refusal::Reset, now),
            Event::TcpReset { flow } | Event::TcpClosed { flow } => {
                self.pending.remove(&flow);
            }
            ref other => self.echo(other.flow(), client, now),
        }
    }

    fn echo(&mut self, flow: FlowId, client: &mut ClientState, now: Instant) {
        let Some(pending) = self.pending.get_mut(&flow) else {
            return;
        };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let mut moved = 0;
            if pending.len() < MAX_PENDING {
                moved = client.tcp_recv(flow, &mut buffer, now);
                pending.extend(&buffer[..moved]);
            }
            let sent = client.tcp_send(flow, pending.make_contiguous(), now);
            pending.drain(..sent);
            if moved + sent == 0 {
                return;
            }
        }
    }
}

/// The cluster's callers, by the gateway's flows.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    pub(crate) calls: BTreeMap<Flow, Call>,
}

/// One caller, who sends and wants the same back.
#[derive(Debug)]
pub(crate) struct Call {
    unsent: VecDeque<u8>,
    pub(crate) received: usize,
    pub(crate) refused: bool,
}

impl Callers {
    /// Waits for the connection with so many bytes.
    pub(crate) fn add(&mut self, flow: Flow, len: usize) {
        self.calls.insert(
            flow,
            Call {
                unsent: (0..len).map(|place| place as u8).collect(),
                received: 0,
                refused: false,
            },
        );
    }

    /// Does what an event of the gateway's asks for; whether it was about a caller.
    pub(crate) fn handle(
        &mut self,
        flow: Flow,
        what: FlowEvent,
        gateway: &mut GatewayState,
        now: Instant,
    ) -> bool {
        let Some(call) = self.calls.get_mut(&flow) else {
            return false;
        };
        call.refused |= what == FlowEvent::TcpReset;
        while !call.unsent.is_empty() {
            let sent = gateway.tcp_send_with(flow, now, |room| {
                let len = room.len().min(call.unsent.len());
                for (to, from) in room.iter_mut().zip(call.unsent.drain(..len)) {
                    *to = from;
                }
                len
            });
            if sent == 0 {
                break;
            }
        }
        loop {
            let received = gateway.tcp_recv_with(flow, now, |data| {
                for (place, byte) in data.iter().enumerate() {
                    assert_eq!(*byte, (call.received + place) as u8, "out of order");
                }
                data.len()
            });
            call.received += received;
            if received == 0 {
                return true;
            }
        }
    }
}
