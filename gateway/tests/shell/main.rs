//! The gateway's shell on loopback: real sockets, a real tunnel over a real carrier, no namespaces and no privileges.

#![expect(
    clippy::unwrap_used,
    reason = "the tests' own servers and laptops are tests too"
)]

mod exposures;
mod http;
mod kernel;
mod laptop;
mod pod;
mod shards;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::Duration;

use kvpn_netstack::Event;
use kvpn_wire::control::{ErrorBody, SessionStatus};
use kvpn_wire::packet::{IcmpMessage, Ip, build};

use self::laptop::now;
use self::pod::Pod;

/// A server that treats each connection as `serve` says, each in a thread.
fn server(serve: impl Fn(TcpStream) + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

/// Sends everything back, and its end when the end comes.
fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        stream.write_all(&buffer[..length]).unwrap();
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Nobody has the discard service any more, and no test is given a port below 1024.
fn closed_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 9))
}

/// A nameserver that answers each question with the same bytes and "!".
fn nameserver() -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        buffer[length] = b'!';
        socket.send_to(&buffer[..=length], from).unwrap();
    });
    (address, thread)
}

#[test]
fn tcp_goes_there_and_back_whole() {
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let flow = laptop.connect(server(echo));
    laptop.event(Event::TcpConnected { flow });
    let data = pattern(3 << 20);
    let mut back = Vec::new();
    let (mut sent, mut buffer) = (0, vec![0; 64 << 10]);
    laptop.until("the echo of everything", |laptop| {
        sent += laptop.netstack.tcp_send(flow, &data[sent..], now());
        let length = laptop.netstack.tcp_recv(flow, &mut buffer, now());
        back.extend_from_slice(&buffer[..length]);
        (back.len() == data.len()).then_some(())
    });
    assert!(back == data);
    laptop.netstack.tcp_finish(flow, now());
    assert!(laptop.read_to_end(flow).is_empty());
}

#[test]
fn tcp_goes_through_ipv6() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return eprintln!("skipped: this machine has no IPv6");
    };
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || echo(listener.accept().unwrap().0));
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let flow = laptop.connect(address);
    laptop.event(Event::TcpConnected { flow });
    laptop.send_all(flow, b"six");
    laptop.netstack.tcp_finish(flow, now());
    assert_eq!(laptop.read_to_end(flow), b"six");
}

#[test]
fn each_direction_ends_for_itself() {
    // Says everything only after the client's end came: the other half must still be open then.
    let address = server(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(&pattern(500_000)).unwrap();
        stream.write_all(&question).unwrap();
    });
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let flow = laptop.connect(address);
    laptop.event(Event::TcpConnected { flow });
    laptop.send_all(flow, b"question");
    laptop.netstack.tcp_finish(flow, now());
    let answer = laptop.read_to_end(flow);
    assert_eq!(answer.len(), 500_008);
    assert!(answer.starts_with(&pattern(500_000)) && answer.ends_with(b"question"));
}

#[test]
fn the_servers_end_leaves_the_clients_half_open() {
    let (heard_tx, heard) = std::sync::mpsc::channel();
    let address = server(move |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        heard_tx.send(rest).unwrap();
    });
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let flow = laptop.connect(address);
    laptop.event(Event::TcpConnected { flow });
    assert_eq!(laptop.read_to_end(flow), b"bye");
    laptop.send_all(flow, &pattern(300_000));
    laptop.netstack.tcp_finish(flow, now());
    laptop.until("the server to hear the rest", |_| {
        heard
            .try_recv()
            .ok()
            .map(|rest| assert!(rest == pattern(300_000)))
    });
}

#[test]
fn a_slow_reader_slows_the_server_down_and_loses_nothing() {
    let data = pattern(16 << 20);
    let sent = data.clone();
    let address = server(move |mut stream| stream.write_all(&sent).unwrap());
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let flow = laptop.connect(address);
    laptop.event(Event::TcpConnected { flow });
    // Reads nothing until the first window is full; it does not grow for who does not read.
    laptop.until("a full buffer", |laptop| {
        (laptop.netstack.tcp_recv_ready(flow) >= 60_000).then_some(())
    });
    assert!(laptop.read_to_end(flow) == data);
}

#[test]
fn a_closed_port_is_refused_at_once() {
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    // The handshake of the tunnel is not what is measured.
    laptop.send_packet(&[]);
    let start = now();
    let flow = laptop.connect(closed_port());
    laptop.event(Event::TcpReset { flow });
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_reset_arrives_as_a_reset() {
    let address = server(|mut stream| {
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    });
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let flow = laptop.connect(address);
    laptop.event(Event::TcpConnected { flow });
    laptop.send_all(flow, b"x");
    laptop.event(Event::TcpReset { flow });
}

#[test]
fn the_clients_reset_reaches_the_server() {
    let (heard_tx, heard) = std::sync::mpsc::channel();
    let address = server(move |mut stream| {
        heard_tx
            .send(stream.read(&mut [0; 10]).map_err(|error| error.kind()))
            .unwrap()
    });
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let flow = laptop.connect(address);
    laptop.event(Event::TcpConnected { flow });
    laptop.netstack.tcp_abort(flow, now());
    let heard = laptop.until("the server to hear of it", |_| heard.try_recv().ok());
    assert_eq!(heard, Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn many_connections_at_once() {
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let address = server(echo);
    let flows: Vec<_> = (0..500).map(|_| laptop.connect(address)).collect();
    for &flow in &flows {
        laptop.event(Event::TcpConnected { flow });
        laptop.send_all(flow, b"hello");
    }
    for flow in flows {
        laptop.netstack.tcp_finish(flow, now());
        assert_eq!(laptop.read_to_end(flow), b"hello");
    }
    let metrics = http::get(pod.health, "/metrics").body;
    assert!(metrics.contains("kvpn_sessions 1\n"), "{metrics}");
}

#[test]
fn udp_is_answered_or_refused() {
    let (address, _thread) = nameserver();
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let source = SocketAddr::new(laptop.client(), 4000);
    let mut packet = [0; 100];
    let length = build::udp(source, address, b"question", &mut packet).unwrap();
    laptop.send_packet(&packet[..length]);
    laptop.packet("an answer", |packet| {
        let ip = Ip::parse(packet).ok()?;
        (ip.src() == address.ip() && ip.udp()?.payload() == b"question!").then_some(())
    });
    let length = build::udp(source, closed_port(), b"nobody", &mut packet).unwrap();
    laptop.send_packet(&packet[..length]);
    laptop.packet("port unreachable", |packet| {
        let icmp = Ip::parse(packet).ok()?.icmp()?.message();
        matches!(icmp, IcmpMessage::Unreachable { code: 3, .. }).then_some(())
    });
}

#[test]
fn a_refused_datagram_leaves_no_socket() {
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    // Nobody else's test sends there.
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 7));
    let mut packet = [0; 100];
    let source = SocketAddr::new(laptop.client(), 4000);
    for _ in 0..5 {
        let length = build::udp(source, nobody, b"nobody", &mut packet).unwrap();
        laptop.packets.clear();
        laptop.send_packet(&packet[..length]);
        laptop.packet("port unreachable", |packet| {
            let icmp = Ip::parse(packet).ok()?.icmp()?.message();
            matches!(icmp, IcmpMessage::Unreachable { code: 3, .. }).then_some(())
        });
    }
    laptop.until("the last socket to be closed", |_| {
        let sockets = std::fs::read_to_string("/proc/self/net/udp").unwrap();
        (!sockets.contains(" 0100007F:0007 ")).then_some(())
    });
}

#[test]
fn dns_goes_to_the_pods_nameserver() {
    let (address, _thread) = nameserver();
    let pod = Pod::start(&[address]);
    let mut laptop = pod.laptop(1);
    let gateway = SocketAddr::new(laptop.gateway(), 53);
    let mut packet = [0; 100];
    let length = build::udp(
        SocketAddr::new(laptop.client(), 4000),
        gateway,
        b"name?",
        &mut packet,
    )
    .unwrap();
    laptop.send_packet(&packet[..length]);
    laptop.packet("an answer", |packet| {
        let ip = Ip::parse(packet).ok()?;
        (ip.src() == gateway.ip() && ip.udp()?.payload() == b"name?!").then_some(())
    });
    // The flow is forgotten with the answer.
    laptop.until("no flow", |_| {
        http::get(pod.health, "/metrics")
            .body
            .contains("kvpn_flows{kind=\"udp\"} 0")
            .then_some(())
    });
}

#[test]
fn dns_over_tcp_too() {
    let pod = Pod::start(&[server(echo)]);
    let mut laptop = pod.laptop(1);
    let flow = laptop.connect(SocketAddr::new(laptop.gateway(), 53));
    laptop.event(Event::TcpConnected { flow });
    laptop.send_all(flow, b"name?");
    laptop.netstack.tcp_finish(flow, now());
    assert_eq!(laptop.read_to_end(flow), b"name?");
}

#[test]
fn control_knows_who_is_calling() {
    let pod = Pod::start(&[]);
    let (mut first, mut second) = (pod.laptop(1), pod.laptop(2));
    for laptop in [&mut first, &mut second] {
        let answer = control(laptop, "GET", "/v1/session");
        assert_eq!(answer.status, 200, "{}", answer.body);
        let status: SessionStatus = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(
            (status.session_id, &*status.path),
            (laptop.grant.session_id.clone(), "api")
        );
    }
    // Each door does its own work only.
    assert_eq!(control(&mut first, "POST", "/v1/sessions").status, 404);
    assert_eq!(http::get(pod.control, "/v1/session").status, 404);

    assert_eq!(control(&mut first, "DELETE", "/v1/session").status, 204);
    first.until("the end of the session", |_| {
        http::get(pod.health, "/metrics")
            .body
            .contains("kvpn_sessions 1\n")
            .then_some(())
    });
    assert_eq!(control(&mut second, "GET", "/v1/session").status, 200);
}

fn control(laptop: &mut laptop::Laptop, method: &str, path: &str) -> http::Answer {
    control_with(laptop, method, path, "")
}

fn control_with(laptop: &mut laptop::Laptop, method: &str, path: &str, body: &str) -> http::Answer {
    let flow = laptop.connect(SocketAddr::new(laptop.gateway(), 6180));
    laptop.event(Event::TcpConnected { flow });
    laptop.send_all(flow, http::request(method, path, body).as_bytes());
    http::parse(&laptop.read_to_end(flow))
}

#[test]
fn bad_requests_say_what_is_wrong() {
    let pod = Pod::start(&[]);
    let answer = http::post(pod.control, "/v1/sessions", "{}");
    assert_eq!(answer.status, 400);
    let body: ErrorBody = serde_json::from_str(&answer.body).unwrap();
    assert!(body.error.contains("version"), "{}", body.error);
    let key = "A".repeat(43) + "=";
    let answer = http::post(
        pod.control,
        "/v1/sessions",
        &format!("{{\"version\":99,\"publicKey\":\"{key}\"}}"),
    );
    assert_eq!(answer.status, 409);
    let body: ErrorBody = serde_json::from_str(&answer.body).unwrap();
    assert!(body.hint.is_some());
}

#[test]
fn a_session_roams_between_carriers() {
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let flow = laptop.connect(server(echo));
    laptop.event(Event::TcpConnected { flow });
    let mut expected = Vec::new();
    for round in 0..4_u8 {
        match round % 2 {
            0 => laptop.roam_to_udp(pod.udp.port()),
            _ => laptop.roam_to_api(pod.carrier),
        }
        laptop.send_all(flow, &[round; 1000]);
        expected.extend_from_slice(&[round; 1000]);
        laptop.until("the echo", |laptop| {
            (laptop.netstack.tcp_recv_ready(flow) == expected.len()).then_some(())
        });
    }
    laptop.netstack.tcp_finish(flow, now());
    assert_eq!(laptop.read_to_end(flow), expected);
}

#[test]
fn what_the_tunnel_may_never_reach() {
    let pod = Pod::with(
        &[
            "--datapath",
            "userspace",
            "--node-ips",
            "192.0.2.11",
            "--pod-ips",
            "192.0.2.77",
        ],
        &[],
    );
    let mut laptop = pod.laptop(1);
    let other = pod.laptop(2);
    let loopback = server(echo);
    let targets = [
        loopback,
        pod.control,
        pod.carrier,
        "169.254.169.254:80".parse().unwrap(),
        "192.0.2.11:10250".parse().unwrap(),
        "192.0.2.77:6182".parse().unwrap(),
        SocketAddr::new(other.client(), 22),
        SocketAddr::new(laptop.gateway(), 6181),
    ];
    for target in targets {
        laptop.packets.clear();
        laptop.connect(target);
        laptop.packet(&format!("{target} to be prohibited"), |packet| {
            let icmp = Ip::parse(packet).ok()?.icmp()?.message();
            let IcmpMessage::Unreachable { code: 13, quoted } = icmp else {
                return None;
            };
            let quoted = Ip::parse_quoted(quoted).ok()?;
            (quoted.dst() == target.ip()).then_some(())
        });
    }
    // A forged source gets no answer, and is counted.
    let mut packet = [0; 100];
    let source = SocketAddr::new(other.client(), 4000);
    let length = build::udp(
        source,
        "192.0.2.1:9".parse().unwrap(),
        b"forged",
        &mut packet,
    )
    .unwrap();
    laptop.send_packet(&packet[..length]);
    laptop.until("the forged packet to be counted", |_| {
        http::get(pod.health, "/metrics")
            .body
            .contains("kvpn_dropped_total{reason=\"forged_source\"} 1\n")
            .then_some(())
    });
}

#[test]
fn ping_is_answered_if_it_may_be() {
    let pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let mut packet = [0; 100];
    let (client, gateway) = (laptop.client(), laptop.gateway());
    let length = build::icmp_echo_request(client, gateway, 5, 1, b"gateway", &mut packet).unwrap();
    laptop.send_packet(&packet[..length]);
    let answered = |sequence| {
        move |packet: &[u8]| {
            let message = Ip::parse(packet).ok()?.icmp()?.message();
            matches!(message, IcmpMessage::EchoReply { ident: 5, sequence: s, .. } if s == sequence)
                .then_some(())
        }
    };
    laptop.packet("the gateway's own answer", answered(1));
    if !laptop.grant.cluster.ping {
        return eprintln!("skipped: this process may not ping (net.ipv4.ping_group_range)");
    }
    let length = build::icmp_echo_request(
        client,
        Ipv4Addr::LOCALHOST.into(),
        5,
        2,
        b"cluster",
        &mut packet,
    )
    .unwrap();
    laptop.send_packet(&packet[..length]);
    laptop.packet("the answer of loopback", answered(2));
}

#[test]
fn it_is_healthy_and_stops_at_once() {
    let mut pod = Pod::start(&[]);
    let mut laptop = pod.laptop(1);
    let flow = laptop.connect(server(echo));
    laptop.event(Event::TcpConnected { flow });
    for path in ["/healthz", "/readyz"] {
        let answer = http::get(
            SocketAddr::from((Ipv4Addr::LOCALHOST, pod.health.port())),
            path,
        );
        assert_eq!((answer.status, &*answer.body), (200, "ok\n"));
    }
    let took = pod.stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_taken_port_is_said() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let listener = TcpListener::bind(taken).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let started = std::panic::catch_unwind(|| {
        Pod::with(&["--datapath", "userspace", "--control-port", &port], &[])
    });
    let message = *started
        .err()
        .expect("it cannot start")
        .downcast::<String>()
        .unwrap();
    assert!(
        message.contains(&port) && message.contains("control API"),
        "{message}"
    );
}
