//! A gateway in two parts: sessions are on both, and what comes to the wrong one gets to the right one.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use kvpn_netstack::Event;
use kvpn_wire::control::{SessionStatus, VERSION};
use kvpn_wire::wireguard::PrivateKey;

use crate::http;
use crate::laptop::{Laptop, now};
use crate::pod::Pod;
use crate::{control, echo, server};

const FLAGS: [&str; 6] = [
    "--datapath",
    "userspace",
    "--allow",
    "127.0.0.0/8",
    "--shards",
    "2",
];

fn metric(pod: &Pod, sample: &str) -> u64 {
    let metrics = http::get(pod.health, "/metrics").body;
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {sample} in {metrics}"))
        .parse()
        .unwrap()
}

fn handed_over(pod: &Pod, what: &str) -> u64 {
    metric(pod, &format!("kvpn_handed_over_total{{what=\"{what}\"}}"))
}

/// There and back on a connection of its own.
fn reaches(laptop: &mut Laptop, address: SocketAddr, data: &[u8]) {
    let flow = laptop.connect(address);
    laptop.event(Event::TcpConnected { flow });
    laptop.send_all(flow, data);
    laptop.netstack.tcp_finish(flow, now());
    assert!(laptop.read_to_end(flow) == data);
}

#[test]
fn sessions_are_on_both_parts_and_streams_find_theirs() {
    let pod = Pod::with(&FLAGS, &[]);
    let mut laptops = [pod.laptop(1), pod.laptop(2), pod.laptop(3), pod.laptop(4)];
    for shard in ["0", "1"] {
        let sample = format!("kvpn_shard_sessions{{shard=\"{shard}\"}}");
        assert_eq!(metric(&pod, &sample), 2);
    }
    assert_eq!(metric(&pod, "kvpn_sessions"), 4);
    let address = server(echo);
    for laptop in &mut laptops {
        reaches(laptop, address, &[7; 300_000]);
    }
    // One driver accepts all streams, two of which are for the other.
    assert_eq!(handed_over(&pod, "stream"), 2);
    assert_eq!(handed_over(&pod, "dropped"), 0);
    let received = metric(&pod, "kvpn_bytes_total{direction=\"received\"}");
    assert!(received > 4 * 300_000, "{received}");
}

#[test]
fn a_session_keeps_its_connections_wherever_its_datagrams_come() {
    let pod = Pod::with(&FLAGS, &[]);
    let address = server(echo);
    for seed in 1..=2 {
        let mut laptop = pod.laptop(seed);
        let flow = laptop.connect(address);
        laptop.event(Event::TcpConnected { flow });
        let mut expected = Vec::new();
        // Each socket has another port, and with it another hash; a stream's first frame is data.
        for round in 0..12_u8 {
            match round % 3 {
                0 => laptop.roam_to_api(pod.carrier),
                _ => laptop.roam_to_udp(pod.udp.port()),
            }
            laptop.send_all(flow, &[round; 4000]);
            expected.extend_from_slice(&[round; 4000]);
            laptop.until("the echo", |laptop| {
                (laptop.netstack.tcp_recv_ready(flow) == expected.len()).then_some(())
            });
        }
        laptop.netstack.tcp_finish(flow, now());
        assert!(laptop.read_to_end(flow) == expected);
    }
    // The kernel steers.
    assert_eq!(handed_over(&pod, "datagrams"), 0);
    assert!(handed_over(&pod, "stream") >= 5);
}

#[test]
fn an_initiation_at_the_wrong_part_reaches_the_right_one() {
    let pod = Pod::with(&FLAGS, &[]);
    let address = server(echo);
    // The kernel knows no session of an initiation: one in two goes to the wrong part.
    for seed in 1..60 {
        let mut laptop = pod.laptop(seed);
        laptop.roam_to_udp(pod.udp.port());
        reaches(&mut laptop, address, b"hello");
        if handed_over(&pod, "initiation") > 0 {
            return assert_eq!(handed_over(&pod, "dropped"), 0);
        }
    }
    panic!("all initiations came to the right part");
}

#[test]
fn control_reaches_the_part_of_a_session() {
    let pod = Pod::with(&FLAGS, &[]);
    let mut laptops = [pod.laptop(1), pod.laptop(2)];
    let mut sessions = BTreeSet::new();
    for laptop in &mut laptops {
        let answer = control(laptop, "GET", "/v1/session");
        let status: SessionStatus = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(status.session_id, laptop.grant.session_id);
        assert!(status.offload.unwrap().ends_with(", 2 shards"));
        sessions.insert(status.session_id);
    }
    assert_eq!(sessions.len(), 2);
    // A renewal finds its session, wherever there is room.
    assert_eq!(pod.laptop(2).grant, laptops[1].grant);
    for laptop in &mut laptops {
        assert_eq!(control(laptop, "DELETE", "/v1/session").status, 204);
    }
    laptops[0].until("the end of both sessions", |_| {
        (metric(&pod, "kvpn_sessions") == 0).then_some(())
    });
    // The directory has forgotten them, too: new ones are spread anew.
    let _others = [pod.laptop(3), pod.laptop(4)];
    assert_eq!(metric(&pod, "kvpn_shard_sessions{shard=\"1\"}"), 1);
}

#[test]
fn the_limit_on_sessions_is_the_gateways() {
    let pod = Pod::with(&[&FLAGS[..], &["--max-sessions", "3"]].concat(), &[]);
    let _laptops = [pod.laptop(1), pod.laptop(2), pod.laptop(3)];
    let key = PrivateKey::from_seed([4; 32]).public();
    let request = format!("{{\"version\":{VERSION},\"publicKey\":\"{key}\"}}");
    let answer = http::post(pod.control, "/v1/sessions", &request);
    assert_eq!(answer.status, 429);
    assert!(
        answer.body.contains("3 sessions already"),
        "{}",
        answer.body
    );
}

#[test]
fn addresses_that_suit_are_looked_for_in_all_parts() {
    let pod = Pod::with(&FLAGS, &[]);
    // The first part's.
    let avoid = vec!["198.19.0.0/17".parse().unwrap()];
    let mut laptop = Laptop::attach_avoiding(pod.control, pod.carrier, 1, avoid);
    assert_eq!(metric(&pod, "kvpn_shard_sessions{shard=\"1\"}"), 1);
    reaches(&mut laptop, server(echo), b"hello");
}
