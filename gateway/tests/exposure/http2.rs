//! HTTP/2 with prior knowledge: each stream where it belongs, with its trailers, its pace and its end.

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use kvpn_gateway::exposure::{Share, Target};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::stage::{Stage, claim, everything, laptop, named, soon, wires};

type Stream = (Request<RecvStream>, SendResponse<Bytes>);

/// An HTTP/2 server that treats each stream by hand.
async fn streams<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(Stream) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let serve = serve.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok(stream)) = connection.accept().await {
                    tokio::spawn(serve(stream));
                }
            });
        }
    });
    address
}

pub(crate) async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client.ready().await.unwrap()
}

pub(crate) async fn begin(
    client: &SendRequest<Bytes>,
    dev: &str,
    ends: bool,
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut request = Request::post("http://web/svc/Method");
    if !dev.is_empty() {
        request = request.header("x-dev", dev);
    }
    let mut client = soon(client.clone().ready()).await.unwrap();
    client
        .send_request(request.body(()).unwrap(), ends)
        .unwrap()
}

pub(crate) async fn collect(
    mut body: RecvStream,
) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut whole = Vec::new();
    while let Some(data) = soon(body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len()).unwrap();
        whole.extend_from_slice(&data);
    }
    Ok((whole, soon(body.trailers()).await?))
}

#[tokio::test]
async fn a_thousand_streams_of_one_connection_go_four_ways() {
    let places = [
        (laptop("ana"), named("ana").await),
        (laptop("ben"), named("ben").await),
        (laptop("eva"), named("eva").await),
        (Target::Origin, named("origin").await),
    ];
    let claims = ["ana", "ben", "eva"].map(claim);
    let counters = claims.clone().map(|claim| claim.counters);
    let stage = Stage::start(claims, places).await;
    let client = connect(stage.address).await;
    // Its settings have come with the first response: from now on the client knows how many streams it may open.
    let (first, _) = begin(&client, "", true).await;
    soon(first).await.unwrap();
    let mut running = Vec::new();
    for number in 0..1000 {
        let dev = ["ana", "ben", "eva", ""][number % 4];
        let client = client.clone();
        running.push(tokio::spawn(async move {
            let (response, mut body) = begin(&client, dev, false).await;
            body.send_data(number.to_string().into(), true).unwrap();
            let (answer, _) = collect(soon(response).await.unwrap().into_body())
                .await
                .unwrap();
            let name = if dev.is_empty() { "origin" } else { dev };
            assert_eq!(
                String::from_utf8(answer).unwrap(),
                format!("{name}:{number}")
            );
        }));
    }
    for stream in running {
        soon(stream).await.unwrap();
    }
    assert_eq!(
        counters.map(|counters| counters.counts().requests),
        [250; 3]
    );
    assert_eq!(stage.exposure.origin().requests, 251);
    // One connection to each.
    for target in [laptop("ana"), laptop("ben"), laptop("eva"), Target::Origin] {
        assert_eq!(stage.places.dials(&target), 1, "{target:?}");
    }
}

#[tokio::test]
async fn trailers_and_large_headers_pass_both_ways() {
    let server = streams(|(request, mut respond)| async move {
        let (head, body) = request.into_parts();
        assert_eq!(head.uri, "http://web/svc/Method");
        let (data, trailers) = collect(body).await.unwrap();
        assert_eq!(
            (data.as_slice(), &trailers.unwrap()["x-sum"]),
            (&b"abc"[..], &HeaderValue::from_static("1"))
        );
        let large = head.headers["x-large"].clone();
        let response = Response::builder()
            .header("x-large", large)
            .body(())
            .unwrap();
        let mut body = respond.send_response(response, false).unwrap();
        body.send_data("de".into(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        body.send_trailers(trailers).unwrap();
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let mut client = connect(stage.address).await;
    let large = "l".repeat(40 << 10);
    let request = Request::post("http://web/svc/Method").header("x-large", &large);
    let (response, mut body) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    body.send_data("abc".into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(response.headers()["x-large"], large);
    let (data, trailers) = collect(response.into_body()).await.unwrap();
    assert_eq!(
        (data.as_slice(), &trailers.unwrap()["grpc-status"]),
        (&b"de"[..], &HeaderValue::from_static("0"))
    );
}

#[tokio::test]
async fn a_reset_by_the_server_keeps_its_reason() {
    let server = streams(|(request, mut respond)| async move {
        if request.uri().path() == "/svc/Method" && request.headers().contains_key("x-early") {
            return respond.send_reset(Reason::ENHANCE_YOUR_CALM);
        }
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data("part".into(), false).unwrap();
        // The part is on its way before the reset: h2 drops what waits behind one.
        collect(request.into_body()).await.unwrap();
        body.send_reset(Reason::INADEQUATE_SECURITY);
    })
    .await;
    let places = [
        (laptop("ana"), server),
        (Target::Origin, named("origin").await),
    ];
    let mut stage = Stage::start([everything("ana")], places).await;
    let mut client = connect(stage.address).await;
    let request = Request::post("http://web/svc/Method")
        .header("x-early", "1")
        .body(())
        .unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let error = soon(response).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.is_reset()),
        (Some(Reason::ENHANCE_YOUR_CALM), true)
    );
    assert_eq!(stage.request_record().await.status, None);
    let (response, mut sender) = begin(&client, "", false).await;
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), "part");
    sender.send_data(Bytes::new(), true).unwrap();
    let error = soon(body.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INADEQUATE_SECURITY));
    assert!(!stage.request_record().await.complete);
}

#[tokio::test]
async fn a_reset_by_the_client_reaches_the_server() {
    let (reason_tx, mut reason_rx) = mpsc::unbounded_channel();
    let server = streams(move |(request, mut respond)| {
        let reason_tx = reason_tx.clone();
        async move {
            let mut body = request.into_body();
            if let Some(data) = body.data().await {
                data.unwrap();
                let _response = respond.send_response(Response::new(()), false).unwrap();
                let error = collect(body).await.unwrap_err();
                return reason_tx.send(error.reason().unwrap()).unwrap();
            }
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            reason_tx.send(reason).unwrap();
        }
    })
    .await;
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server)]).await;
    let client = connect(stage.address).await;
    // While it sends and receives.
    let (response, mut body) = begin(&client, "", false).await;
    body.send_data("a".into(), false).unwrap();
    let response = soon(response).await.unwrap();
    body.send_reset(Reason::ENHANCE_YOUR_CALM);
    assert_eq!(
        soon(reason_rx.recv()).await,
        Some(Reason::ENHANCE_YOUR_CALM)
    );
    drop(response);
    // While it waits for the answer.
    let (response, mut body) = begin(&client, "", true).await;
    super::stage::until("the second stream", || stage.exposure.gauges().idle == 0).await;
    body.send_reset(Reason::CANCEL);
    assert_eq!(soon(reason_rx.recv()).await, Some(Reason::CANCEL));
    drop(response);
}

#[tokio::test]
async fn a_stream_that_the_laptop_refuses_goes_to_the_origin() {
    let server = streams(|(_, mut respond)| async move {
        respond.send_reset(Reason::REFUSED_STREAM);
    })
    .await;
    let places = [
        (laptop("ana"), server),
        (Target::Origin, named("origin").await),
    ];
    let mut stage = Stage::start([everything("ana")], places).await;
    let client = connect(stage.address).await;
    let (response, _) = begin(&client, "", true).await;
    let (answer, _) = collect(soon(response).await.unwrap().into_body())
        .await
        .unwrap();
    assert_eq!(answer, b"origin:");
    assert!(matches!(
        stage.request_record().await.to,
        Share::Fallback(_)
    ));
}

#[tokio::test]
async fn a_laptop_without_http2_leaves_it_to_the_origin() {
    // What a server of HTTP/1.1 alone says to the preface.
    let server = wires(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            .await;
    })
    .await;
    let places = [
        (laptop("ana"), server),
        (Target::Origin, named("origin").await),
    ];
    let stage = Stage::start([everything("ana")], places).await;
    let client = connect(stage.address).await;
    let mut request = Request::get("http://web/").body(()).unwrap();
    *request.version_mut() = http::Version::HTTP_2;
    let (response, _) = client.clone().send_request(request, true).unwrap();
    let (answer, _) = collect(soon(response).await.unwrap().into_body())
        .await
        .unwrap();
    assert_eq!(answer, b"origin:");
}

#[tokio::test]
async fn a_server_that_does_not_read_stops_the_client() {
    let (read_tx, read_rx) = tokio::sync::watch::channel(false);
    let server = streams(move |(request, mut respond)| {
        let mut read_rx = read_rx.clone();
        async move {
            read_rx.wait_for(|read| *read).await.unwrap();
            let (data, _) = collect(request.into_body()).await.unwrap();
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(data.len().to_string().into(), true).unwrap();
        }
    })
    .await;
    let places = [
        (laptop("ana"), server),
        (Target::Origin, named("origin").await),
    ];
    let stage = Stage::start([claim("ana")], places).await;
    let client = connect(stage.address).await;
    let (response, mut body) = begin(&client, "ana", false).await;
    let mut sent = 0;
    let block = Bytes::from(vec![1; 16 << 10]);
    body.reserve_capacity(block.len());
    // Until nothing goes any more: what is under way then is bounded by the windows.
    while let Ok(room) =
        tokio::time::timeout(STANDSTILL, poll_fn(|cx| body.poll_capacity(cx))).await
    {
        let room = room.unwrap().unwrap().min(block.len());
        body.send_data(block.slice(..room), false).unwrap();
        sent += room;
        assert!(sent < 8 << 20, "{sent} bytes are under way");
        body.reserve_capacity(block.len());
    }
    // Another stream of the same connection is not held up.
    let (other, _) = begin(&client, "", true).await;
    let (answer, _) = collect(soon(other).await.unwrap().into_body())
        .await
        .unwrap();
    assert_eq!(answer, b"origin:");
    body.reserve_capacity(0);
    read_tx.send(true).unwrap();
    body.send_data(Bytes::new(), true).unwrap();
    let (answer, _) = collect(soon(response).await.unwrap().into_body())
        .await
        .unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), sent.to_string());
}

#[tokio::test]
async fn a_server_that_goes_away_is_connected_to_again() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    // One stream a connection.
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            connection.graceful_shutdown();
            respond.send_response(Response::new(()), true).unwrap();
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
        }
    });
    let stage = Stage::start([everything("ana")], [(laptop("ana"), address)]).await;
    let client = connect(stage.address).await;
    for _ in 0..20 {
        let (response, _) = begin(&client, "", true).await;
        assert_eq!(soon(response).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn connect_over_http2_is_not_offered() {
    let stage = Stage::start([], [(Target::Origin, named("origin").await)]).await;
    let mut client = connect(stage.address).await;
    let request = Request::connect("db:5432").body(()).unwrap();
    let (response, _body) = client.send_request(request, false).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), 501);
}

/// Nothing moves on loopback for so long only because nobody reads.
const STANDSTILL: std::time::Duration = std::time::Duration::from_secs(1);
