//! gRPC by tonic on both sides: the four kinds of calls, matched and not, on one connection.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _};
use futures::stream::{BoxStream, StreamExt as _, iter};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kvpn_gateway::exposure::Target;
use tokio::net::TcpListener;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use super::stage::{Stage, claim, everything, laptop, soon};

/// Messages that are text, so that no schema compiler is needed.
#[derive(Debug, Clone, Copy, Default)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        let text = String::from_utf8(bytes.to_vec());
        text.map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

type Answers = BoxStream<'static, Result<String, Status>>;

/// Says its name and what it was asked, in each of the four ways.
async fn serve(
    name: &'static str,
    request: http::Request<Incoming>,
) -> http::Response<tonic::body::Body> {
    let path = request.uri().path().to_owned();
    let mut server = tonic::server::Grpc::new(Text);
    match path.as_str() {
        "/test.Echo/Unary" => {
            let call = move |request: Request<String>| async move {
                let text = request.into_inner();
                if text == "fail" {
                    return Err(Status::data_loss(format!("{name} lost it")));
                }
                let mut response = Response::new(format!("{name}:{text}"));
                response
                    .metadata_mut()
                    .insert("x-from", name.parse().unwrap());
                Ok(response)
            };
            server.unary(tower::service_fn(call), request).await
        }
        "/test.Echo/Client" => {
            let call = move |request: Request<Streaming<String>>| async move {
                let texts: Vec<_> = request.into_inner().map(Result::unwrap).collect().await;
                Ok(Response::new(format!("{name}:{}", texts.join(","))))
            };
            server
                .client_streaming(tower::service_fn(call), request)
                .await
        }
        "/test.Echo/Server" => {
            let call = move |request: Request<String>| async move {
                let text = request.into_inner();
                let answers = (0..10).map(move |number| Ok(format!("{name}:{text}{number}")));
                Ok(Response::new(iter(answers).boxed() as Answers))
            };
            server
                .server_streaming(tower::service_fn(call), request)
                .await
        }
        "/test.Echo/Both" => {
            let call = move |request: Request<Streaming<String>>| async move {
                let answers = request
                    .into_inner()
                    .map(move |text| text.map(|text| format!("{name}:{text}")));
                Ok(Response::new(answers.boxed() as Answers))
            };
            server.streaming(tower::service_fn(call), request).await
        }
        path => panic!("{path}"),
    }
}

async fn server(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request| async move {
                Ok::<_, Infallible>(serve(name, request).await)
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn channel(stage: &Stage) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", stage.address)).unwrap();
    endpoint.connect().await.unwrap()
}

async fn client(channel: &Channel) -> Grpc<Channel> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    client
}

fn marked<T>(dev: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !dev.is_empty() {
        request.metadata_mut().insert("x-dev", dev.parse().unwrap());
    }
    request
}

fn method(name: &'static str) -> http::uri::PathAndQuery {
    http::uri::PathAndQuery::from_static(name)
}

/// All four kinds of calls for `dev`, answered by `name`.
async fn call_all(channel: Channel, dev: &'static str, name: &'static str) {
    let mut grpc = client(&channel).await;
    let unary =
        grpc.unary::<String, String, _>(marked(dev, "hi".into()), method("/test.Echo/Unary"), Text);
    let response = soon(unary).await.unwrap();
    assert_eq!(response.metadata().get("x-from").unwrap(), name);
    assert_eq!(response.into_inner(), format!("{name}:hi"));

    let texts = iter(["a", "b", "c"].map(str::to_owned));
    let mut grpc = client(&channel).await;
    let sent = grpc.client_streaming::<_, String, String, _>(
        marked(dev, texts),
        method("/test.Echo/Client"),
        Text,
    );
    assert_eq!(
        soon(sent).await.unwrap().into_inner(),
        format!("{name}:a,b,c")
    );

    let mut grpc = client(&channel).await;
    let call = grpc.server_streaming::<String, String, _>(
        marked(dev, "n".into()),
        method("/test.Echo/Server"),
        Text,
    );
    let answers: Vec<_> = soon(call)
        .await
        .unwrap()
        .into_inner()
        .map(Result::unwrap)
        .collect()
        .await;
    let expected: Vec<_> = (0..10).map(|number| format!("{name}:n{number}")).collect();
    assert_eq!(answers, expected);

    // The next message is sent when the one before has been answered.
    let (text_tx, text_rx) = futures::channel::mpsc::unbounded();
    let mut grpc = client(&channel).await;
    let call = grpc.streaming::<_, String, String, _>(
        marked(dev, text_rx),
        method("/test.Echo/Both"),
        Text,
    );
    let mut answers = soon(call).await.unwrap().into_inner();
    for number in 0..20 {
        text_tx.unbounded_send(number.to_string()).unwrap();
        let answer = soon(answers.message()).await.unwrap();
        assert_eq!(answer.unwrap(), format!("{name}:{number}"));
    }
    drop(text_tx);
    assert_eq!(soon(answers.message()).await.unwrap(), None);
}

#[tokio::test]
async fn calls_of_one_connection_go_where_they_belong() {
    let places = [
        (laptop("ana"), server("ana").await),
        (Target::Origin, server("origin").await),
    ];
    let stage = Stage::start([claim("ana")], places).await;
    let channel = channel(&stage).await;
    let mut running = Vec::new();
    for _ in 0..20 {
        running.push(tokio::spawn(call_all(channel.clone(), "ana", "ana")));
        running.push(tokio::spawn(call_all(channel.clone(), "", "origin")));
    }
    for calls in running {
        soon(calls).await.unwrap();
    }
    assert_eq!(stage.exposure.gauges().connections, 1);
    assert_eq!(
        (
            stage.exposure.origin().requests,
            stage.exposure.origin().errors
        ),
        (80, 0)
    );
}

#[tokio::test]
async fn a_status_is_passed_on_whole() {
    let stage = Stage::start([everything("ana")], [(laptop("ana"), server("ana").await)]).await;
    let channel = channel(&stage).await;
    let mut grpc = client(&channel).await;
    let call = grpc.unary::<String, String, _>(
        Request::new("fail".into()),
        method("/test.Echo/Unary"),
        Text,
    );
    let status = soon(call).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DataLoss, "ana lost it")
    );
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_says_why() {
    let mut ana = everything("ana");
    ana.fallback = false;
    let stage = Stage::start([ana], []).await;
    let channel = channel(&stage).await;
    let mut grpc = client(&channel).await;
    let call = grpc.unary::<String, String, _>(
        Request::new("hi".into()),
        method("/test.Echo/Unary"),
        Text,
    );
    let status = soon(call).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("laptop of ana"), "{status:?}");
}
