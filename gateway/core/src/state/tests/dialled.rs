//! Flows that the gateway opens, and who may answer them.

use kvpn_netstack::{Config as StackConfig, Event as StackEvent, Netstack, Refusal};
use kvpn_wire::packet::{Ip, Protocol, build};

use super::client::{Client, config, start};
use crate::state::Undialled;
use crate::{Event, FlowEvent, GatewayState, SessionIndex};

/// A laptop whose stack answers what comes.
struct Laptop {
    client: Client,
    stack: Netstack,
    opened: Vec<StackEvent>,
}

impl Laptop {
    fn new(gateway: &mut GatewayState, seed: u8) -> Self {
        let client = Client::connected(gateway, seed, start());
        let stack = Netstack::new(StackConfig::default(), client.now);
        let opened = Vec::new();
        Self {
            client,
            stack,
            opened,
        }
    }

    /// Carries packets both ways until there are none.
    fn settle(&mut self, gateway: &mut GatewayState) -> Vec<FlowEvent> {
        loop {
            let mut any = false;
            for (_, packet) in self.client.receive(gateway) {
                self.stack.handle_packet(&packet, self.client.now);
                any = true;
            }
            while let Some(event) = self.stack.poll_event() {
                self.opened.push(event);
            }
            while let Some(packet) = self.stack.poll_segment() {
                let packet = packet.to_vec();
                self.client.send(gateway, &packet);
                any = true;
            }
            if !any {
                break;
            }
        }
        let mut told = Vec::new();
        while let Some(event) = gateway.poll_event() {
            if let Event::Flow { what, .. } = event {
                told.push(what);
            }
        }
        told
    }

    fn index(&self, gateway: &GatewayState) -> SessionIndex {
        let client = self.client.v4().client;
        gateway
            .sessions
            .with_client(client)
            .expect("it is connected")
    }
}

#[test]
fn a_connection_to_the_laptop_opens_when_its_program_accepts() {
    let mut gateway = GatewayState::new(config(), start());
    let mut laptop = Laptop::new(&mut gateway, 1);
    let (index, now) = (laptop.index(&gateway), laptop.client.now);
    let flow = gateway.tcp_dial(index, 8080, now).unwrap();
    assert_eq!(laptop.settle(&mut gateway), []);
    let &[
        StackEvent::TcpOpening {
            flow: theirs,
            src,
            dst,
        },
    ] = &laptop.opened[..]
    else {
        panic!("{:?}", laptop.opened)
    };
    let ends = laptop.client.v4();
    assert_eq!(
        (src.ip(), dst.ip(), dst.port()),
        (ends.gateway, ends.client, 8080)
    );
    laptop.stack.tcp_accept(theirs, now);
    assert_eq!(laptop.settle(&mut gateway), [FlowEvent::TcpConnected]);
    gateway.tcp_send_with(flow, now, |room| {
        room[..4].copy_from_slice(b"ping");
        4
    });
    laptop.settle(&mut gateway);
    let mut data = [0; 8];
    assert_eq!(laptop.stack.tcp_recv(theirs, &mut data, now), 4);
    laptop.stack.tcp_send(theirs, b"pong", now);
    assert_eq!(laptop.settle(&mut gateway), [FlowEvent::TcpReadable]);
    assert_eq!(
        gateway.heard_ago(index, now),
        Some(std::time::Duration::ZERO)
    );
}

#[test]
fn what_the_laptop_has_no_program_for_is_refused_at_once() {
    let mut gateway = GatewayState::new(config(), start());
    let mut laptop = Laptop::new(&mut gateway, 1);
    let (index, now) = (laptop.index(&gateway), laptop.client.now);
    gateway.tcp_dial(index, 8080, now).unwrap();
    laptop.settle(&mut gateway);
    let flow = laptop.opened.pop().unwrap().flow();
    laptop.stack.tcp_refuse(flow, Refusal::Reset, now);
    assert_eq!(laptop.settle(&mut gateway), [FlowEvent::TcpReset]);

    let flow = gateway.udp_dial(index, 5353, now).unwrap();
    assert!(gateway.udp_send(flow, b"who?", now));
    laptop.settle(&mut gateway);
    let theirs = laptop.opened.last().unwrap().flow();
    laptop
        .stack
        .udp_refuse(theirs, Refusal::PortUnreachable, now);
    assert_eq!(laptop.settle(&mut gateway), [FlowEvent::UdpRefused]);
}

#[test]
fn nobody_else_gets_to_the_gateways_own_ports() {
    let mut gateway = GatewayState::new(config(), start());
    let mut laptop = Laptop::new(&mut gateway, 1);
    let (index, now) = (laptop.index(&gateway), laptop.client.now);
    let ends = laptop.client.v4();
    let (own, open) = ((ends.client, 8080).into(), (ends.gateway, 50_000).into());
    let mut packet = [0; 200];
    for _ in 0..2 {
        let length = build::udp(own, open, b"?", &mut packet).unwrap();
        laptop.client.send(&mut gateway, &packet[..length]);
        let [(_, answer)] = &laptop.client.receive(&mut gateway)[..] else {
            panic!("one refusal")
        };
        assert_eq!(Ip::parse(answer).unwrap().protocol(), Protocol::Icmpv4);
        // The same once a flow was opened, but another one.
        gateway.tcp_dial(index, 8080, now).unwrap();
        laptop.settle(&mut gateway);
        let flow = laptop.opened.pop().unwrap().flow();
        laptop.stack.tcp_refuse(flow, Refusal::Silent, now);
    }
    assert_eq!(gateway.snapshot().flows.udp, 0);
    let gone = gateway.end_session(index, now);
    gateway.handle_timeout(now + std::time::Duration::from_secs(2));
    assert!(gone && gateway.tcp_dial(index, 8080, now) == Err(Undialled::Ended));
    assert_eq!(gateway.heard_ago(index, now), None);
}
