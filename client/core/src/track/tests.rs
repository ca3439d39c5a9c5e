//! What is let in, and what is not.

use super::*;

use std::net::SocketAddr;

use kvpn_wire::packet::build::{self, Segment, Unreachable};

const CLIENT: &str = "198.19.0.2";
const POD: &str = "10.1.2.3";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn udp(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    packet(|out| build::udp(src, dst, b"hello", out))
}

fn tcp(src: SocketAddr, dst: SocketAddr, flags: TcpFlags) -> Vec<u8> {
    packet(|out| {
        build::tcp(
            src,
            dst,
            &Segment {
                flags,
                ..Segment::default()
            },
            out,
        )
    })
}

fn packet(build: impl FnOnce(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut out = vec![0; 2000];
    let n = build(&mut out).unwrap();
    out.truncate(n);
    out
}

fn out(tracker: &mut Tracker, packet: &[u8], now: Instant) -> Result<(), Refused> {
    let ip = Ip::parse(packet).map_err(|_| Refused::Untrackable)?;
    tracker.outgoing(&ip, Owner::Tun, now)
}

fn comes_in(tracker: &mut Tracker, packet: &[u8], now: Instant) -> bool {
    tracker.incoming(&Ip::parse(packet).unwrap(), now).is_some()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
fn start() -> Instant {
    Instant::now()
}

#[test]
fn only_answers_come_in() {
    let now = start();
    let mut tracker = Tracker::new(now);
    let (client, pod) = (at(CLIENT, 4000), at(POD, 80));
    assert!(!comes_in(&mut tracker, &udp(pod, client), now));
    out(&mut tracker, &udp(client, pod), now).unwrap();
    assert!(comes_in(&mut tracker, &udp(pod, client), now));
    assert!(!comes_in(&mut tracker, &udp(at(POD, 81), client), now));
    assert!(!comes_in(
        &mut tracker,
        &tcp(pod, client, TcpFlags::SYN),
        now
    ));
    assert!(!comes_in(&mut tracker, &udp(pod, at(CLIENT, 4001)), now));
}

#[test]
fn an_idle_flow_ends() {
    let now = start();
    let mut tracker = Tracker::new(now);
    let (client, pod) = (at(CLIENT, 4000), at(POD, 80));
    out(&mut tracker, &udp(client, pod), now).unwrap();
    let later = now + UDP_IDLE - Duration::from_secs(1);
    assert!(comes_in(&mut tracker, &udp(pod, client), later));
    assert!(comes_in(
        &mut tracker,
        &udp(pod, client),
        later + UDP_IDLE - Duration::from_secs(1)
    ));
    assert!(!comes_in(
        &mut tracker,
        &udp(pod, client),
        later + 3 * UDP_IDLE
    ));
}

#[test]
fn a_finished_connection_ends_soon_and_may_open_again() {
    let now = start();
    let mut tracker = Tracker::new(now);
    let (client, pod) = (at(CLIENT, 4000), at(POD, 80));
    let ack = TcpFlags::ACK;
    out(&mut tracker, &tcp(client, pod, TcpFlags::SYN), now).unwrap();
    assert!(comes_in(
        &mut tracker,
        &tcp(pod, client, ack.with(TcpFlags::FIN)),
        now
    ));
    assert!(
        comes_in(
            &mut tracker,
            &tcp(pod, client, ack),
            now + 2 * TCP_CLOSED_IDLE
        ),
        "half closed lasts"
    );
    let end = now + 2 * TCP_CLOSED_IDLE;
    out(
        &mut tracker,
        &tcp(client, pod, ack.with(TcpFlags::FIN)),
        end,
    )
    .unwrap();
    assert!(comes_in(&mut tracker, &tcp(pod, client, ack), end));
    let late = end + TCP_CLOSED_IDLE;
    assert!(!comes_in(&mut tracker, &tcp(pod, client, ack), late));
    out(&mut tracker, &tcp(client, pod, TcpFlags::SYN), late).unwrap();
    assert!(comes_in(
        &mut tracker,
        &tcp(pod, client, ack),
        late + 2 * TCP_CLOSED_IDLE
    ));
}

#[test]
fn errors_come_in_by_what_they_quote() {
    let now = start();
    let mut tracker = Tracker::new(now);
    let (client, pod) = (at(CLIENT, 4000), at(POD, 80));
    let sent = udp(client, pod);
    let error = |quoted: &[u8]| {
        packet(|out| {
            build::icmp_unreachable(Unreachable::Port, "10.9.9.9".parse().unwrap(), quoted, out)
        })
    };
    assert!(!comes_in(&mut tracker, &error(&sent), now));
    out(&mut tracker, &sent, now).unwrap();
    assert!(comes_in(&mut tracker, &error(&sent), now));
    assert!(!comes_in(
        &mut tracker,
        &error(&udp(client, at(POD, 81))),
        now
    ));
}

#[test]
fn errors_go_out_by_what_they_quote() {
    let now = start();
    let mut tracker = Tracker::new(now);
    let (client, pod) = (at(CLIENT, 4000), at(POD, 80));
    let error = packet(|out| {
        build::icmp_unreachable(Unreachable::Port, client.ip(), &udp(pod, client), out)
    });
    assert_eq!(out(&mut tracker, &error, now), Err(Refused::Untrackable));
    out(&mut tracker, &udp(client, pod), now).unwrap();
    assert_eq!(out(&mut tracker, &error, now), Ok(()));
}

#[test]
fn pings_are_answered_and_not_asked() {
    let now = start();
    let mut tracker = Tracker::new(now);
    let (client, pod) = (CLIENT.parse().unwrap(), POD.parse().unwrap());
    let request = |src, dst| packet(|out| build::icmp_echo_request(src, dst, 9, 1, b"x", out));
    let reply = |src, dst| packet(|out| build::icmp_echo_reply(src, dst, 9, 1, b"x", out));
    assert!(!comes_in(&mut tracker, &reply(pod, client), now));
    out(&mut tracker, &request(client, pod), now).unwrap();
    assert!(comes_in(&mut tracker, &reply(pod, client), now));
    assert!(
        !comes_in(&mut tracker, &request(pod, client), now),
        "nobody pings the laptop"
    );
    assert_eq!(
        out(&mut tracker, &reply(client, pod), now),
        Err(Refused::Untrackable)
    );
}

#[test]
fn a_flow_has_one_owner() {
    let now = start();
    let mut tracker = Tracker::new(now);
    let packet = udp(at(CLIENT, 4000), at(POD, 53));
    let ip = Ip::parse(&packet).unwrap();
    tracker.outgoing(&ip, Owner::Stack, now).unwrap();
    assert_eq!(tracker.outgoing(&ip, Owner::Tun, now), Err(Refused::Taken));
    let answer = udp(at(POD, 53), at(CLIENT, 4000));
    assert_eq!(
        tracker.incoming(&Ip::parse(&answer).unwrap(), now),
        Some(Owner::Stack)
    );
    tracker.outgoing(&ip, Owner::Tun, now + UDP_IDLE).unwrap();
}

#[test]
fn later_fragments_follow_the_first() {
    let now = start();
    let mut tracker = Tracker::new(now);
    let (client, pod) = (at(CLIENT, 4000), at(POD, 80));
    out(&mut tracker, &udp(client, pod), now).unwrap();
    let mut first = udp(pod, client);
    (first[4], first[5], first[6], first[7]) = (1, 2, 0x20, 0);
    let mut later = first.clone();
    (later[6], later[7]) = (0, 8);
    assert!(!comes_in(&mut tracker, &later, now));
    assert!(comes_in(&mut tracker, &first, now));
    assert!(comes_in(&mut tracker, &later, now));
    later[5] = 3;
    assert!(!comes_in(&mut tracker, &later, now));
}

#[test]
fn a_full_table_forgets_the_idle_and_refuses_the_rest() {
    let now = start();
    let mut tracker = Tracker::new(now);
    let pod = at(POD, 80);
    let flow = |n: u32| {
        let [_, x, y, _] = n.to_be_bytes();
        udp(
            at(CLIENT, 1024 + u16::try_from(n % 60_000).unwrap()),
            at(&format!("10.{x}.{y}.1"), 80),
        )
    };
    for n in 0..u32::try_from(MAX_FLOWS).unwrap() {
        out(&mut tracker, &flow(n), now).unwrap();
    }
    let new = udp(at(CLIENT, 1), pod);
    assert_eq!(out(&mut tracker, &new, now), Err(Refused::Full));
    assert_eq!(out(&mut tracker, &new, now + FRAGMENT_IDLE), Ok(()));
    assert_eq!(tracker.len(), 1);
}
