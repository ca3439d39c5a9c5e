//! The kernel's datapath, in network namespaces that the test makes: a pod, and a server behind a router's address.
//!
//! Namespaces belong to threads, so each test does its work in threads of its own. Needs root and /dev/net/tun.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;

use kvpn_netstack::Event;
use kvpn_wire::control::Datapath;
use kvpn_wire::packet::{IcmpMessage, Ip, build};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::laptop::{Laptop, now};
use crate::pod::Pod;

const POD: [&str; 2] = ["10.244.1.7", "fd00:244::7"];
const SERVER: [&str; 2] = ["10.96.0.1", "fd00:96::1"];

/// Two namespaces with a link between them, gone when dropped.
struct Net {
    pod: String,
    server: String,
}

impl Net {
    fn new() -> Self {
        let net = Self {
            pod: format!("kvpn-pod-{}", std::process::id()),
            server: format!("kvpn-srv-{}", std::process::id()),
        };
        let (pod, server) = (&net.pod, &net.server);
        ip(&format!("netns add {pod}"));
        ip(&format!("netns add {server}"));
        ip(&format!("-n {pod} link set lo up"));
        ip(&format!(
            "-n {pod} link add eth0 type veth peer name eth0 netns {server}"
        ));
        for (address, router) in [
            ("10.244.1.7/24", "10.244.1.1"),
            ("fd00:244::7/64", "fd00:244::1"),
        ] {
            ip(&format!(
                "-n {pod} addr add {address} dev eth0{}",
                nodad(address)
            ));
            let length = address.split_once('/').unwrap().1;
            ip(&format!(
                "-n {server} addr add {router}/{length} dev eth0{}",
                nodad(address)
            ));
        }
        ip(&format!("-n {pod} link set eth0 up"));
        ip(&format!("-n {server} link set eth0 up"));
        ip(&format!("-n {server} link set lo up"));
        for (family, address, router, tunnel, pod_address) in [
            ("-4", SERVER[0], "10.244.1.1", "198.19.0.0/16", POD[0]),
            (
                "-6",
                SERVER[1],
                "fd00:244::1",
                "fd6b:7670:6e00::/40",
                POD[1],
            ),
        ] {
            ip(&format!(
                "-n {server} addr add {address} dev lo{}",
                nodad(address)
            ));
            ip(&format!("-n {pod} {family} route add default via {router}"));
            // So that the server could reach laptops, if the gateway let it.
            ip(&format!(
                "-n {server} {family} route add {tunnel} via {pod_address}"
            ));
        }
        net
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.pod, &self.server] {
            ip(&format!("netns del {namespace}"));
        }
    }
}

/// Without duplicate address detection, which would take a second.
fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn enter(namespace: &str) {
    let file = File::open(Path::new("/run/netns").join(namespace)).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Runs `act` in a thread inside the namespace.
fn inside<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(namespace);
            act()
        });
        thread.join().unwrap()
    })
}

#[test]
fn the_kernel_forwards_and_masquerades() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        return eprintln!("skipped: the kernel's datapath needs root and /dev/net/tun");
    }
    let net = Net::new();
    inside(&net.pod, || {
        for shards in ["1", "2"] {
            let ips = POD.join(",");
            let flags = [
                "--datapath",
                "kernel",
                "--pod-ips",
                &ips,
                "--shards",
                shards,
            ];
            let pod = Pod::with(&flags, &[]);
            // With two shards the second laptop is on the second one, whose TUN is another.
            for seed in [1, 2] {
                forwards_and_masquerades(&net, &mut pod.laptop(seed));
            }
        }
    });
}

fn forwards_and_masquerades(net: &Net, laptop: &mut Laptop) {
    assert_eq!(
        (laptop.grant.datapath, laptop.grant.datapath_note.as_deref()),
        (Datapath::Kernel, None)
    );
    for family in [0, 1] {
        reaches_by_tcp(net, laptop, family);
        is_refused_truthfully(laptop, family);
        pings(laptop, family);
        gets_answers_only(net, laptop, family);
        may_not_reach_the_pod(laptop, family);
    }
}

/// A connection that the server sees as the pod's.
fn reaches_by_tcp(net: &Net, laptop: &mut Laptop, family: usize) {
    let listener = inside(&net.server, || {
        TcpListener::bind(SocketAddr::new(server(family), 8080)).unwrap()
    });
    let (seen_tx, seen) = channel();
    std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        seen_tx.send(from.ip()).unwrap();
        let mut data = Vec::new();
        stream.read_to_end(&mut data).unwrap();
        stream.write_all(&data).unwrap();
    });
    let flow = laptop.connect(SocketAddr::new(server(family), 8080));
    laptop.event(Event::TcpConnected { flow });
    assert_eq!(seen.recv().unwrap(), POD[family].parse::<IpAddr>().unwrap());
    let data = vec![7; 1 << 20];
    laptop.send_all(flow, &data);
    laptop.netstack.tcp_finish(flow, now());
    assert!(laptop.read_to_end(flow) == data);
}

fn is_refused_truthfully(laptop: &mut Laptop, family: usize) {
    let flow = laptop.connect(SocketAddr::new(server(family), 9));
    laptop.event(Event::TcpReset { flow });
}

fn pings(laptop: &mut Laptop, family: usize) {
    let mut packet = [0; 100];
    let client = laptop.grant.addresses[family].client;
    let length =
        build::icmp_echo_request(client, server(family), 5, 1, b"ping", &mut packet).unwrap();
    laptop.send_packet(&packet[..length]);
    laptop.packet("the server's answer", |packet| {
        let ip = Ip::parse(packet).ok()?;
        let reply = matches!(
            ip.icmp()?.message(),
            IcmpMessage::EchoReply { ident: 5, .. }
        );
        (reply && ip.src() == server(family)).then_some(())
    });
}

/// The server may answer, but not begin.
fn gets_answers_only(net: &Net, laptop: &mut Laptop, family: usize) {
    let socket = inside(&net.server, || {
        UdpSocket::bind(SocketAddr::new(server(family), 5353)).unwrap()
    });
    let client = SocketAddr::new(laptop.grant.addresses[family].client, 4000);
    socket.send_to(b"unasked", client).unwrap();
    let mut packet = [0; 100];
    let length = build::udp(
        client,
        SocketAddr::new(server(family), 5353),
        b"question",
        &mut packet,
    )
    .unwrap();
    laptop.send_packet(&packet[..length]);
    let (_, from) = socket.recv_from(&mut [0; 100]).unwrap();
    assert_eq!(from.ip(), POD[family].parse::<IpAddr>().unwrap());
    socket.send_to(b"answer", from).unwrap();
    laptop.packet("the answer", |packet| {
        (udp_payload(packet)? == b"answer").then_some(())
    });
    assert!(
        !laptop
            .packets
            .iter()
            .any(|packet| udp_payload(packet) == Some(b"unasked"))
    );
}

fn may_not_reach_the_pod(laptop: &mut Laptop, family: usize) {
    laptop.packets.clear();
    laptop.connect(SocketAddr::new(POD[family].parse().unwrap(), 6182));
    let prohibited = [13, 1][family];
    laptop.packet("the pod's own address to be prohibited", |packet| {
        let icmp = Ip::parse(packet).ok()?.icmp()?.message();
        matches!(icmp, IcmpMessage::Unreachable { code, .. } if code == prohibited).then_some(())
    });
}

fn udp_payload(packet: &[u8]) -> Option<&[u8]> {
    Some(Ip::parse(packet).ok()?.udp()?.payload())
}

fn server(family: usize) -> IpAddr {
    SERVER[family].parse().unwrap()
}
