//! A laptop that fails: the origin serves what can still be served, and the rest is told what happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kvpn_gateway::exposure::{Limits, Owner, Share, Target};
use tokio::time::Instant;

use super::stage::{Place, Stage, claim, everything, laptop, named, wires};

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbody";

#[tokio::test]
async fn a_program_that_does_not_listen_leaves_it_to_the_origin() {
    let ana = claim("ana");
    let counters = Arc::clone(&ana.counters);
    let mut stage = Stage::start([ana], [(Target::Origin, named("origin").await)]).await;
    let mut client = stage.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\nContent-Length: 4\r\n\r\nbody")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(client.exactly(11).await, b"origin:body");
    let record = stage.request_record().await;
    assert_eq!(record.to, Share::Fallback(Owner::new("ana")));
    assert_eq!(
        (record.sent, record.received, record.complete),
        (4, 11, true)
    );
    let counts = counters.counts();
    assert_eq!(
        (counts.fallbacks, counts.requests, counts.errors),
        (1, 0, 0)
    );
    assert_eq!(
        (
            stage.exposure.origin().requests,
            stage.exposure.origin().errors
        ),
        (1, 0)
    );
    // The program comes up: the next request is its own.
    stage
        .places
        .set(laptop("ana"), Place::At(named("ana").await));
    client.send(GET).await;
    client.head().await;
    assert_eq!(client.exactly(4).await, b"ana:");
}

#[tokio::test]
async fn without_fallback_the_answer_says_what_to_check() {
    let mut ana = everything("ana");
    ana.fallback = false;
    let counters = Arc::clone(&ana.counters);
    let mut stage = Stage::start([ana], [(Target::Origin, named("origin").await)]).await;
    let mut client = stage.client().await;
    client.send(POST).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    let body = client.until("\n").await;
    for word in ["kvpn", "shop/web:80", "laptop of ana", "refused", "Check"] {
        assert!(body.contains(word), "{word}: {body}");
    }
    let record = stage.request_record().await;
    assert_eq!(record.status.unwrap(), 502);
    assert_eq!(record.to, Share::Laptop(Owner::new("ana")));
    assert_eq!(
        (counters.counts().errors, stage.exposure.origin().requests),
        (1, 0)
    );
}

#[tokio::test]
async fn an_origin_that_is_gone_is_told_too() {
    let stage = Stage::start([], []).await;
    let mut client = stage.client().await;
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
    let body = client.until("\n").await;
    assert!(
        body.contains("shop/web:80 is taken over") && body.contains("pods"),
        "{body}"
    );
}

#[tokio::test]
async fn a_silent_laptop_is_waited_for_once() {
    let limits = Limits {
        laptop_dial: Duration::from_secs(1),
        ..Limits::default()
    };
    let places = [(Target::Origin, named("origin").await)];
    let stage = Stage::with_limits([claim("ana")], places, limits).await;
    stage.places.set(laptop("ana"), Place::Silent);
    let mut client = stage.client().await;
    let began = Instant::now();
    for _ in 0..3 {
        client.send(GET).await;
        client.head().await;
        assert_eq!(client.exactly(7).await, b"origin:");
    }
    // The second and the third come right after: nobody dials in vain again.
    let dials = stage.places.dials(&laptop("ana"));
    assert!(began.elapsed() >= limits.laptop_dial);
    assert!(
        dials == 1 || began.elapsed() > Duration::from_secs(3),
        "{dials} dials"
    );
}

/// A server that reads `length` bytes of each first request and closes.
async fn closes_after(length: usize) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let address = wires(move |mut wire| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            wire.head().await;
            wire.exactly(length).await;
        }
    })
    .await;
    (address, seen)
}

#[tokio::test]
async fn what_the_laptop_may_have_done_is_not_done_again() {
    for (request, body, status) in [
        // Nothing but a head, of a request that may be repeated.
        (GET, 0, "200"),
        // The same, of one that may not.
        (
            "POST / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\nContent-Length: 0\r\n\r\n",
            0,
            "502",
        ),
        // A body that is gone.
        (
            "PUT / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\nContent-Length: 4\r\n\r\nbody",
            4,
            "502",
        ),
    ] {
        let (ana, seen) = closes_after(body).await;
        let places = [
            (laptop("ana"), ana),
            (Target::Origin, named("origin").await),
        ];
        let stage = Stage::start([claim("ana")], places).await;
        let mut client = stage.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {head}"
        );
        assert_eq!(seen.load(Ordering::Relaxed), 1, "{request}");
    }
}

#[tokio::test]
async fn a_body_that_was_not_asked_for_goes_to_the_origin_whole() {
    // The laptop closes without asking for the body.
    let (ana, _) = closes_after(0).await;
    let places = [
        (laptop("ana"), ana),
        (Target::Origin, named("origin").await),
    ];
    let stage = Stage::start([claim("ana")], places).await;
    let mut client = stage.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(client.exactly(11).await, b"origin:body");
}

#[tokio::test]
async fn a_connection_that_the_origin_closed_while_idle_is_replaced() {
    // One request a connection, closed without a word after the response.
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let origin = wires(move |mut wire| {
        let count = Arc::clone(&count);
        async move {
            wire.head().await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let stage = Stage::start([], [(Target::Origin, origin)]).await;
    let mut client = stage.client().await;
    for _ in 0..50 {
        client.send(GET).await;
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
    }
    assert_eq!(served.load(Ordering::Relaxed), 50);
}

#[tokio::test]
async fn a_response_that_breaks_off_is_not_made_whole() {
    let server = wires(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            .await;
    })
    .await;
    let places = [
        (laptop("ana"), server),
        (Target::Origin, named("origin").await),
    ];
    let mut stage = Stage::start([claim("ana")], places).await;
    let mut client = stage.client().await;
    client.send(GET).await;
    client.head().await;
    assert_eq!(client.rest().await.unwrap_or_default(), "half");
    let record = stage.request_record().await;
    assert_eq!((record.received, record.complete), (4, false));
}
