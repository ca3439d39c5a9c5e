//! The table of what the tunnel may never reach, in both families.

use kvpn_wire::control::ClusterFacts;

use super::*;
use crate::config::{KernelFamilies, Limits};
use crate::shard::Shard;

fn policy(allow: &[&str], allow_nodes: bool) -> Policy {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    Policy::new(&Config {
        seed: [0; 32],
        shard: Shard::default(),
        version: String::new(),
        cluster: ClusterFacts {
            pod_addresses: vec![address("10.244.1.7"), address("fd00:244::7")],
            node_addresses: vec![address("172.30.0.11"), address("fd00:30::11")],
            ..ClusterFacts::default()
        },
        nameservers: Vec::new(),
        allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
        allow_nodes,
        kernel: KernelFamilies::default(),
        datapath_note: None,
        udp_port: 51820,
        udp_endpoints: Vec::new(),
        limits: Limits::default(),
    })
}

#[test]
fn refuses_what_is_not_the_cluster() {
    let policy = policy(&[], false);
    let table = [
        ("127.0.0.1", Forbidden::Loopback),
        ("127.8.9.10", Forbidden::Loopback),
        ("::1", Forbidden::Loopback),
        ("0.0.0.0", Forbidden::Unspecified),
        ("0.1.2.3", Forbidden::Unspecified),
        ("::", Forbidden::Unspecified),
        ("::127.0.0.1", Forbidden::Unspecified),
        ("224.0.0.251", Forbidden::Multicast),
        ("239.1.2.3", Forbidden::Multicast),
        ("ff02::1", Forbidden::Multicast),
        ("255.255.255.255", Forbidden::Broadcast),
        ("169.254.169.254", Forbidden::LinkLocal),
        ("169.254.1.1", Forbidden::LinkLocal),
        ("fe80::1", Forbidden::LinkLocal),
        ("febf::1", Forbidden::LinkLocal),
        ("fd00:ec2::254", Forbidden::LinkLocal),
        ("fd20:ce::254", Forbidden::LinkLocal),
        ("100.100.100.200", Forbidden::LinkLocal),
        ("168.63.129.16", Forbidden::LinkLocal),
        ("10.244.1.7", Forbidden::GatewayPod),
        ("fd00:244::7", Forbidden::GatewayPod),
        ("198.19.0.6", Forbidden::Tunnel),
        ("198.19.255.255", Forbidden::Tunnel),
        ("fd6b:7670:6e00::6", Forbidden::Tunnel),
        ("fd6b:7670:6eff:ffff::1", Forbidden::Tunnel),
        ("172.30.0.11", Forbidden::Node),
        ("fd00:30::11", Forbidden::Node),
        ("::ffff:10.96.0.1", Forbidden::Mapped),
        ("::ffff:127.0.0.1", Forbidden::Mapped),
        ("64:ff9b::7f00:1", Forbidden::Loopback),
        ("64:ff9b::a9fe:a9fe", Forbidden::LinkLocal),
        ("64:ff9b::ac1e:b", Forbidden::Node),
        ("64:ff9b::c613:6", Forbidden::Tunnel),
        ("2002:7f00:1::1", Forbidden::Loopback),
    ];
    for (text, reason) in table {
        assert_eq!(policy.judge(text.parse().unwrap()), Err(reason), "{text}");
    }
}

#[test]
fn allows_the_cluster() {
    let policy = policy(&[], false);
    for text in [
        "10.96.0.1",
        "10.244.1.8",
        "192.168.3.4",
        "100.64.0.1",
        "240.1.2.3",
        "fd00:96::1",
        "2001:db8::1",
        "64:ff9b::a60:1",
    ] {
        assert_eq!(policy.judge(text.parse().unwrap()), Ok(()), "{text}");
    }
}

#[test]
fn the_admin_may_allow_everything_but_other_sessions() {
    let policy = policy(
        &["127.0.0.0/8", "::1/128", "172.30.0.0/16", "198.19.0.0/16"],
        false,
    );
    for text in ["127.0.0.1", "::1", "172.30.0.11"] {
        assert_eq!(policy.judge(text.parse().unwrap()), Ok(()), "{text}");
    }
    assert_eq!(
        policy.judge("198.19.0.6".parse().unwrap()),
        Err(Forbidden::Tunnel)
    );
    assert_eq!(
        policy.judge("fd00:30::11".parse().unwrap()),
        Err(Forbidden::Node)
    );
}

#[test]
fn nodes_are_allowed_as_a_whole() {
    let policy = policy(&[], true);
    assert_eq!(policy.judge("172.30.0.11".parse().unwrap()), Ok(()));
    assert_eq!(policy.judge("fd00:30::11".parse().unwrap()), Ok(()));
    assert_eq!(
        policy.judge("10.244.1.7".parse().unwrap()),
        Err(Forbidden::GatewayPod)
    );
}
