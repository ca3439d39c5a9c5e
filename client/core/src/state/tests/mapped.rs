//! A session whose pods appear at virtual addresses.

use kvpn_wire::packet::checksum;

use super::*;
use crate::netmap::Mapping;

const SHOWN: &str = "100.64.0.7";

/// The pod's range appears elsewhere.
fn show_pods(config: &mut Config) {
    let pod: IpNetwork = format!("{POD}/32").parse().unwrap();
    let mapping = Mapping::new(pod, format!("{SHOWN}/32").parse().unwrap()).unwrap();
    config.netmap = Netmap::new(vec![mapping], Vec::new());
}

#[test]
fn programs_see_virtual_addresses_and_the_cluster_real_ones() {
    let mut config = config();
    show_pods(&mut config);
    let mut rig = Rig::new(config);
    rig.send(&udp(at(CLIENT, 4000), at(SHOWN, 80), b"question"));
    assert_eq!(
        rig.gateway_received(),
        Some(udp(at(CLIENT, 4000), at(POD, 80), b"question"))
    );
    rig.gateway_sends(&udp(at(POD, 80), at(CLIENT, 4000), b"answer"));
    assert_eq!(
        rig.tun.pop_front(),
        Some(udp(at(SHOWN, 80), at(CLIENT, 4000), b"answer"))
    );
    rig.send(&udp(at(CLIENT, 4000), at(POD, 80), b"another cluster's"));
    assert_eq!(rig.gateway_received(), None);
    assert_eq!(rig.client.status(rig.now).drops["tun_has_virtual"], 1);
}

#[test]
fn a_refusal_is_about_the_packet_that_the_program_sent() {
    let mut rig = narrow_with(show_pods);
    let sent = udp(at(CLIENT, 4000), at(SHOWN, 80), &[1; 1300]);
    rig.send(&sent);
    let refusal = rig.tun.pop_front().unwrap();
    let ip = Ip::parse(&refusal).unwrap();
    assert!(checksum::verify(&ip));
    let quoted = ip.icmp().unwrap().quoted().unwrap();
    assert_eq!(quoted, &sent[..quoted.len()]);
}

#[test]
fn a_new_gateway_is_announced_from_virtual_addresses() {
    let mut config = config();
    show_pods(&mut config);
    let mut rig = Rig::new(config);
    let opening = build::Segment {
        flags: TcpFlags::SYN,
        ..build::Segment::default()
    };
    let (here, there) = (at(CLIENT, 4000), at(SHOWN, 80));
    rig.send(&packet(|out| build::tcp(here, there, &opening, out)));
    rig.restart_gateway(1);
    rig.client
        .replace_session(client_key(), grant(gateway_key(1).public()), 8, rig.now);
    rig.settle();
    let question = rig.tun.pop_front().expect("the program is asked");
    assert_eq!(Ip::parse(&question).unwrap().src(), ip(SHOWN));
}
