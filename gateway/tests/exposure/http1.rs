//! HTTP/1.1: every request where it belongs, and unchanged but for what a proxy has to change.

use std::convert::Infallible;

use futures::StreamExt as _;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use kvpn_gateway::exposure::{Limits, Share, Target};
use kvpn_wire::exposure::{Percent, Rules, Traffic};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::stage::{Stage, Wire, claim, everything, http, laptop, named, soon, wires};

/// Asks over an open connection; the response's body.
async fn ask(client: &mut Wire, request: &str) -> String {
    client.send(request).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let head = head.to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let body = client.exactly(length.unwrap().parse().unwrap()).await;
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn a_thousand_requests_of_three_owners_and_nobody_go_where_they_belong() {
    let names = ["ana", "ben", "eva"];
    let places = [
        (laptop("ana"), named("ana").await),
        (laptop("ben"), named("ben").await),
        (laptop("eva"), named("eva").await),
        (Target::Origin, named("origin").await),
    ];
    let claims = names.map(claim);
    let counters = claims.clone().map(|claim| claim.counters);
    let mut stage = Stage::start(claims, places).await;
    // Four clients, each of whose connections carries requests for everybody, mixed.
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = stage.client().await;
        clients.push(tokio::spawn(async move {
            for request in 0..1000 {
                let who = (request * 7 + number) % 4;
                let (header, expected) = match names.get(who) {
                    Some(name) => (format!("X-Dev: {name}\r\n"), *name),
                    None => (String::new(), "origin"),
                };
                let head = format!("POST /{request} HTTP/1.1\r\nHost: web\r\n{header}");
                let body = format!("{number}.{request}");
                let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
                assert_eq!(
                    ask(&mut client, &request).await,
                    format!("{expected}:{body}")
                );
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    for counter in counters {
        assert_eq!(
            (counter.counts().requests, counter.counts().errors),
            (1000, 0)
        );
    }
    assert_eq!(
        (
            stage.exposure.origin().requests,
            stage.exposure.origin().errors
        ),
        (1000, 0)
    );
    let mut records = Vec::new();
    for _ in 0..4000 {
        records.push(stage.request_record().await);
    }
    let to = |share: Share| records.iter().filter(|record| record.to == share).count();
    let owner = |name| Share::Laptop(kvpn_gateway::exposure::Owner::new(name));
    assert_eq!(names.map(|name| to(owner(name))), [1000; 3]);
    assert_eq!(to(Share::Origin), 1000);
    // Each client's connection keeps one connection to each place.
    for target in [laptop("ana"), laptop("ben"), laptop("eva"), Target::Origin] {
        assert_eq!(stage.places.dials(&target), 4, "{target:?}");
    }
}

#[tokio::test]
async fn a_changed_choice_counts_from_the_next_request_on() {
    let places = [
        (laptop("ana"), named("ana").await),
        (Target::Origin, named("origin").await),
    ];
    let stage = Stage::start([], places).await;
    let mut client = stage.client().await;
    let request = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    assert_eq!(ask(&mut client, request).await, "origin:");
    stage
        .exposure
        .choose(kvpn_gateway::exposure::Choice::new([everything("ana")]));
    assert_eq!(ask(&mut client, request).await, "ana:");
    stage
        .exposure
        .choose(kvpn_gateway::exposure::Choice::default());
    assert_eq!(ask(&mut client, request).await, "origin:");
}

#[tokio::test]
async fn a_weight_is_thrown_for_each_request() {
    let places = [
        (laptop("ana"), named("ana").await),
        (Target::Origin, named("origin").await),
    ];
    for (percent, expected) in [(49, "origin:"), (51, "ana:")] {
        // The dice always show 50.
        let mut light = everything("ana");
        light.traffic = Traffic::Weight(Percent::try_from(percent).unwrap());
        let stage = Stage::start([light], places.clone()).await;
        let request = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
        assert_eq!(ask(&mut stage.client().await, request).await, expected);
    }
}

#[tokio::test]
async fn a_message_is_changed_only_where_a_proxy_must() {
    let (head_tx, mut head_rx) = mpsc::unbounded_channel();
    let server = wires(move |mut wire| {
        let head_tx = head_tx.clone();
        async move {
            head_tx.send(wire.head().await).unwrap();
            wire.send(
                "HTTP/1.1 200 Fine\r\nX-OWN-Case: 1\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\n\
                 Keep-Alive: timeout=9\r\nset-cookie: a\r\nset-cookie: b\r\nContent-Length: 2\r\n\r\nok",
            )
            .await;
            drop(wire.rest().await);
        }
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client
        .send(
            "GET /a%20b?c=d HTTP/1.1\r\nhost: Web.Shop\r\nX-MiXeD: 1\r\nConnection: x-private\r\n\
             X-Private: 1\r\nx-forwarded-for: 1.2.3.4\r\nAccept-Encoding: gzip\r\n\r\n",
        )
        .await;
    let mut lines: Vec<_> = head_rx
        .recv()
        .await
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(lines.remove(0), "GET /a%20b?c=d HTTP/1.1");
    lines.sort_unstable();
    let expected = [
        "",
        "Accept-Encoding: gzip",
        "X-MiXeD: 1",
        "host: Web.Shop",
        "x-forwarded-for: 1.2.3.4, 127.0.0.1",
    ];
    assert_eq!(lines, expected);
    let mut lines: Vec<_> = client.head().await.lines().map(str::to_owned).collect();
    assert_eq!(lines.remove(0), "HTTP/1.1 200 Fine");
    lines.sort_unstable();
    let expected = [
        "",
        "Content-Length: 2",
        "X-OWN-Case: 1",
        "set-cookie: a",
        "set-cookie: b",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_one() {
    let stage = Stage::start([claim("ana")], [(laptop("ana"), named("ana").await)]).await;
    let mut client = stage.client().await;
    let request = "\r\nPOST / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\nContent-Length: 3\r\n\r\nabc";
    for byte in request.chars() {
        client.send(&byte.to_string()).await;
        tokio::task::yield_now().await;
    }
    client.head().await;
    assert_eq!(client.exactly(7).await, b"ana:abc");
}

#[tokio::test]
async fn bodies_keep_their_framing_and_trailers() {
    let server = wires(|mut wire| async move {
        let head = wire.head().await;
        assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
        assert!(
            head.contains("te: trailers\r\n") && head.contains("Trailer: X-Sum\r\n"),
            "{head}"
        );
        let body = wire.until("0\r\n").await;
        assert_eq!(body, "3\r\nabc\r\n0\r\n");
        assert_eq!(wire.head().await.to_lowercase(), "x-sum: 6\r\n\r\n");
        wire.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Back\r\n\r\n\
             2\r\nhi\r\n0\r\nX-Back: 7\r\n\r\n",
        )
        .await;
        drop(wire.rest().await);
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: web\r\nte: trailers\r\nTransfer-Encoding: chunked\r\n\
             Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n",
        )
        .await;
    let head = client.head().await.to_lowercase();
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    assert_eq!(client.until("0\r\n").await, "2\r\nhi\r\n0\r\n");
    assert_eq!(client.head().await.to_lowercase(), "x-back: 7\r\n\r\n");
}

#[tokio::test]
async fn responses_without_a_body_say_what_the_server_said() {
    let server = wires(|mut wire| async move {
        loop {
            let head = wire.head().await;
            let answer = match head.split(' ').nth(1).unwrap() {
                "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n",
                "/chunked-head" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "/none" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/same" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
                path => panic!("{path}"),
            };
            wire.send(answer).await;
        }
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    for (request, status, length) in [
        ("HEAD /head", "200", Some("content-length: 12345")),
        ("HEAD /chunked-head", "200", None),
        ("GET /none", "204", None),
        ("GET /same", "304", None),
        ("HEAD /head", "200", Some("content-length: 12345")),
    ] {
        client
            .send(&format!("{request} HTTP/1.1\r\nHost: web\r\n\r\n"))
            .await;
        let head = client.head().await.to_lowercase();
        assert!(
            head.starts_with(&format!("http/1.1 {status}")),
            "{request}: {head}"
        );
        let found = head.lines().find(|line| line.starts_with("content-length"));
        assert_eq!(found, length, "{request}: {head}");
    }
    assert_eq!(stage.places.dials(&laptop("ana")), 1);
}

#[tokio::test]
async fn http_1_0_is_answered_to_its_end() {
    let server = wires(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let answer = client.rest().await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nuntil the end"), "{answer}");
}

#[tokio::test]
async fn a_body_waits_for_the_server_to_ask_for_it() {
    let (go_tx, go_rx) = tokio::sync::oneshot::channel();
    let go_rx = std::sync::Arc::new(std::sync::Mutex::new(Some(go_rx)));
    let server = wires(move |mut wire| {
        let go_rx = go_rx.lock().unwrap().take();
        async move {
            let head = wire.head().await;
            assert!(head.contains("Expect: 100-continue\r\n"), "{head}");
            go_rx.unwrap().await.unwrap();
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(wire.exactly(4).await, b"body");
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            drop(wire.rest().await);
        }
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    go_tx.send(()).unwrap();
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_body_that_the_server_does_not_want_is_not_asked_for() {
    let server = wires(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno\n")
            .await;
        // Nothing follows but the end.
        assert_eq!(wire.rest().await.unwrap(), "");
    })
    .await;
    let mut stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: web\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    assert!(
        client
            .head()
            .await
            .starts_with("HTTP/1.1 413 Too Large\r\n")
    );
    assert_eq!(client.exactly(3).await, b"no\n");
    assert_eq!(stage.request_record().await.sent, 0);
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    // The server sends the next event only when the client has read the one before.
    let (event_tx, event_rx) = mpsc::unbounded_channel::<String>();
    let event_rx = std::sync::Arc::new(std::sync::Mutex::new(Some(event_rx)));
    let server = http(move |_| {
        let event_rx = event_rx.lock().unwrap().take().unwrap();
        async move {
            let events = futures::stream::unfold(event_rx, |mut event_rx| async {
                let event = event_rx.recv().await?;
                let frame = Frame::data(Bytes::from(event));
                Some((Ok::<_, Infallible>(frame), event_rx))
            });
            let body = StreamBody::new(events.boxed()).map_err(|never| match never {});
            let body = body.boxed_unsync();
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(body)
                .unwrap()
        }
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client
        .send("GET /events HTTP/1.1\r\nHost: web\r\n\r\n")
        .await;
    client.head().await;
    for number in 0..10 {
        let event = format!("data: {number}\n\n");
        event_tx.send(event.clone()).unwrap();
        assert!(client.until(&event).await.ends_with(&event));
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let places = [
        (laptop("ana"), named("ana").await),
        (Target::Origin, named("origin").await),
    ];
    let stage = Stage::start([claim("ana")], places).await;
    let mut client = stage.client().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\nContent-Length: 1\r\n\r\n1\
             POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\n\r\n2\
             POST / HTTP/1.1\r\nHost: web\r\nx-dev: ana\r\nContent-Length: 1\r\n\r\n3",
        )
        .await;
    for expected in ["ana:1", "origin:2", "ana:3"] {
        client.head().await;
        assert_eq!(client.exactly(expected.len()).await, expected.as_bytes());
    }
}

#[tokio::test]
async fn paths_methods_and_expressions_choose() {
    let mut ana = everything("ana");
    ana.traffic = Traffic::Match(Rules {
        paths: vec!["/api".parse().unwrap()],
        methods: vec!["POST".parse().unwrap()],
        headers: vec!["baggage=~dev=ana".parse().unwrap()],
    });
    let places = [
        (laptop("ana"), named("ana").await),
        (Target::Origin, named("origin").await),
    ];
    let stage = Stage::start([ana], places).await;
    let mut client = stage.client().await;
    for (method, path, baggage, expected) in [
        ("POST", "/api/x", "a=b,dev=ana", "ana:"),
        ("GET", "/api/x", "a=b,dev=ana", "origin:"),
        ("POST", "/apix", "a=b,dev=ana", "origin:"),
        ("POST", "/api/x", "a=b", "origin:"),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: web\r\nBaggage: {baggage}\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!(ask(&mut client, &request).await, expected, "{request}");
    }
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let limits = Limits {
        header_bytes: 16 << 10,
        ..Limits::default()
    };
    let places = [(laptop("ana"), named("ana").await)];
    let stage = Stage::with_limits([everything("ana")], places, limits).await;
    let fitting = "a".repeat(12 << 10);
    let request = format!("GET / HTTP/1.1\r\nHost: web\r\nX: {fitting}\r\n\r\n");
    assert_eq!(ask(&mut stage.client().await, &request).await, "ana:");
    let beyond = "a".repeat(20 << 10);
    let mut client = stage.client().await;
    client
        .send(&format!(
            "GET / HTTP/1.1\r\nHost: web\r\nX: {beyond}\r\n\r\n"
        ))
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    let (gone_tx, mut gone_rx) = mpsc::unbounded_channel();
    let server = wires(move |mut wire| {
        let gone_tx = gone_tx.clone();
        async move {
            wire.head().await;
            drop(wire.rest().await);
            gone_tx.send(()).unwrap();
        }
    })
    .await;
    let mut stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = stage.client().await;
    client.send("GET /slow HTTP/1.1\r\nHost: web\r\n\r\n").await;
    super::stage::until("the request is under way", || {
        stage.places.dials(&laptop("ana")) == 1
    })
    .await;
    drop(client);
    soon(gone_rx.recv()).await.unwrap();
    let record = stage.request_record().await;
    assert_eq!((record.status, record.complete), (None, false));
}

#[tokio::test]
async fn trailers_of_a_response_are_for_those_who_want_them() {
    let server = http(|_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        let frames = [
            Ok(Frame::data(Bytes::from("a"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        Response::builder()
            .header("trailer", "x-sum")
            .body(body)
            .unwrap()
    })
    .await;
    let mut stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    for (te, expected) in [("te: trailers\r\n", "X-Sum: 1\r\n\r\n"), ("", "\r\n")] {
        let stream = TcpStream::connect(stage.address).await.unwrap();
        let mut client = Wire::new(stream);
        client
            .send(&format!(
                "GET / HTTP/1.1\r\nHost: web\r\n{te}Connection: close\r\n\r\n"
            ))
            .await;
        client.until("0\r\n").await;
        assert_eq!(client.rest().await.unwrap(), expected);
        assert!(stage.request_record().await.complete);
    }
}
