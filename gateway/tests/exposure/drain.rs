//! The end of an exposure, and its bounds.

use std::time::Duration;

use kvpn_gateway::exposure::{Limits, Target};
use tokio::net::TcpStream;

use super::http2;
use super::stage::{Stage, Wire, echo, everything, laptop, named, soon, until, wires};

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

#[tokio::test]
async fn drained_a_kept_connection_ends_with_its_next_response() {
    let stage = Stage::start([], [(Target::Origin, named("origin").await)]).await;
    let mut clients = [stage.client().await, stage.client().await];
    for client in &mut clients {
        client.send(GET).await;
        client.head().await;
        assert_eq!(client.exactly(7).await, b"origin:");
    }
    until("both are idle", || stage.exposure.gauges().idle == 2).await;
    stage.exposure.drain();
    let [mut first, _second] = clients;
    first.send(GET).await;
    let head = first.head().await;
    assert!(
        head.to_lowercase().contains("connection: close\r\n"),
        "{head}"
    );
    assert_eq!(first.rest().await.unwrap(), "origin:");
    until("one is left", || stage.exposure.gauges().connections == 1).await;
    // New connections are served, once each.
    let mut third = stage.client().await;
    third.send(GET).await;
    assert!(third.rest().await.unwrap().ends_with("origin:"));
}

#[tokio::test]
async fn drained_an_http2_connection_finishes_its_streams() {
    let stage = Stage::start([], [(Target::Origin, named("origin").await)]).await;
    let client = http2::connect(stage.address).await;
    let (response, mut body) = http2::begin(&client, "", false).await;
    body.send_data("a".into(), false).unwrap();
    until("the stream is open", || stage.exposure.gauges().idle == 0).await;
    stage.exposure.drain();
    let told = async {
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(told).await;
    body.send_data("b".into(), true).unwrap();
    let (answer, _) = http2::collect(soon(response).await.unwrap().into_body())
        .await
        .unwrap();
    assert_eq!(answer, b"origin:ab");
    until("it is over", || stage.exposure.gauges().connections == 0).await;
}

#[tokio::test]
async fn stopped_it_waits_for_what_is_open_and_then_does_not() {
    let stage = Stage::start([everything("ana")], [(laptop("ana"), echo("").await)]).await;
    let (mut finishes, mut stays) = (stage.client().await, stage.client().await);
    for client in [&mut finishes, &mut stays] {
        client.send("\u{1}").await;
        client.exactly(1).await;
    }
    let address = stage.address;
    let stopping = tokio::spawn(stage.exposure.stop(Duration::from_secs(1)));
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(refused).await;
    finishes.send("more").await;
    assert_eq!(finishes.exactly(4).await, b"more");
    drop(finishes);
    assert_eq!(soon(stopping).await.unwrap(), 1);
    assert_eq!(stays.rest().await.unwrap_or_default(), "");
}

#[tokio::test]
async fn stopped_without_connections_it_is_done_at_once() {
    let stage = Stage::start([], []).await;
    let hour = Duration::from_secs(3600);
    assert_eq!(soon(stage.exposure.stop(hour)).await, 0);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_reset() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let places = [(laptop("ana"), echo("").await)];
    let stage = Stage::with_limits([everything("ana")], places, limits).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = stage.client().await;
        client.send("\u{1}").await;
        client.exactly(1).await;
        clients.push(client);
    }
    let mut third = Wire::new(TcpStream::connect(stage.address).await.unwrap());
    assert!(third.rest().await.is_err());
    assert_eq!(stage.exposure.gauges().refused, 1);
    clients.pop();
    until("there is room", || stage.exposure.gauges().connections == 1).await;
    let mut fourth = stage.client().await;
    fourth.send("\u{1}").await;
    fourth.exactly(1).await;
}

#[tokio::test]
async fn records_that_nobody_takes_are_counted() {
    let server = wires(|mut wire| async move {
        loop {
            wire.head().await;
            wire.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await;
    let mut stage = Stage::start([], [(Target::Origin, server)]).await;
    stage.records.close();
    let mut client = stage.client().await;
    for _ in 0..10 {
        client.send(GET).await;
        client.head().await;
    }
    until("all were dropped", || {
        stage.exposure.gauges().records_dropped == 10
    })
    .await;
}
