//! A stand-in API server on the loopback, and kubeconfigs that lead to it. Tests only.

use crate::{Cluster, KubeOptions};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

/// A request as the stand-in saw it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) token: Option<String>,
    pub(crate) body: Value,
}

impl Asked {
    /// `GET /api/v1/pods`.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub(crate) fn is_watch(&self) -> bool {
        self.query.contains("watch=true")
    }
}

/// What the stand-in answers.
pub(crate) enum Answer {
    Json(u16, Value),
    Text(&'static str),
    /// A watch: these events, then silence.
    Events(Vec<Value>),
    /// Nothing, ever.
    Silence,
    /// A WebSocket, given to this function.
    WebSocket(fn(ServerSocket) -> JoinHandle<()>),
}

/// The server's end of a WebSocket.
pub(crate) type ServerSocket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

type Respond = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A stand-in API server; ends with the test's runtime.
pub(crate) struct FakeApi {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    directory: tempfile::TempDir,
}

impl FakeApi {
    pub(crate) async fn start(respond: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (respond, seen): (Arc<Respond>, _) = (Arc::new(respond), asked.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, respond.clone(), seen.clone()));
            }
        });
        Self {
            url,
            asked,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A cluster whose user has a token.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::load(&self.options(json!({ "token": "secret" }))).unwrap()
    }

    /// Options with a kubeconfig whose user is `user`.
    pub(crate) fn options(&self, user: Value) -> KubeOptions {
        let file = self.directory.path().join("config");
        fs::write(&file, kubeconfig(&self.url, user).to_string()).unwrap();
        KubeOptions {
            kubeconfig: Some(file),
            ..KubeOptions::default()
        }
    }

    /// A file beside the kubeconfig.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.directory.path().join(name);
        fs::write(&file, text).unwrap();
        file
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// A kubeconfig with one of each, all called `test`.
pub(crate) fn kubeconfig(server: &str, user: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": server } }],
        "users": [{ "name": "ana", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "ana", "namespace": "demo" } }],
    })
}

/// A failure as the API server words it.
pub(crate) fn failure(code: u16, message: &str) -> Answer {
    let reason = if code == 404 { "NotFound" } else { "" };
    Answer::Json(
        code,
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": reason,
        }),
    )
}

/// RBAC's refusal.
pub(crate) fn forbidden() -> Answer {
    failure(403, r#"x is forbidden: User "ana" cannot do that"#)
}

/// A list of objects.
pub(crate) fn list(items: Value) -> Answer {
    Answer::Json(
        200,
        json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "7" }, "items": items }),
    )
}

async fn serve(socket: TcpStream, respond: Arc<Respond>, seen: Arc<Mutex<Vec<Asked>>>) {
    let service = service_fn(|request| answer(request, respond.clone(), seen.clone()));
    // A client that hangs up is not the stand-in's trouble.
    http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await
        .ok();
}

async fn answer(
    mut request: Request<Incoming>,
    respond: Arc<Respond>,
    seen: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let body = request.body_mut().collect().await.unwrap().to_bytes();
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let asked = Asked {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        token: header("authorization"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    seen.lock().unwrap().push(asked.clone());
    Ok(match respond(&asked) {
        Answer::Json(code, value) => {
            response(code, Full::new(Bytes::from(value.to_string())).boxed())
        }
        Answer::Text(text) => response(200, Full::new(Bytes::from_static(text.as_bytes())).boxed()),
        Answer::Events(events) => {
            let frames = events
                .into_iter()
                .map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
            response(
                200,
                BodyExt::boxed(StreamBody::new(
                    stream::iter(frames).chain(stream::pending()),
                )),
            )
        }
        Answer::Silence => std::future::pending().await,
        Answer::WebSocket(serve) => upgrade(request, serve),
    })
}

fn response(code: u16, body: BoxBody<Bytes, Infallible>) -> Response<BoxBody<Bytes, Infallible>> {
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

fn upgrade(
    request: Request<Incoming>,
    serve: fn(ServerSocket) -> JoinHandle<()>,
) -> Response<BoxBody<Bytes, Infallible>> {
    let accept = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
    tokio::spawn(async move {
        let socket = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        // The function spawns what it does; nobody waits for it here.
        drop(serve(
            WebSocketStream::from_raw_socket(socket, Role::Server, None).await,
        ));
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .header("sec-websocket-protocol", "v4.channel.k8s.io")
        .body(Full::default().boxed())
        .unwrap()
}
