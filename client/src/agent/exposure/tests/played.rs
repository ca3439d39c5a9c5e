//! A cluster of one namespace and one gateway, played.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kvpn_k8s::{Cluster, ExposureWish, Inspection, KubeOptions};
use kvpn_wire::exposure::Traffic;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::agent::board::Board;
use crate::agent::driver::{Command, Handle};
use crate::agent::exposure::exposing::Exposing;
use crate::agent::session::Peer;
use crate::agent::stack::Stack;

/// What everybody sees.
#[derive(Default)]
struct Stage {
    services: BTreeMap<String, Value>,
    version: u64,
    written: Vec<String>,
    away: bool,
    refusal: Option<(u16, Value)>,
}

/// The play.
#[derive(Clone)]
pub(super) struct Played {
    stage: Arc<Mutex<Stage>>,
    cluster: Cluster,
    driver: Handle,
    _home: Arc<tempfile::TempDir>,
}

impl Played {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let stage = Arc::new(Mutex::new(Stage::default()));
        stage.lock().unwrap().put(
            "web",
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "web", "namespace": "demo", "uid": "u1", "annotations": {} },
                "spec": { "type": "ClusterIP", "selector": { "app": "web" },
                    "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http" }] },
            }),
        );
        let (command_tx, command_rx) = mpsc::channel(64);
        tokio::spawn(drive(command_rx, Arc::clone(&stage)));
        let api = Arc::clone(&stage);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&api), Stage::api));
            }
        });
        let home = tempfile::tempdir().unwrap();
        let kubeconfig = home.path().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "c", "namespace": "demo" } }],
            "clusters": [{ "name": "c", "cluster": { "server": server } }],
            "users": [{ "name": "c", "user": {} }]
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        let options = KubeOptions {
            kubeconfig: Some(kubeconfig),
            ..KubeOptions::default()
        };
        Self {
            stage,
            cluster: Cluster::load(&options).unwrap(),
            driver: Handle::new(command_tx),
            _home: Arc::new(home),
        }
    }

    /// What was written, and asked of the gateway, since this was asked last.
    pub(super) fn written(&self) -> Vec<String> {
        std::mem::take(&mut self.stage.lock().unwrap().written)
    }

    pub(super) fn service(&self, name: &str) -> Option<Value> {
        self.stage.lock().unwrap().services.get(name).cloned()
    }

    /// Somebody else's change.
    pub(super) fn edit(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut service = self.service(name).unwrap();
        edit(&mut service);
        self.stage.lock().unwrap().put(name, service);
    }

    pub(super) fn remove(&self, name: &str) {
        self.stage.lock().unwrap().services.remove(name);
    }

    pub(super) fn api_is_away(&self) {
        self.stage.lock().unwrap().away = true;
    }

    pub(super) fn gateway_answers(&self, status: u16, body: Value) {
        self.stage.lock().unwrap().refusal = Some((status, body));
    }

    fn wish(ports: &str, traffic: Traffic) -> ExposureWish {
        ExposureWish {
            namespace: "demo".into(),
            service: "web".into(),
            ports: vec![ports.parse().unwrap()],
            traffic,
            fallback: true,
            proxy_protocol: false,
            owner: "ana@laptop".into(),
            gateway: "kvpn-gateway-0".into(),
        }
    }

    pub(super) async fn inspect(&self, ports: &str, traffic: Traffic) -> Inspection {
        let wish = Self::wish(ports, traffic);
        self.cluster.inspect_service(&wish).await.unwrap()
    }

    /// An exposure that was looked at, with its session.
    pub(super) async fn exposing(&self, ports: &str, traffic: Traffic) -> Exposing {
        let inspection = self.inspect(ports, traffic.clone()).await;
        let (_, peer_rx) = watch::channel(peer());
        let stack = Stack::played(self.driver.clone(), "f1", peer_rx);
        let report = json!({
            "name": "a", "state": "connecting", "context": "c", "namespace": "demo", "server": "s", "pid": 1, "log": "/l"
        });
        let board = Arc::new(Board::new(serde_json::from_value(report).unwrap()));
        let wish = Self::wish(ports, traffic);
        Exposing::new(self.cluster.clone(), board, stack, wish, inspection, None)
    }
}

fn peer() -> Peer {
    let key = crate::agent::session::new_key().unwrap();
    let grant = json!({
        "version": 1, "sessionId": "s1", "gatewayPublicKey": key.public(), "presharedKey": key.public(),
        "addresses": [{ "gateway": "198.19.0.1", "client": "198.19.0.2", "dnsStub": "198.19.0.3" }],
        "mtu": 1360, "datapath": "userspace", "udpPort": 51820
    });
    Peer {
        gateway: kvpn_k8s::GatewayPod {
            namespace: "demo".to_owned(),
            name: "kvpn-gateway-0".to_owned(),
            uid: "u1".to_owned(),
            node: None,
            host_ips: Vec::new(),
            pod_ips: Vec::new(),
            image: "i".to_owned(),
            version: None,
            datapath: kvpn_k8s::DatapathChoice::Auto,
            ready: true,
        },
        grant: serde_json::from_value(grant).unwrap(),
    }
}

/// The driver: connections lead to the gateway's control API.
async fn drive(mut command_rx: mpsc::Receiver<Command>, stage: Arc<Mutex<Stage>>) {
    while let Some(command) = command_rx.recv().await {
        match command {
            Command::Dial(_, dialled_tx) => {
                let (ours, theirs) = crate::agent::transport::pair().unwrap();
                tokio::spawn(serve(theirs, Arc::clone(&stage), Stage::gateway));
                dialled_tx.send(Ok(ours)).unwrap();
            }
            Command::Expose(ports) => {
                let ports: Vec<String> = ports.iter().map(|(_, port)| port.to_string()).collect();
                let what = if ports.is_empty() {
                    "nothing".to_owned()
                } else {
                    ports.join(" ")
                };
                stage
                    .lock()
                    .unwrap()
                    .written
                    .push(format!("driver exposes {what}"));
            }
            // Nobody answers: there are no flows to wait for.
            _ => {}
        }
    }
}

type Respond = fn(&mut Stage, &str, &str, &Value) -> (u16, Value);

async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
    stage: Arc<Mutex<Stage>>,
    respond: Respond,
) {
    let service = service_fn(|mut request: Request<Incoming>| {
        let stage = Arc::clone(&stage);
        async move {
            let body = request.body_mut().collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let (method, path) = (request.method().as_str(), request.uri().path());
            let (status, answer) = respond(&mut stage.lock().unwrap(), method, path, &body);
            let response = Response::builder()
                .status(status)
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(answer.to_string())));
            Ok::<_, Infallible>(response.unwrap())
        }
    });
    let connection = hyper::server::conn::http1::Builder::new();
    // A client that hangs up is no trouble.
    drop(
        connection
            .serve_connection(TokioIo::new(socket), service)
            .await,
    );
}

impl Stage {
    fn put(&mut self, name: &str, mut service: Value) -> Value {
        self.version += 1;
        service["metadata"]["resourceVersion"] = self.version.to_string().into();
        if service["metadata"]["uid"].is_null() {
            service["metadata"]["uid"] = format!("u{}", self.version).into();
        }
        self.services.insert(name.to_owned(), service.clone());
        service
    }

    /// The API server: Services of one namespace.
    fn api(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        if self.away {
            return refusal(503);
        }
        let Some((_, name)) = path.split_once("/namespaces/demo/services") else {
            return list(path);
        };
        let name = name.trim_start_matches('/');
        match method {
            "GET" => self
                .services
                .get(name)
                .map_or_else(|| refusal(404), |found| (200, found.clone())),
            "POST" => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                self.written.push(format!("POST {name}"));
                (201, self.put(&name, body.clone()))
            }
            "DELETE" => {
                self.written.push(format!("DELETE {name}"));
                self.services
                    .remove(name)
                    .map_or_else(|| refusal(404), |gone| (200, gone))
            }
            _ => self.patch(name, body),
        }
    }

    fn patch(&mut self, name: &str, body: &Value) -> (u16, Value) {
        if body["kind"] == "Service" {
            self.written.push(format!("PATCH {name}"));
            return (200, self.put(name, body.clone()));
        }
        let Some(mut service) = self.services.get(name).cloned() else {
            return refusal(404);
        };
        assert_eq!(
            body["metadata"]["resourceVersion"],
            service["metadata"]["resourceVersion"]
        );
        let parts = [
            ("annotation", &body["metadata"]["annotations"]),
            ("spec", &body["spec"]),
        ];
        let parts: String = parts
            .iter()
            .filter(|(_, part)| !part.is_null())
            .map(|(what, _)| format!(" {what}"))
            .collect();
        self.written.push(format!("PATCH {name}{parts}"));
        merge(&mut service, body);
        (200, self.put(name, service))
    }

    /// The gateway's control API.
    fn gateway(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let what = path.rsplit('/').next().unwrap_or_default();
        let ports = body["ports"].as_array().into_iter().flatten();
        let led: Vec<String> = ports
            .clone()
            .filter_map(|port| Some(format!(" {}", port["gatewayPort"].as_u64()?)))
            .collect();
        self.written
            .push(format!("gateway {method} {what}{}", led.concat()));
        if let Some((status, answer)) = &self.refusal {
            return (*status, answer.clone());
        }
        let listening: Vec<Value> = ports
            .zip(20_000_u16..)
            .map(|(port, gateway)| json!({ "port": port["port"], "protocol": port["protocol"], "gatewayPort": gateway }))
            .collect();
        (
            200,
            json!({ "podName": "kvpn-gateway-0", "addresses": ["10.244.0.7"], "ports": listening }),
        )
    }
}

/// Everything but Services: one pod that is ready, and the way to it; nothing else.
fn list(path: &str) -> (u16, Value) {
    let items = if path.ends_with("/pods") {
        json!([{ "metadata": { "name": "web-1", "labels": { "app": "web" } },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }])
    } else if path.ends_with("/endpointslices") {
        json!([{ "metadata": { "name": "s" }, "addressType": "IPv4",
            "endpoints": [{ "addresses": ["10.244.0.8"], "conditions": { "ready": true } }] }])
    } else if path.ends_with("/horizontalpodautoscalers") || path.ends_with("/networkpolicies") {
        json!([])
    } else {
        return refusal(404);
    };
    (
        200,
        json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "7" }, "items": items }),
    )
}

fn refusal(code: u16) -> (u16, Value) {
    let reason = if code == 404 {
        "NotFound"
    } else {
        "ServiceUnavailable"
    };
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason });
    (code, status)
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            if !target[key].is_object() && value.is_object() {
                target[key] = json!({});
            }
            merge(&mut target[key], value);
        }
    }
}
