//! Exposures without a cluster: a session's laptop serves what arrives at a port of the gateway. Whose Service it is cannot be asked
//! here; that is for the tests on a real cluster.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread::JoinHandle;

use kvpn_netstack::{Event, FlowId, Refusal};
use kvpn_wire::control::{Exposed, ExposureConflict, ExposureList};

use crate::laptop::{Laptop, now};
use crate::pod::Pod;
use crate::{control_with, http};

const WEB: &str = "/v1/session/exposures/shop/web";
const PORTS: &str = r#""ports": [{"port": 80, "laptopPort": 8080}, {"port": 53, "protocol": "udp", "laptopPort": 5353}]"#;

fn pod() -> Pod {
    let flags = [
        "--datapath",
        "userspace",
        "--pod-name",
        "kvpn-gateway-0",
        "--pod-namespace",
        "shop",
    ];
    Pod::with(&flags, &[])
}

/// The gateway's ports for those of the Service.
fn expose(laptop: &mut Laptop, owner: &str) -> (SocketAddr, SocketAddr) {
    let wish = format!(r#"{{"owner": "{owner}", {PORTS}}}"#);
    let answer = control_with(laptop, "PUT", WEB, &wish);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let exposed: Exposed = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(exposed.pod_name, "kvpn-gateway-0");
    let at = |index: usize| SocketAddr::from(([127, 0, 0, 1], exposed.ports[index].gateway_port));
    (at(0), at(1))
}

/// The flow of the next connection to the laptop, which must be for this port.
fn opening(laptop: &mut Laptop, port: u16) -> FlowId {
    let (gateway, client) = (laptop.gateway(), laptop.client());
    laptop.until("a connection", |laptop| {
        laptop.take_event(|event| match *event {
            Event::TcpOpening { flow, src, dst } => {
                assert_eq!((src.ip(), dst), (gateway, SocketAddr::new(client, port)));
                Some(flow)
            }
            _ => None,
        })
    })
}

/// Sends a request and gives what comes until the end.
fn caller(address: SocketAddr, request: &'static str) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        drop(stream.read_to_string(&mut answer));
        answer
    })
}

const REQUEST: &str = "GET /cart HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";

#[test]
fn a_laptop_serves_a_services_connections() {
    let pod = pod();
    let mut laptop = pod.laptop(1);
    let (web, _) = expose(&mut laptop, "ana@laptop");
    let caller = caller(web, REQUEST);
    let flow = opening(&mut laptop, 8080);
    laptop.netstack.tcp_accept(flow, now());
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    laptop.until("the request", |laptop| {
        let length = laptop.netstack.tcp_recv(flow, &mut buffer, now());
        request.extend_from_slice(&buffer[..length]);
        request.ends_with(b"\r\n\r\n").then_some(())
    });
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with("GET /cart HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("X-Forwarded-For: 127.0.0.1"), "{request}");
    laptop.send_all(flow, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhere");
    laptop.until("the answer", |_| caller.is_finished().then_some(()));
    let answer = caller.join().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("here"),
        "{answer}"
    );

    let list: ExposureList =
        serde_json::from_str(&http::get(pod.control, "/v1/exposures").body).unwrap();
    let [status] = &list.exposures[..] else {
        panic!("{list:?}")
    };
    let shown = (
        &*status.owner,
        &*status.state,
        status.to_laptop,
        status.mine,
    );
    assert_eq!(shown, ("ana@laptop", "active", 1, false));
}

#[test]
fn what_nobody_listens_for_is_refused_and_said() {
    let pod = pod();
    let mut laptop = pod.laptop(1);
    let (web, dns) = expose(&mut laptop, "ana@laptop");
    let caller = caller(web, REQUEST);
    let flow = opening(&mut laptop, 8080);
    laptop.netstack.tcp_refuse(flow, Refusal::Reset, now());
    laptop.until("the answer", |_| caller.is_finished().then_some(()));
    let answer = caller.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");

    let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
    asker.connect(dns).unwrap();
    asker.set_nonblocking(true).unwrap();
    asker.send(b"who?").unwrap();
    let flow = laptop.until("a datagram", |laptop| {
        laptop.take_event(|event| match *event {
            Event::UdpDatagram { flow } => Some(flow),
            _ => None,
        })
    });
    let mut buffer = [0; 64];
    assert_eq!(laptop.netstack.udp_recv(flow, &mut buffer), Some(4));
    laptop.netstack.udp_send(flow, b"me", now());
    laptop.until("the datagram's answer", |_| asker.recv(&mut buffer).ok());
    assert_eq!(&buffer[..2], b"me");

    // The program is gone; the next datagram asks anew.
    laptop
        .netstack
        .udp_refuse(flow, Refusal::PortUnreachable, now());
    laptop.until("another flow", |laptop| {
        asker.send(b"who?").unwrap();
        laptop.take_event(|event| match *event {
            Event::UdpOpening { flow: next, .. } => (next != flow).then_some(()),
            _ => None,
        })
    });
}

#[test]
fn a_service_has_one_owner_until_it_is_given_back() {
    let pod = pod();
    let (mut first, mut second) = (pod.laptop(1), pod.laptop(2));
    expose(&mut first, "ana@laptop");
    let wish = format!(r#"{{"owner": "ben", {PORTS}}}"#);
    let answer = control_with(&mut second, "PUT", WEB, &wish);
    assert_eq!(answer.status, 409, "{}", answer.body);
    let conflict: ExposureConflict = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(conflict.owner, "ana@laptop");
    assert_eq!(control_with(&mut second, "DELETE", WEB, "").status, 404);
    let elsewhere = WEB.replace("shop", "kube-system");
    assert_eq!(
        control_with(&mut second, "PUT", &elsewhere, &wish).status,
        403
    );
    let nothing = r#"{"ports": []}"#;
    assert_eq!(control_with(&mut second, "PUT", WEB, nothing).status, 400);

    assert_eq!(control_with(&mut first, "DELETE", WEB, "").status, 204);
    second.until("the end of the first one's part", |_| {
        let list = http::get(pod.control, "/v1/exposures").body;
        (!list.contains("ana@laptop")).then_some(())
    });
    expose(&mut second, "ben");
}
