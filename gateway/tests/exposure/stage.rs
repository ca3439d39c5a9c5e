//! The stage: an exposure, the places it can dial, and clients and servers that say exactly what they are told.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kvpn_gateway::exposure::{
    Choice, Claim, Datagrams, Dial, Exposure, Limits, Owner, Record, RequestRecord, Room, Settings,
    Stream, Target,
};
use kvpn_wire::exposure::{Rules, Traffic};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;

pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// What the exposure finds when it dials.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    At(SocketAddr),
    /// Neither answer nor refusal.
    Silent,
}

/// Where laptops and the origin are; a place that is not listed refuses.
#[derive(Debug, Default)]
pub(crate) struct Places {
    places: Mutex<BTreeMap<Target, Place>>,
    dialled: Mutex<Vec<Target>>,
}

pub(crate) struct Stage {
    pub(crate) exposure: Exposure,
    pub(crate) address: SocketAddr,
    pub(crate) places: Arc<Places>,
    pub(crate) records: mpsc::Receiver<Record>,
}

pub(crate) fn laptop(name: &str) -> Target {
    Target::Laptop(Owner::new(name))
}

/// A claim of requests with `x-dev: NAME`.
pub(crate) fn claim(name: &str) -> Claim {
    Claim {
        traffic: Traffic::Match(Rules {
            headers: vec![format!("x-dev: {name}").parse().unwrap()],
            ..Rules::default()
        }),
        ..everything(name)
    }
}

pub(crate) fn everything(name: &str) -> Claim {
    Claim::everything(Owner::new(name))
}

impl Stage {
    pub(crate) async fn start(
        claims: impl IntoIterator<Item = Claim>,
        places: impl IntoIterator<Item = (Target, SocketAddr)>,
    ) -> Self {
        Self::with_limits(claims, places, Limits::default()).await
    }

    pub(crate) async fn with_limits(
        claims: impl IntoIterator<Item = Claim>,
        places: impl IntoIterator<Item = (Target, SocketAddr)>,
        limits: Limits,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (settings, places, records) = settings(places, limits);
        let exposure = Exposure::tcp(listener, settings, Choice::new(claims));
        Self {
            exposure,
            address,
            places,
            records,
        }
    }

    pub(crate) async fn udp(
        claims: impl IntoIterator<Item = Claim>,
        places: impl IntoIterator<Item = (Target, SocketAddr)>,
        limits: Limits,
    ) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let (settings, places, records) = settings(places, limits);
        let exposure = Exposure::udp(socket, settings, Choice::new(claims));
        Self {
            exposure,
            address,
            places,
            records,
        }
    }

    pub(crate) async fn client(&self) -> Wire {
        Wire::new(TcpStream::connect(self.address).await.unwrap())
    }

    pub(crate) async fn record(&mut self) -> Record {
        soon(self.records.recv()).await.unwrap()
    }

    pub(crate) async fn request_record(&mut self) -> RequestRecord {
        match self.record().await {
            Record::Request(record) => record,
            Record::Connection(record) => panic!("{record:?}"),
        }
    }
}

fn settings(
    places: impl IntoIterator<Item = (Target, SocketAddr)>,
    limits: Limits,
) -> (Settings, Arc<Places>, mpsc::Receiver<Record>) {
    let found = Arc::new(Places::default());
    for (target, address) in places {
        found.set(target, Place::At(address));
    }
    let (records_tx, records) = mpsc::channel(RECORDS);
    let settings = Settings {
        name: "shop/web:80".into(),
        limits,
        room: Room::new(1000),
        dial: Arc::new(OnLoopback(Arc::clone(&found))),
        dice: Arc::new(|| u32::MAX / 100 * 50),
        records: Arc::new(move |record| records_tx.try_send(record).is_ok()),
    };
    (settings, found, records)
}

/// What a test may take for anything at all, on a busy machine; no test is about this time.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, future)
        .await
        .expect("it happens within a minute")
}

/// Waits for `condition`, which nothing announces.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let limit = Duration::from_secs(60);
    assert!(
        tokio::time::timeout(limit, wait).await.is_ok(),
        "never: {what}"
    );
}

impl Places {
    pub(crate) fn set(&self, target: Target, place: Place) {
        self.places.lock().unwrap().insert(target, place);
    }

    pub(crate) fn remove(&self, target: &Target) {
        self.places.lock().unwrap().remove(target);
    }

    /// How often `target` was dialled.
    pub(crate) fn dials(&self, target: &Target) -> usize {
        let dialled = self.dialled.lock().unwrap();
        dialled.iter().filter(|own| *own == target).count()
    }

    async fn find(&self, target: &Target) -> io::Result<SocketAddr> {
        self.dialled.lock().unwrap().push(target.clone());
        let place = self.places.lock().unwrap().get(target).copied();
        match place {
            Some(Place::At(address)) => Ok(address),
            Some(Place::Silent) => pending().await,
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

struct OnLoopback(Arc<Places>);

impl Dial for OnLoopback {
    fn dial<'a>(
        &'a self,
        to: &'a Target,
        _client: SocketAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(self.0.find(to).await?).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn dial_udp<'a>(
        &'a self,
        to: &'a Target,
        _client: SocketAddr,
    ) -> BoxFuture<'a, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async move {
            let address = self.0.find(to).await?;
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            socket.connect(address).await?;
            Ok(Box::new(socket) as Box<dyn Datagrams>)
        })
    }
}

/// One end of a connection, read and written by hand.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        soon(self.stream.write_all(text.as_bytes())).await.unwrap();
    }

    /// Reads up to and with `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self
                .read
                .windows(end.len())
                .position(|part| part == end.as_bytes());
            if let Some(at) = found {
                let rest = self.read.split_off(at + end.len());
                let part = std::mem::replace(&mut self.read, rest);
                return String::from_utf8(part).unwrap();
            }
            let length = soon(self.stream.read_buf(&mut self.read)).await.unwrap();
            assert_ne!(length, 0, "{end:?} does not come: {:?}", self.text());
        }
    }

    /// Reads a message's head.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads to the end.
    pub(crate) async fn rest(&mut self) -> io::Result<String> {
        soon(self.stream.read_to_end(&mut self.read)).await?;
        Ok(self.text())
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        self.exactly_or_end(length).await.unwrap()
    }

    /// The same where the connection may break.
    pub(crate) async fn exactly_or_end(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < length {
            if soon(self.stream.read_buf(&mut self.read)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.read.split_off(length);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

/// A server that treats each connection by hand.
pub(crate) async fn wires<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(Wire) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(Wire::new(stream)));
        }
    });
    address
}

/// Says `name` to each connection, then repeats all that comes, and ends when the other side does.
pub(crate) async fn echo(name: &'static str) -> SocketAddr {
    wires(move |mut wire| async move {
        // Only a test that resets its connection sees an error here.
        drop(wire.stream.write_all(name.as_bytes()).await);
        let (mut reader, mut writer) = wire.stream.split();
        drop(tokio::io::copy(&mut reader, &mut writer).await);
    })
    .await
}

/// An HTTP server, 1.1 or 2 by what the client begins with.
pub(crate) async fn http<F, Fut>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve_http(stream, answer.clone()));
        }
    });
    address
}

async fn serve_http<F, Fut>(stream: TcpStream, answer: F)
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    stream.set_nodelay(true).unwrap();
    let mut first = [0; 3];
    if stream.peek(&mut first).await.is_err() {
        return;
    }
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, hyper::Error>(answer.await) }
    });
    // How a connection ends is for the clients to judge.
    if &first == b"PRI" {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(TokioIo::new(stream), service).await);
    } else {
        let server = hyper::server::conn::http1::Builder::new();
        drop(server.serve_connection(TokioIo::new(stream), service).await);
    }
}

/// A server that answers with its name and the request's body.
pub(crate) async fn named(name: &'static str) -> SocketAddr {
    http(move |request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(&format!("{name}:{}", String::from_utf8_lossy(&body)))
    })
    .await
}

pub(crate) fn text(text: &str) -> Response<Body> {
    Response::new(
        Full::from(text.to_owned())
            .map_err(|never| match never {})
            .boxed_unsync(),
    )
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

const RECORDS: usize = 16 << 10;
