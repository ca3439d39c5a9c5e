//! Bodies are streamed: a gibibyte each way through an exposure, in a process of its own whose memory is looked at.

#![expect(clippy::unwrap_used, reason = "the test's own server is test too")]

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use kvpn_gateway::exposure::{
    Choice, Datagrams, Dial, Exposure, Limits, Room, Settings, Stream, Target,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

struct Origin(SocketAddr);

impl Dial for Origin {
    fn dial<'a>(
        &'a self,
        _to: &'a Target,
        _client: SocketAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Ok(Box::new(TcpStream::connect(self.0).await?) as Box<dyn Stream>) })
    }

    fn dial_udp<'a>(
        &'a self,
        _to: &'a Target,
        _client: SocketAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

/// A server that sends each request's body back while it comes.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|request: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        });
        let server = hyper::server::conn::http1::Builder::new();
        server
            .serve_connection(TokioIo::new(stream), service)
            .await
            .unwrap();
    });
    address
}

/// KiB: the most that this process has had so far.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_gibibyte_each_way_takes_no_room() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let settings = Settings {
        name: "shop/web:80".into(),
        limits: Limits::default(),
        room: Room::new(1),
        dial: Arc::new(Origin(echo().await)),
        dice: Arc::new(|| 0),
        records: Arc::new(|_| false),
    };
    let _exposure = Exposure::tcp(listener, settings, Choice::default());
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let before = peak();
    let writing = tokio::spawn(async move {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: web\r\nConnection: close\r\nContent-Length: {LENGTH}\r\n\r\n"
        );
        writer.write_all(head.as_bytes()).await.unwrap();
        let block = vec![b'b'; 1 << 20];
        for _ in 0..LENGTH / block.len() {
            writer.write_all(&block).await.unwrap();
        }
        writer
    });
    let mut received = 0;
    let mut buffer = vec![0; 256 << 10];
    while let length @ 1.. = reader.read(&mut buffer).await.unwrap() {
        received += buffer[..length]
            .iter()
            .filter(|&&byte| byte == b'b')
            .count();
    }
    drop(writing.await.unwrap());
    // The head has a few of them.
    assert!(
        (LENGTH..LENGTH + 100).contains(&received),
        "{received} bytes came back"
    );
    let grown = peak() - before;
    assert!(grown < 32 << 10, "{grown} KiB more were needed");
}

const LENGTH: usize = 1 << 30;
