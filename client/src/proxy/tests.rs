//! Programs at one end, a cluster of one stack at the other, a driver between them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kvpn_netstack::{Event, FlowId, Refusal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::*;
use crate::agent::driver::tests::current_thread;
use crate::agent::driver::tests::peer::Peer;
use crate::agent::now;

/// Longer than any test needs, so that a hang is a failure.
const LIMIT: Duration = Duration::from_secs(60);
const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);

/// A proxy, the cluster behind it, and where programs find it.
struct Stage {
    peer: Peer,
    socks: SocketAddr,
    http: SocketAddr,
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

impl Stage {
    async fn new(password: Option<&str>) -> Self {
        let (driver, mut peer) = Peer::start().await;
        peer.names
            .insert("web.default.svc.cluster.local".to_owned(), WEB);
        let (_, names_rx) = watch::channel(Names {
            namespace: "default".to_owned(),
            domain: "cluster.local".to_owned(),
            namespaces: Vec::new(),
            own_domain: None,
            reverse: Vec::new(),
        });
        let credentials = password.map(|password| Credentials::new(password.to_owned()));
        let proxy = Proxy::new(driver, credentials, names_rx);
        let ((socks_listener, socks), (http_listener, http)) = (listener().await, listener().await);
        tokio::spawn(Arc::clone(&proxy).serve_socks(socks_listener));
        tokio::spawn(proxy.serve_http(http_listener));
        Self { peer, socks, http }
    }

    /// Accepts the next connection into the cluster.
    async fn accepted(&mut self) -> FlowId {
        let flow = self.peer.opening().await;
        self.peer.stack.tcp_accept(flow, now());
        assert_eq!(self.peer.event(flow).await, Event::TcpConnected { flow });
        flow
    }

    /// A program that says all this, ends if `ends`, and reads to the end.
    fn say(&self, to: SocketAddr, said: Vec<u8>, ends: bool) -> JoinHandle<Vec<u8>> {
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(to).await.unwrap();
            stream.write_all(&said).await.unwrap();
            if ends {
                stream.shutdown().await.unwrap();
            }
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            answer
        })
    }

    /// The answer to what leads nowhere in the cluster.
    async fn answer(&mut self, to: SocketAddr, said: Vec<u8>) -> Vec<u8> {
        let program = self.say(to, said, false);
        self.peer.during(program).await.unwrap()
    }
}

fn run(test: impl Future<Output = ()>) {
    current_thread().block_on(async {
        tokio::time::timeout(LIMIT, test).await.expect("it goes on");
    });
}

/// SOCKS5 CONNECT to a name, with what follows at once.
fn socks(name: &str, port: u16, then: &[u8]) -> Vec<u8> {
    let length = [name.len() as u8];
    [
        &[5, 1, 0, 5, 1, 0, 3],
        &length[..],
        name.as_bytes(),
        &port.to_be_bytes(),
        then,
    ]
    .concat()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn socks_connects_with_a_service_by_its_short_name() {
    run(async {
        let mut stage = Stage::new(None).await;
        let program = stage.say(stage.socks, socks("web", 80, b"hello"), true);
        let flow = stage.accepted().await;
        let received = stage.peer.exchange(flow, b"world").await;
        assert_eq!(received, b"hello");
        let answer = stage.peer.during(program).await.unwrap();
        assert_eq!(answer, b"\x05\x00\x05\x00\x00\x01\0\0\0\0\0\0world");
    });
}

#[test]
fn socks_says_why_not() {
    run(async {
        let mut stage = Stage::new(None).await;
        let program = stage.say(stage.socks, socks("web", 80, b""), false);
        let flow = stage.peer.opening().await;
        stage.peer.stack.tcp_refuse(flow, Refusal::Reset, now());
        let answer = stage.peer.during(program).await.unwrap();
        assert_eq!(answer[..4], [5, 0, 5, 5], "refused");
        let unknown = socks("nothing.default.svc.cluster.local", 80, b"");
        let answer = stage.answer(stage.socks, unknown).await;
        assert_eq!(answer[..4], [5, 0, 5, 4], "host unreachable");
        for forbidden in ["127.0.0.1", "169.254.169.254", "localhost"] {
            let answer = stage.answer(stage.socks, socks(forbidden, 80, b"")).await;
            assert_eq!(answer[..4], [5, 0, 5, 2], "{forbidden}");
        }
    });
}

#[test]
fn socks_associates_datagrams() {
    run(async {
        let mut stage = Stage::new(None).await;
        let mut control = TcpStream::connect(stage.socks).await.unwrap();
        let associate = [5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0];
        control.write_all(&associate).await.unwrap();
        let mut answer = [0; 12];
        let read = control.read_exact(&mut answer);
        stage.peer.during(read).await.unwrap();
        assert_eq!(answer[..6], [5, 0, 5, 0, 0, 1]);
        let port = u16::from_be_bytes([answer[10], answer[11]]);
        let program = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        program.connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        program
            .send(b"\0\0\0\x03\x03web\x13\x88hello")
            .await
            .unwrap();
        let flow = stage.peer.opening().await;
        assert_eq!(stage.peer.event(flow).await, Event::UdpDatagram { flow });
        let mut buffer = [0; 64];
        let n = stage.peer.stack.udp_recv(flow, &mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"hello");
        stage.peer.stack.udp_send(flow, b"world", now());
        let n = stage.peer.during(program.recv(&mut buffer)).await.unwrap();
        let expected = [&[0, 0, 0, 1][..], &WEB.octets(), b"\x13\x88world"].concat();
        assert_eq!(buffer[..n], expected);
        drop(control);
        // The relay's socket ends with the connection.
        let gone = async {
            while program.send(b"anybody?").await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        stage.peer.during(gone).await;
    });
}

#[test]
fn http_connects() {
    run(async {
        let mut stage = Stage::new(None).await;
        let http = stage.http;
        let program = tokio::spawn(async move {
            let mut stream = TcpStream::connect(http).await.unwrap();
            let request = b"CONNECT web:443 HTTP/1.1\r\nhost: web:443\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut answer).await.unwrap();
            answer
        });
        let flow = stage.accepted().await;
        assert_eq!(stage.peer.exchange(flow, b"world").await, b"hello");
        let answer = text(&stage.peer.during(program).await.unwrap());
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nworld"), "{answer}");
    });
}

#[test]
fn http_forwards_requests() {
    run(async {
        let mut stage = Stage::new(None).await;
        let http = stage.http;
        let program = tokio::spawn(async move {
            let mut stream = TcpStream::connect(http).await.unwrap();
            let request = "POST http://user@web/path?query HTTP/1.1\r\nhost: other\r\nproxy-connection: keep-alive\r\n\
                           connection: close\r\ncontent-length: 5\r\n\r\nhello";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            text(&answer)
        });
        let flow = stage.accepted().await;
        let mut received = String::new();
        while !received.ends_with("hello") {
            let event = stage.peer.event(flow).await;
            assert_eq!(event, Event::TcpReadable { flow }, "{received}");
            let mut buffer = [0; 2048];
            let n = stage.peer.stack.tcp_recv(flow, &mut buffer, now());
            received += &text(&buffer[..n]);
        }
        let (head, _) = received.split_once("\r\n\r\n").unwrap();
        let mut lines: Vec<&str> = head.split("\r\n").collect();
        assert_eq!(lines.remove(0), "POST /path?query HTTP/1.1");
        lines.sort_unstable();
        assert_eq!(lines, ["content-length: 5", "host: web"]);
        let answer = b"HTTP/1.1 404 Not Found\r\nkeep-alive: timeout=5\r\nx-mine: 1\r\ncontent-length: 5\r\n\r\nworld";
        stage.peer.stack.tcp_send(flow, answer, now());
        let answer = stage.peer.during(program).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
        assert!(
            answer.contains("x-mine: 1\r\n") && !answer.contains("keep-alive"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\nworld"), "{answer}");
    });
}

#[test]
fn http_says_why_not() {
    run(async {
        let mut stage = Stage::new(None).await;
        for (request, expected) in [
            ("CONNECT nothing.default.svc.cluster.local:80", "502 "),
            ("CONNECT 127.0.0.1:80", "403 "),
            ("CONNECT web", "400 "),
            ("GET https://web/", "400 "),
            ("GET /", "404 "),
        ] {
            let said = format!("{request} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n");
            let answer = text(&stage.answer(stage.http, said.into_bytes()).await);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {expected}")),
                "{request}: {answer}"
            );
        }
    });
}

#[test]
fn without_the_password_nothing_but_the_rules() {
    run(async {
        let mut stage = Stage::new(Some("secret")).await;
        let answer = stage.answer(stage.socks, vec![5, 1, 0]).await;
        assert_eq!(answer, [5, 0xff]);
        let say = |what: &str, authorization: &str| {
            format!("{what} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{authorization}\r\n")
                .into_bytes()
        };
        let connect = "CONNECT 127.0.0.1:80";
        let wrong = format!(
            "proxy-authorization: Basic {}\r\n",
            STANDARD.encode("kvpn:guess")
        );
        for authorization in ["", &wrong] {
            let answer = text(&stage.answer(stage.http, say(connect, authorization)).await);
            assert!(answer.starts_with("HTTP/1.1 407 "), "{answer}");
            assert!(answer.contains("proxy-authenticate: Basic "), "{answer}");
        }
        let right = format!(
            "proxy-authorization: Basic {}\r\n",
            STANDARD.encode("kvpn:secret")
        );
        let answer = text(&stage.answer(stage.http, say(connect, &right)).await);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        let answer = text(&stage.answer(stage.http, say("GET /proxy.pac", "")).await);
        assert!(answer.contains(pac::MEDIA_TYPE), "{answer}");
        assert!(
            answer.contains(&format!("PROXY {}", stage.http)),
            "{answer}"
        );
    });
}

#[test]
fn datagrams_go_to_the_cluster_only() {
    run(async {
        let (driver, _peer) = Peer::start().await;
        let ways = Ways::new(driver);
        let public = target::Target {
            host: target::Host::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
            port: 9,
        };
        let opened = ways.open(&public).await;
        assert!(matches!(opened, Err(ways::Unreachable::Outside)));
    });
}
