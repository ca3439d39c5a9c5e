//! Copies for a laptop that only watches: complete, and never in the way.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt as _;
use kvpn_gateway::exposure::{Claim, Counters, Limits, Owner, Record, Share, Target};
use kvpn_wire::exposure::Traffic;
use tokio::sync::Semaphore;

use super::http2;
use super::stage::{Stage, Wire, empty, everything, http, laptop, named, soon, text, until, wires};

fn mirror() -> (Claim, Arc<Counters>) {
    let mut ana = everything("ana");
    ana.traffic = Traffic::Mirror;
    let counters = Arc::clone(&ana.counters);
    (ana, counters)
}

async fn post(client: &mut Wire, body: &str) -> String {
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send(&(head + body)).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    String::from_utf8(client.exactly("origin:".len() + body.len()).await).unwrap()
}

#[tokio::test]
async fn the_origin_answers_and_the_laptop_gets_everything() {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&copies);
    let watcher = http(move |request| {
        let seen = Arc::clone(&seen);
        async move {
            let head = format!("{} {}", request.method(), request.uri());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            seen.lock().unwrap().push((head, body.len()));
            text("nobody reads this")
        }
    })
    .await;
    let (ana, counters) = mirror();
    let places = [
        (laptop("ana"), watcher),
        (Target::Origin, named("origin").await),
    ];
    let mut stage = Stage::start([ana], places).await;
    let mut client = stage.client().await;
    let body = "b".repeat(300 << 10);
    for _ in 0..20 {
        assert!(post(&mut client, &body).await.starts_with("origin:bbb"));
    }
    client
        .send("GET /empty HTTP/1.1\r\nHost: web\r\n\r\n")
        .await;
    client.head().await;
    assert_eq!(client.exactly(7).await, b"origin:");
    until("all copies have arrived", || {
        counters.counts().requests == 21
    })
    .await;
    let mut copies = copies.lock().unwrap().clone();
    copies.sort_unstable();
    assert_eq!(copies.remove(0), ("GET /empty".to_owned(), 0));
    assert_eq!(copies, vec![("POST /x".to_owned(), body.len()); 20]);
    let counts = counters.counts();
    assert_eq!((counts.errors, counts.copies_dropped), (0, 0));
    assert_eq!(stage.exposure.origin().requests, 21);
    let (mut copied, mut served) = (0, 0);
    for _ in 0..42 {
        match stage.request_record().await.to {
            Share::Copy(owner) if owner == Owner::new("ana") => copied += 1,
            Share::Origin => served += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((copied, served), (21, 21));
}

#[tokio::test]
async fn a_laptop_that_hangs_does_not_hold_the_origin_up() {
    // It accepts connections and reads nothing.
    let hanging = wires(|wire| async move {
        let _wire = wire;
        std::future::pending::<()>().await;
    })
    .await;
    let (ana, counters) = mirror();
    let limits = Limits {
        mirrors: 8,
        mirror_bytes: 256 << 10,
        ..Limits::default()
    };
    let places = [
        (laptop("ana"), hanging),
        (Target::Origin, named("origin").await),
    ];
    let stage = Stage::with_limits([ana], places, limits).await;
    let mut client = stage.client().await;
    // Far more than the kernel and the copies' room hold.
    let body = "b".repeat(8 << 20);
    for _ in 0..8 {
        assert_eq!(post(&mut client, &body).await.len(), 7 + body.len());
    }
    for _ in 0..92 {
        assert_eq!(post(&mut client, "small").await, "origin:small");
    }
    let origin = stage.exposure.origin();
    assert_eq!((origin.requests, origin.errors), (100, 0));
    // Each large copy was given up for lack of room.
    until("copies were dropped", || {
        counters.counts().copies_dropped >= 8
    })
    .await;
}

/// Its copies wait for each other; none is missing in the end.
#[tokio::test]
async fn a_laptop_slower_than_the_origin_gets_everything_later() {
    let turn = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&turn);
    let slow = http(move |_| {
        let waits = Arc::clone(&waits);
        async move {
            waits.acquire().await.unwrap().forget();
            text("at last")
        }
    })
    .await;
    let (ana, counters) = mirror();
    let limits = Limits {
        mirrors: 2,
        ..Limits::default()
    };
    let places = [
        (laptop("ana"), slow),
        (Target::Origin, named("origin").await),
    ];
    let stage = Stage::with_limits([ana], places, limits).await;
    let mut client = stage.client().await;
    for _ in 0..200 {
        assert_eq!(post(&mut client, "b").await, "origin:b");
    }
    assert_eq!(counters.counts().copies_dropped, 0);
    turn.add_permits(200);
    until("all copies have arrived", || {
        counters.counts().requests == 200
    })
    .await;
    assert_eq!(counters.counts().errors, 0);
    assert_eq!(stage.places.dials(&laptop("ana")), 2);
}

#[tokio::test]
async fn a_laptop_that_refuses_is_not_noticed() {
    let (ana, counters) = mirror();
    let stage = Stage::start([ana], [(Target::Origin, named("origin").await)]).await;
    let mut client = stage.client().await;
    for _ in 0..10 {
        assert_eq!(post(&mut client, "b").await, "origin:b");
    }
    until("the copies failed", || counters.counts().errors == 10).await;
    assert_eq!(stage.exposure.origin().errors, 0);
}

#[tokio::test]
async fn upgrades_have_no_copy() {
    let origin = wires(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
            .await;
        drop(wire.rest().await);
    })
    .await;
    let (ana, _) = mirror();
    let places = [
        (laptop("ana"), named("ana").await),
        (Target::Origin, origin),
    ];
    let mut stage = Stage::start([ana], places).await;
    let mut client = stage.client().await;
    client
        .send("GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    drop(client);
    stage.request_record().await;
    assert!(matches!(stage.record().await, Record::Connection(_)));
    assert_eq!(stage.places.dials(&laptop("ana")), 0);
}

#[tokio::test]
async fn streams_are_copied_with_their_trailers() {
    let (seen_tx, mut seen_rx) = tokio::sync::mpsc::unbounded_channel();
    let watcher = http(move |request| {
        let seen_tx = seen_tx.clone();
        async move {
            let whole = request.into_body().collect().await.unwrap();
            let trailers = whole.trailers().cloned();
            seen_tx.send((whole.to_bytes(), trailers)).unwrap();
            http::Response::new(empty())
        }
    })
    .await;
    let (ana, _) = mirror();
    let places = [
        (laptop("ana"), watcher),
        (Target::Origin, named("origin").await),
    ];
    let stage = Stage::start([ana], places).await;
    let client = http2::connect(stage.address).await;
    for number in 0..10 {
        let (response, mut body) = http2::begin(&client, "", false).await;
        body.send_data(format!("{number}").into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-number", number.into());
        body.send_trailers(trailers.clone()).unwrap();
        let body = soon(response).await.unwrap().into_body();
        let (answer, _) = http2::collect(body).await.unwrap();
        assert_eq!(
            String::from_utf8(answer).unwrap(),
            format!("origin:{number}")
        );
        let copy = soon(seen_rx.recv()).await.unwrap();
        assert_eq!(copy, (Bytes::from(number.to_string()), Some(trailers)));
    }
    assert_eq!(stage.places.dials(&laptop("ana")), 1);
}
