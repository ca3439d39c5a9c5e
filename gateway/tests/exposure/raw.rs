//! Connections that are not HTTP: whole, one way or the other.

use std::time::Duration;

use kvpn_gateway::exposure::{Limits, Owner, Protocol, ProxyProtocol, Record, Share, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::stage::{Stage, claim, echo, everything, laptop, named, soon, wires};

/// Begins with bytes that no HTTP begins with.
const BINARY: &str = "\u{1}binary";

/// A short silence for tests that wait it out.
fn impatient() -> Limits {
    Limits {
        first_bytes: Duration::from_millis(20),
        ..Limits::default()
    }
}

#[tokio::test]
async fn everything_of_a_service_goes_to_the_laptop_with_both_ends_closed_apart() {
    let places = [
        (laptop("ana"), echo("ana:").await),
        (Target::Origin, echo("origin:").await),
    ];
    let ana = everything("ana");
    let counters = std::sync::Arc::clone(&ana.counters);
    let mut stage = Stage::start([ana], places).await;
    let mut client = stage.client().await;
    client.send(BINARY).await;
    // The client's half ends; the answer comes all the same.
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await.unwrap(), format!("ana:{BINARY}"));
    let Record::Connection(record) = stage.record().await else {
        panic!()
    };
    assert_eq!(record.to, Some(Share::Laptop(Owner::new("ana"))));
    assert_eq!(
        (record.sent, record.received, record.complete),
        (7, 11, true)
    );
    let counts = counters.counts();
    assert_eq!(
        (
            counts.connections,
            counts.sent,
            counts.received,
            counts.errors
        ),
        (1, 7, 11, 0)
    );
}

#[tokio::test]
async fn a_laptop_that_ends_its_half_still_reads() {
    let server = wires(|mut wire| async move {
        wire.send("that was it").await;
        wire.stream.shutdown().await.unwrap();
        assert_eq!(wire.rest().await.unwrap(), format!("{BINARY} and more"));
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client.send(BINARY).await;
    assert_eq!(client.rest().await.unwrap(), "that was it");
    client.send(" and more").await;
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_other_side() {
    let (seen_tx, mut seen_rx) = tokio::sync::mpsc::unbounded_channel();
    let server = wires(move |mut wire| {
        let seen_tx = seen_tx.clone();
        async move {
            wire.exactly(BINARY.len()).await;
            match wire.exactly_or_end(1).await {
                Ok(byte) if byte == b"r" => wire.stream.set_zero_linger().unwrap(),
                other => seen_tx.send(other.unwrap_err().kind()).unwrap(),
            }
        }
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client.send(BINARY).await;
    client.send("r").await;
    let error = client.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let mut client = stage.client().await;
    client.send(BINARY).await;
    super::stage::until("the laptop is dialled", || {
        stage.places.dials(&laptop("ana")) == 2
    })
    .await;
    client.stream.set_zero_linger().unwrap();
    drop(client);
    let seen = soon(seen_rx.recv()).await.unwrap();
    assert_eq!(seen, std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_cannot_be_matched_goes_to_the_origin_and_is_told() {
    let places = [
        (laptop("ana"), echo("ana:").await),
        (Target::Origin, echo("origin:").await),
    ];
    let mut stage = Stage::with_limits([claim("ana")], places, impatient()).await;
    for (first, protocol) in [
        ("\u{16}\u{3}\u{1}\u{2}\u{0}", Protocol::Tls),
        (BINARY, Protocol::Unknown),
        ("SET x-dev ana\r\n", Protocol::Unknown),
        ("HELLO", Protocol::Unknown),
    ] {
        let mut client = stage.client().await;
        client.send(first).await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.rest().await.unwrap(), format!("origin:{first}"));
        let Record::Connection(record) = stage.record().await else {
            panic!()
        };
        assert_eq!(
            (record.protocol, record.to),
            (protocol, Some(Share::Origin))
        );
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let places = [
        (laptop("ana"), echo("ana:").await),
        (Target::Origin, echo("origin:").await),
    ];
    for (choice, greeting) in [(everything("ana"), "ana:"), (claim("ana"), "origin:")] {
        let stage = Stage::with_limits([choice], places.clone(), impatient()).await;
        let mut client = stage.client().await;
        assert_eq!(client.exactly(greeting.len()).await, greeting.as_bytes());
        client.send("QUIT\r\n").await;
        assert_eq!(client.exactly(6).await, b"QUIT\r\n");
    }
}

#[tokio::test]
async fn a_client_that_connects_in_advance_is_still_matched() {
    let places = [
        (laptop("ana"), named("ana").await),
        (Target::Origin, named("origin").await),
    ];
    let stage = Stage::with_limits([claim("ana")], places, impatient()).await;
    let mut client = stage.client().await;
    // Long enough for the gateway to wonder who speaks first.
    super::stage::until("the origin is dialled", || {
        stage.places.dials(&Target::Origin) == 1
    })
    .await;
    client
        .send("GET / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\n\r\n")
        .await;
    client.head().await;
    assert_eq!(client.exactly(4).await, b"ana:");
}

#[tokio::test]
async fn a_laptop_that_does_not_listen_leaves_it_to_the_origin() {
    let ana = everything("ana");
    let counters = std::sync::Arc::clone(&ana.counters);
    let mut stage = Stage::start([ana], [(Target::Origin, echo("origin:").await)]).await;
    let mut client = stage.client().await;
    client.send(BINARY).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await.unwrap(), format!("origin:{BINARY}"));
    let Record::Connection(record) = stage.record().await else {
        panic!()
    };
    assert_eq!(record.to, Some(Share::Fallback(Owner::new("ana"))));
    assert_eq!(counters.counts().fallbacks, 1);
}

#[tokio::test]
async fn without_fallback_the_connection_is_reset() {
    let mut ana = everything("ana");
    ana.fallback = false;
    let mut stage = Stage::start([ana], [(Target::Origin, echo("origin:").await)]).await;
    let mut client = stage.client().await;
    client.send(BINARY).await;
    assert_eq!(
        client.rest().await.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    let Record::Connection(record) = stage.record().await else {
        panic!()
    };
    assert_eq!((record.to, stage.places.dials(&Target::Origin)), (None, 0));
}

#[tokio::test]
async fn the_laptop_is_told_who_the_client_is_and_the_origin_is_not() {
    let places = [
        (laptop("ana"), echo("ana:").await),
        (Target::Origin, echo("origin:").await),
    ];
    let mut ana = everything("ana");
    ana.proxy_protocol = Some(ProxyProtocol::V1);
    let stage = Stage::start([ana], places).await;
    let mut client = stage.client().await;
    let (own, port) = (client.stream.local_addr().unwrap(), stage.address.port());
    client.send(BINARY).await;
    client.stream.shutdown().await.unwrap();
    let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {port}\r\n", own.port());
    assert_eq!(client.rest().await.unwrap(), format!("ana:{line}{BINARY}"));
    stage.places.remove(&laptop("ana"));
    let mut client = stage.client().await;
    client.send(BINARY).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await.unwrap(), format!("origin:{BINARY}"));
}

#[tokio::test]
async fn http_connections_to_the_laptop_begin_with_the_client_too() {
    let server = wires(|mut wire| async move {
        assert_eq!(wire.exactly(12).await, b"\r\n\r\n\0\r\nQUIT\n");
        wire.exactly(16).await;
        assert!(wire.head().await.starts_with("GET / HTTP/1.1\r\n"));
        wire.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    })
    .await;
    let mut ana = everything("ana");
    ana.proxy_protocol = Some(ProxyProtocol::V2);
    let stage = Stage::start([ana], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204"));
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer() {
    let (go_tx, go_rx) = tokio::sync::watch::channel(false);
    let server = wires(move |mut wire| {
        let mut go_rx = go_rx.clone();
        async move {
            go_rx.wait_for(|go| *go).await.unwrap();
            let mut rest = Vec::new();
            wire.stream.read_to_end(&mut rest).await.unwrap();
            wire.send(&rest.len().to_string()).await;
        }
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    let block = vec![1; 1 << 20];
    let mut sent = 0;
    // Until nothing goes any more: what is under way then is in the kernel's buffers and the gateway's.
    while let Ok(written) = tokio::time::timeout(STANDSTILL, client.stream.write(&block)).await {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "{sent} bytes are under way");
    }
    go_tx.send(true).unwrap();
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await.unwrap(), sent.to_string());
}

#[tokio::test]
async fn a_million_bytes_arrive_as_they_were() {
    let stage = Stage::start([everything("ana")], [(laptop("ana"), echo("").await)]).await;
    let client = stage.client().await;
    let sent: Vec<u8> = (0..4_000_000_u32)
        .map(|i| (i * 31 + i / 251) as u8 | 1)
        .collect();
    let (mut reader, mut writer) = client.stream.into_split();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    soon(reader.read_to_end(&mut received)).await.unwrap();
    writing.await.unwrap();
    assert!(received == expected);
}

/// Nothing moves on loopback for so long only because nobody reads.
const STANDSTILL: Duration = Duration::from_secs(1);
