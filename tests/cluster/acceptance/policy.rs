//! What the tunnel may never reach, on both datapaths, tried by a client that does not hold back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use kvpn::cluster::{Cluster, addresses, pod_addresses};
use kvpn::gateway::Datapath;
use kvpn::laptop::{Laptop, Resolver};
use kvpn::rogue::{Answer, Rogue};
use kvpn::table::Table;

const KUBELET: u16 = 10_250;

#[test]
fn userspace_refuses() {
    refuses(Datapath::Userspace);
}

#[test]
fn kernel_refuses() {
    refuses(Datapath::Kernel);
}

fn refuses(datapath: Datapath) {
    let laptop = Laptop::start(&format!("policy-{datapath}"), Resolver::Plain);
    let namespace = datapath.gateway();
    let mut rogue = Rogue::open(&laptop, namespace, 1, 16_180);
    let mut other = Rogue::open(&laptop, namespace, 2, 17_180);

    let service = Cluster::get().service("default", "echo");
    for address in &service {
        assert_eq!(
            rogue.ask((*address, 80).into()),
            Answer::SynAck,
            "the way that is allowed: {address}"
        );
    }
    let mut table = Table::new(&["never reached", "answer"]);
    for (what, to) in never(namespace, &rogue, &other) {
        let answer = rogue.ask(to);
        table.row(vec![format!("{what}: {to}"), format!("{answer:?}")]);
        let right =
            answer == Answer::Prohibited || answer == Answer::Silence && is_for_nobody(to.ip());
        assert!(right, "{what}: {to}\n{table}");
    }
    for from in [[10, 9, 9, 9].into(), other.addresses(service[0]).client] {
        let answer = rogue.ask_from(from, (service[0], 80).into());
        table.row(vec![
            format!("{} from {from}, not its own", service[0]),
            format!("{answer:?}"),
        ]);
        assert_eq!(answer, Answer::Silence, "forged source {from}\n{table}");
    }
    assert_eq!(
        other.receive(Duration::from_millis(500)).unwrap(),
        None,
        "the other session was reached"
    );
    println!("{datapath}:\n{table}");
}

/// Everything that DESIGN.md forbids, as this gateway and these sessions have it.
fn never(namespace: &str, rogue: &Rogue, other: &Rogue) -> Vec<(&'static str, SocketAddr)> {
    let v4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let at = |text: &str| -> IpAddr { text.parse().unwrap() };
    let mut list = vec![
        ("loopback", (at("127.0.0.1"), 6180)),
        ("loopback", (at("127.1.2.3"), 6181)),
        ("loopback", (at("::1"), 6180)),
        ("loopback, mapped", (at("::ffff:127.0.0.1"), 6180)),
        ("unspecified", (v4, 6180)),
        ("unspecified", (at("::"), 6180)),
        ("metadata", (at("169.254.169.254"), 80)),
        ("metadata, mapped", (at("::ffff:169.254.169.254"), 80)),
        ("link-local", (at("fe80::1"), 80)),
        ("multicast", (at("224.0.0.1"), 80)),
        ("multicast", (at("ff02::1"), 80)),
        ("broadcast", (at("255.255.255.255"), 80)),
        (
            "the gateway's carrier port",
            (rogue.addresses(v4).gateway, 6181),
        ),
        (
            "the gateway's health port",
            (rogue.addresses(v4).gateway, 6182),
        ),
    ];
    list.extend(
        other
            .grant
            .addresses
            .iter()
            .map(|entry| ("another session", (entry.client, 80))),
    );
    list.extend(
        other
            .grant
            .addresses
            .iter()
            .map(|entry| ("another session's gateway", (entry.gateway, 6180))),
    );
    let gateway = Cluster::get().object(namespace, "pod/kvpn-gateway-0");
    for address in pod_addresses(&gateway) {
        list.extend([6180, 6181, 6182, 51_820].map(|port| ("the gateway's pod", (address, port))));
    }
    list.extend(
        node_addresses()
            .into_iter()
            .map(|address| ("a kubelet", (address, KUBELET))),
    );
    list.into_iter()
        .map(|(what, to)| (what, to.into()))
        .collect()
}

/// Whether no ICMP error may be sent about a packet to this address (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
fn is_for_nobody(address: IpAddr) -> bool {
    address.is_unspecified() || address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn node_addresses() -> Vec<IpAddr> {
    let nodes = Cluster::get()
        .kubectl(&["get", "nodes", "-o", "json"])
        .ok()
        .json();
    let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
    nodes
        .iter()
        .flat_map(|node| addresses(&node["status"]["addresses"], Some("address")))
        .collect()
}
