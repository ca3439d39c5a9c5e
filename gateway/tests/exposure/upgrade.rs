//! Requests that leave HTTP.

use kvpn_gateway::exposure::{Owner, Protocol, Record, Share, Target};
use tokio::io::AsyncWriteExt as _;

use super::stage::{Stage, claim, laptop, wires};

/// Accepts an upgrade or CONNECT with its name, then repeats what comes.
async fn upgrades(name: &'static str) -> std::net::SocketAddr {
    wires(move |mut wire| async move {
        let head = wire.head().await;
        if head.starts_with("CONNECT db:5432 HTTP/1.1\r\n") {
            wire.send("HTTP/1.1 200 Connected\r\n\r\n").await;
        } else {
            assert!(head.contains("Upgrade: websocket\r\n"), "{head}");
            assert!(
                head.to_lowercase().contains("connection: upgrade\r\n"),
                "{head}"
            );
            assert!(head.contains("Sec-WebSocket-Key: abc\r\n"), "{head}");
            wire.send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: def\r\n\r\n",
            )
            .await;
        }
        // In the same breath as the response: nothing of it may get lost.
        wire.send(name).await;
        let (mut reader, mut writer) = wire.stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    })
    .await
}

#[tokio::test]
async fn a_websocket_goes_where_its_request_does() {
    let places = [
        (laptop("ana"), upgrades("ana").await),
        (Target::Origin, upgrades("origin").await),
    ];
    let mut stage = Stage::start([claim("ana")], places).await;
    for (header, to) in [
        ("x-dev: ana\r\n", Share::Laptop(Owner::new("ana"))),
        ("", Share::Origin),
    ] {
        let mut client = stage.client().await;
        client
            .send(&format!(
                "GET /chat HTTP/1.1\r\nHost: web\r\n{header}Connection: keep-alive, Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\nat once "
            ))
            .await;
        let head = client.head().await;
        assert!(
            head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
            "{head}"
        );
        for line in ["Upgrade: websocket\r\n", "Sec-WebSocket-Accept: def\r\n"] {
            assert!(head.contains(line), "{head}");
        }
        assert!(
            head.to_lowercase().contains("connection: upgrade\r\n"),
            "{head}"
        );
        let name = if header.is_empty() { "origin" } else { "ana" };
        assert_eq!(client.exactly(name.len()).await, name.as_bytes());
        assert_eq!(client.exactly(8).await, b"at once ");
        for _ in 0..100 {
            client.send("ping").await;
            assert_eq!(client.exactly(4).await, b"ping");
        }
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.rest().await.unwrap(), "");
        let record = stage.request_record().await;
        assert_eq!((record.status.unwrap().as_u16(), &record.to), (101, &to));
        let Record::Connection(record) = stage.record().await else {
            panic!()
        };
        assert_eq!((record.sent, record.to), (408, Some(to)));
        assert_eq!(record.protocol, Protocol::Upgraded);
        assert_eq!(record.received, 408 + name.len() as u64);
        assert!(record.complete);
    }
    super::stage::until("nothing is open", || {
        stage.exposure.gauges().connections == 0
    })
    .await;
}

#[tokio::test]
async fn connect_is_tunnelled() {
    let stage = Stage::start([], [(Target::Origin, upgrades("origin").await)]).await;
    let mut client = stage.client().await;
    client
        .send("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
        .await;
    assert!(
        client
            .head()
            .await
            .starts_with("HTTP/1.1 200 Connected\r\n")
    );
    client.send("select").await;
    assert_eq!(client.exactly(12).await, b"originselect");
}

#[tokio::test]
async fn an_upgrade_that_is_not_accepted_stays_http() {
    let server = wires(|mut wire| async move {
        loop {
            wire.head().await;
            wire.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
                .await;
        }
    })
    .await;
    let stage = Stage::start([claim("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    for _ in 0..2 {
        client
            .send(
                "GET / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\n\r\n",
            )
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 426"));
        assert_eq!(client.exactly(2).await, b"no");
    }
}

#[tokio::test]
async fn h2c_is_not_upgraded_to() {
    let server = wires(|mut wire| async move {
        let head = wire.head().await;
        for name in ["Upgrade", "HTTP2-Settings", "h2c"] {
            assert!(!head.contains(name), "{head}");
        }
        wire.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    })
    .await;
    let stage = Stage::start([claim("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\nConnection: Upgrade, HTTP2-Settings\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        )
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 204"));
}
