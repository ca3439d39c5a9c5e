//! Datagrams between real sockets: batches, GSO and GRO, kernels without them, a link that is too narrow.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;

/// A test that waits longer than this has failed.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

fn socket(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Datagrams of `segment` bytes, the last one shorter, each with a number in it.
fn batch(count: usize, segment: usize) -> Vec<u8> {
    let bytes = (0..count * segment).map(|i| (i / segment) as u8 ^ (i % 251) as u8);
    bytes.take(count * segment - segment / 3).collect()
}

fn await_readable(socket: &UdpSocket) {
    let mut sockets = [PollFd::new(socket, PollFlags::IN)];
    assert_eq!(
        poll(&mut sockets, Some(&PATIENCE)).unwrap(),
        1,
        "nothing came"
    );
}

/// Receives until `length` bytes came: all of them, and how many messages they were.
fn receive(
    datagrams: &mut Datagrams<UdpSocket>,
    length: usize,
    segment: usize,
) -> (Vec<u8>, usize) {
    let (mut bytes, mut messages) = (Vec::new(), 0);
    while bytes.len() < length {
        await_readable(datagrams.socket());
        datagrams
            .receive(|_, message, stride| {
                assert!(stride == segment || message.len() <= stride, "{stride}");
                bytes.extend_from_slice(message);
                messages += 1;
            })
            .unwrap();
    }
    (bytes, messages)
}

#[test]
fn a_batch_arrives_as_a_batch() {
    for address in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        let sender = Datagrams::new(socket(address), true);
        let mut receiver = Datagrams::new(socket(address), true);
        let both = UdpOffload {
            gso: true,
            gro: true,
        };
        assert_eq!((sender.offload(), receiver.offload()), (both, both));
        let to = receiver.socket().local_addr().unwrap();
        let bytes = batch(40, 1392);
        sender.send(to, &bytes, 1392).unwrap();
        assert_eq!(receive(&mut receiver, bytes.len(), 1392), (bytes, 1));
    }
}

#[test]
fn several_messages_come_in_one_call() {
    let address = Ipv4Addr::LOCALHOST.into();
    let sender = Datagrams::new(socket(address), true);
    let mut receiver = Datagrams::new(socket(address), true);
    let to = receiver.socket().local_addr().unwrap();
    for _ in 0..MESSAGES {
        sender.send(to, &batch(3, 100), 100).unwrap();
    }
    await_readable(receiver.socket());
    let mut count = 0;
    let more = receiver.receive(|_, _, _| count += 1).unwrap();
    assert_eq!((count, more), (MESSAGES, true));
    let error = receiver.receive(|_, _, _| count += 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn without_offload_each_datagram_is_a_message() {
    let address = Ipv4Addr::LOCALHOST.into();
    let sender = Datagrams::new(socket(address), false);
    let mut receiver = Datagrams::new(socket(address), false);
    assert_eq!(receiver.offload(), UdpOffload::default());
    let to = receiver.socket().local_addr().unwrap();
    let bytes = batch(40, 1000);
    sender.send(to, &bytes, 1000).unwrap();
    assert_eq!(receive(&mut receiver, bytes.len(), 1000), (bytes, 40));
}

#[test]
fn a_kernel_that_refuses_segments_gets_datagrams() {
    let address = Ipv4Addr::LOCALHOST.into();
    let sender = Datagrams::new(socket(address), true);
    let mut receiver = Datagrams::new(socket(address), false);
    let to = receiver.socket().local_addr().unwrap();
    // More segments than any kernel takes: EINVAL, as from one that knows none.
    sender.send_some(to, &[0; 1000], 1).unwrap_err();
    assert!(!sender.offload().gso);
    let bytes = batch(20, 500);
    sender.send(to, &bytes, 500).unwrap();
    assert_eq!(receive(&mut receiver, bytes.len(), 500), (bytes, 20));
}

/// Runs `act` in a network namespace of its own whose loopback takes packets of `mtu` bytes; needs root.
fn in_narrow_network(mtu: u32, act: impl FnOnce() + Send + 'static) {
    let name = format!("kvpn-io-{}", std::process::id());
    let ip = |arguments: &str| {
        let status = Command::new("ip").args(arguments.split(' ')).status();
        assert!(status.unwrap().success(), "ip {arguments}");
    };
    ip(&format!("netns add {name}"));
    ip(&format!("-n {name} link set lo up mtu {mtu}"));
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    let thread = std::thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).unwrap();
        act();
    });
    let outcome = thread.join();
    ip(&format!("netns del {name}"));
    outcome.unwrap();
}

#[test]
fn what_is_too_long_is_lost_alone_and_batches_go_on() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: a network namespace needs root");
    }
    in_narrow_network(1300, || {
        for address in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let sender = Datagrams::new(socket(address), true);
            let mut receiver = Datagrams::new(socket(address), true);
            let to = receiver.socket().local_addr().unwrap();
            let fits = batch(20, 1200);
            sender.send(to, &fits, 1200).unwrap();
            receive(&mut receiver, fits.len(), 1200);
            // The last one is short enough.
            let long = batch(20, 1424);
            sender.send(to, &long, 1424).unwrap();
            let last = &long[19 * 1424..];
            assert_eq!(receive(&mut receiver, last.len(), 1424), (last.to_vec(), 1));
            assert!(sender.offload().gso);
            sender.send(to, &fits, 1200).unwrap();
            assert_eq!(receive(&mut receiver, fits.len(), 1200), (fits, 1));
        }
    });
}
