//! A socket that is faster than its link, in a network namespace. Needs root.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use mio::{Events, Poll};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;

/// On the slow link; nobody is there.
const NEIGHBOUR: &str = "192.0.2.9";
const LINK: [&str; 7] = [
    "ip netns add NS",
    "ip -n NS link add v0 type veth peer name v1",
    "ip -n NS link set v1 up",
    "ip -n NS link set v0 up",
    "ip -n NS addr add 192.0.2.1/24 dev v0",
    "ip -n NS neigh add NEIGHBOUR lladdr 02:00:00:00:00:09 dev v0",
    "tc -n NS qdisc add dev v0 root tbf rate 20mbit burst 128k limit 64m",
];

fn run(line: &str, namespace: &str) {
    let line = line
        .replace("NS", namespace)
        .replace("NEIGHBOUR", NEIGHBOUR);
    let words: Vec<&str> = line.split(' ').collect();
    let status = Command::new(words[0]).args(&words[1..]).status();
    assert!(status.unwrap().success(), "{line}");
}

fn blocks_and_goes_on() {
    let mut poll = Poll::new().unwrap();
    let mut carrier = UdpCarrier::open(0, true, false).unwrap();
    poll.registry()
        .register(&mut carrier, UDP, Interest::READABLE)
        .unwrap();
    set_socket_send_buffer_size(carrier.datagrams.socket(), 64 << 10).unwrap();
    let to = SocketAddr::new(NEIGHBOUR.parse().unwrap(), 9);
    for batch in 0.. {
        assert!(batch < 10_000, "it never fills");
        carrier.send(to, &[7; 14_000], 1_400);
        if carrier.is_blocked() {
            break;
        }
    }
    carrier.watch(poll.registry());
    let mut events = Events::with_capacity(8);
    while carrier.is_blocked() {
        poll.poll(&mut events, Some(Duration::from_secs(10)))
            .unwrap();
        assert!(!events.is_empty(), "nobody tells of room");
        for event in &events {
            carrier.note_readiness(event);
        }
    }
    carrier.watch(poll.registry());
    assert!(!carrier.watched, "nobody is woken for room any more");
}

#[test]
fn a_full_socket_holds_and_tells_of_room() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: a network namespace needs root");
    }
    let name = format!("kvpn-udp-{}", std::process::id());
    LINK.iter().for_each(|line| run(line, &name));
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    let thread = std::thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).unwrap();
        blocks_and_goes_on();
    });
    let outcome = thread.join();
    run("ip netns del NS", &name);
    outcome.unwrap();
}
