//! The pump against a stand-in kubelet.

use super::*;
use crate::testing::{Answer, FakeApi, ServerSocket, failure, forbidden};
use futures::StreamExt as _;
use serde_json::json;
use std::{
    sync::{LazyLock, Mutex, mpsc},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    task::JoinHandle,
    time::timeout,
};

const PORT: [u8; 2] = 8080_u16.to_le_bytes();

fn gateway() -> GatewayPod {
    GatewayPod::of(
        &serde_json::from_value(json!({ "metadata": { "name": "web-0", "namespace": "demo" } }))
            .unwrap(),
    )
}

fn binary(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

async fn greet(socket: &mut ServerSocket) {
    socket.send(binary(0, &PORT)).await.unwrap();
    socket.send(binary(1, &PORT)).await.unwrap();
}

async fn open(serve: fn(ServerSocket) -> JoinHandle<()>) -> Forward {
    let api = FakeApi::start(move |_| Answer::WebSocket(serve)).await;
    api.cluster().forward(&gateway(), 8080).await.unwrap()
}

/// Echoes every byte, and leaves when the client does.
fn echo(mut socket: ServerSocket) -> JoinHandle<()> {
    tokio::spawn(async move {
        greet(&mut socket).await;
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(bytes) = message {
                assert!(bytes[0] == 0 && bytes.len() <= 1 + 64 * 1024);
                socket.send(Message::Binary(bytes)).await.unwrap();
            }
        }
    })
}

#[tokio::test]
async fn bytes_come_back_whole_and_in_order() {
    let (mut read, mut write) = tokio::io::split(open(echo).await);
    let sent: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&copy).await.unwrap();
        write
    });
    let mut received = vec![0; sent.len()];
    timeout(Duration::from_secs(20), read.read_exact(&mut received))
        .await
        .unwrap()
        .unwrap();
    assert!(received == sent);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn a_shutdown_waits_until_all_is_on_its_way() {
    let (mut stream, mut far) = over_pipe().await;
    stream.write_all(&[5; 60_000]).await.unwrap();
    let mut received = 0;
    let receiving = async {
        while received < 60_000 {
            if let Some(Ok(Message::Binary(bytes))) = far.next().await {
                received += bytes.len() - 1;
            }
        }
    };
    let (closed, ()) = tokio::join!(stream.shutdown(), receiving);
    closed.unwrap();
    assert_eq!(received, 60_000);
    far.send(binary(0, &[&PORT[..], b"still here"].concat()))
        .await
        .unwrap();
    let mut text = [0; 10];
    stream.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still here");
    stream.shutdown().await.unwrap();
    drop(far);
    stream.shutdown().await.unwrap();
}

/// Sends without end, and never reads.
fn floods(mut socket: ServerSocket) -> JoinHandle<()> {
    tokio::spawn(async move {
        greet(&mut socket).await;
        while socket.send(binary(0, &[7; 32 * 1024])).await.is_ok() {}
    })
}

/// Reads without end what it counts, and sends nothing but the count of every MiB.
fn counts(mut socket: ServerSocket) -> JoinHandle<()> {
    tokio::spawn(async move {
        greet(&mut socket).await;
        let (mut count, mut told) = (0_usize, 0_u8);
        while let Some(Ok(message)) = socket.next().await {
            count += message.len().saturating_sub(1);
            if count >> 20 > usize::from(told) {
                told += 1;
                socket.send(binary(0, &[told])).await.unwrap();
            }
        }
    })
}

#[tokio::test]
async fn a_direction_that_stands_does_not_stop_the_other() {
    // Nobody reads at the far end: our writes stop, our reads go on.
    let (mut read, mut write) = tokio::io::split(open(floods).await);
    let stuck = async {
        loop {
            write.write_all(&[1; 64 * 1024]).await.unwrap();
        }
    };
    let mut buffer = vec![0; 8 << 20];
    tokio::select! {
        () = stuck => {}
        read = timeout(Duration::from_secs(20), read.read_exact(&mut buffer)) => drop(read.unwrap().unwrap()),
    }
    // We do not read: what we write arrives all the same.
    let (mut read, mut write) = tokio::io::split(open(counts).await);
    write.write_all(&vec![1; 4 << 20]).await.unwrap();
    let mut told = [0; 4];
    timeout(Duration::from_secs(20), read.read_exact(&mut told))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(told, [1, 2, 3, 4]);
}

fn refuses_late(mut socket: ServerSocket) -> JoinHandle<()> {
    tokio::spawn(async move {
        greet(&mut socket).await;
        socket.send(binary(0, b"last words")).await.unwrap();
        socket
            .send(binary(
                1,
                b"error forwarding port 8080 to pod web-0: connect: connection refused",
            ))
            .await
            .unwrap();
        socket.close(None).await.unwrap();
    })
}

#[tokio::test]
async fn the_error_channel_fails_the_read_after_what_came_before() {
    let mut stream = open(refuses_late).await;
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).await.unwrap_err();
    assert_eq!(bytes, b"last words");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert!(
        error.to_string().contains("port 8080 to pod web-0"),
        "{error}"
    );
    let error = stream.write_all(&[0; 200_000]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

fn says_bye(mut socket: ServerSocket) -> JoinHandle<()> {
    tokio::spawn(async move {
        greet(&mut socket).await;
        socket.send(binary(0, b"bye")).await.unwrap();
        socket.close(None).await.unwrap();
    })
}

#[tokio::test]
async fn an_orderly_end_is_an_end_of_file() {
    let mut text = String::new();
    open(says_bye)
        .await
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert_eq!(text, "bye");
}

fn breaks(mut socket: ServerSocket) -> JoinHandle<()> {
    tokio::spawn(async move { greet(&mut socket).await })
}

#[tokio::test]
async fn a_cut_connection_is_an_error_not_an_end() {
    let error = open(breaks)
        .await
        .read_to_end(&mut Vec::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Reads until the client closes in order, then tells what came.
fn expects_farewell(mut socket: ServerSocket) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut bytes = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(more) => bytes.extend_from_slice(&more[1..]),
                Message::Close(_) => break,
                _ => {}
            }
        }
        FAREWELL.0.send(bytes).unwrap();
    })
}

type Farewell = (mpsc::Sender<Vec<u8>>, Mutex<mpsc::Receiver<Vec<u8>>>);

static FAREWELL: LazyLock<Farewell> = LazyLock::new(|| {
    let (tx, rx) = mpsc::channel();
    (tx, Mutex::new(rx))
});

#[tokio::test]
async fn dropping_sends_what_was_written_and_closes() {
    let mut stream = open(expects_farewell).await;
    stream.write_all(&[3; 100_000]).await.unwrap();
    drop(stream);
    let received = tokio::task::spawn_blocking(|| {
        FAREWELL
            .1
            .lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(10))
    });
    assert_eq!(received.await.unwrap().unwrap(), [3; 100_000]);
}

const HASTY: Timing = Timing {
    ping_every: Duration::from_millis(30),
    silence_limit: Duration::from_millis(400),
};

/// A stream over a WebSocket whose far end is given, without an API server.
async fn over_pipe() -> (Forward, WebSocketStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(4096);
    let near = WebSocketStream::from_raw_socket(near, Role::Client, Some(config())).await;
    (
        Forward::over(near, HASTY),
        WebSocketStream::from_raw_socket(far, Role::Server, None).await,
    )
}

#[tokio::test]
async fn silence_ends_a_stream() {
    let (mut stream, _far) = over_pipe().await;
    let error = timeout(Duration::from_secs(5), stream.read_u8())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn answered_pings_keep_a_stream() {
    let (mut stream, mut far) = over_pipe().await;
    let mut pings = 0;
    let answering = async {
        // Reading is what makes the far end answer; 30 pings take longer than the silence limit.
        while pings < 30 {
            pings += usize::from(matches!(far.next().await, Some(Ok(Message::Ping(_)))));
        }
    };
    tokio::select! {
        () = answering => {}
        ended = stream.read_u8() => panic!("{ended:?}"),
    }
}

#[tokio::test]
async fn refusals_of_the_api_server_are_classified() {
    let refusal = |answer: fn() -> Answer| async move {
        let api = FakeApi::start(move |_| answer()).await;
        api.cluster().forward(&gateway(), 8080).await.unwrap_err()
    };
    let error = refusal(forbidden).await;
    assert_eq!(
        error.to_string(),
        "not permitted: create pods/portforward in namespace demo"
    );
    let error = refusal(|| failure(404, "pods \"web-0\" not found")).await;
    assert_eq!(
        error.to_string(),
        "pods/portforward demo/web-0 was not found"
    );
    let error = refusal(|| failure(500, "error dialing backend")).await;
    assert_eq!(
        error.to_string(),
        "the port-forward to demo/web-0, port 8080, failed: error dialing backend"
    );
    let error = refusal(|| Answer::Json(200, json!({}))).await;
    assert!(error.to_string().contains("upgrade"), "{error}");
}

#[tokio::test]
async fn the_request_is_the_one_that_kubelets_know() {
    let api = FakeApi::start(|asked| {
        assert_eq!(
            asked.line(),
            "GET /api/v1/namespaces/demo/pods/web-0/portforward"
        );
        assert!(asked.query.ends_with("ports=8080"), "{}", asked.query);
        Answer::WebSocket(echo)
    })
    .await;
    let mut stream = api.cluster().forward(&gateway(), 8080).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
}
