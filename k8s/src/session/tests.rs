//! Session requests over a port-forward to a stand-in gateway.

use super::*;
use crate::testing::{Answer, FakeApi, ServerSocket};
use futures::{SinkExt as _, StreamExt as _};
use kvpn_wire::wireguard::PrivateKey;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

fn gateway() -> GatewayPod {
    GatewayPod::of(
        &serde_json::from_value(
            json!({ "metadata": { "name": "kvpn-gateway-0", "namespace": "demo" } }),
        )
        .unwrap(),
    )
}

fn request() -> CreateSession {
    let key = PrivateKey::from_seed([7; 32]).public();
    serde_json::from_value(
        json!({ "version": 1, "clientVersion": "0.1.0", "publicKey": key, "sessionName": "test" }),
    )
    .unwrap()
}

/// Answers the first request with this status and body, through the port-forward's protocol.
async fn reply(mut socket: ServerSocket, status: &str, body: Value) {
    for channel in [0, 1] {
        socket
            .send(Message::Binary(Bytes::from(vec![channel, 0x24, 0x18])))
            .await
            .unwrap();
    }
    let mut asked = Vec::new();
    while !asked.windows(6).any(|bytes| bytes == b"\"test\"") {
        if let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() {
            asked.extend_from_slice(&bytes[1..]);
        }
    }
    assert!(asked.starts_with(b"POST /v1/sessions HTTP/1.1\r\n"));
    let body = body.to_string();
    let answer = format!(
        "\0HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket
        .send(Message::Binary(Bytes::from(answer)))
        .await
        .unwrap();
}

fn grants(socket: ServerSocket) -> JoinHandle<()> {
    let key = PrivateKey::from_seed([9; 32]).public();
    tokio::spawn(reply(
        socket,
        "200 OK",
        json!({
            "version": 1, "sessionId": "s1", "gatewayPublicKey": key, "presharedKey": key, "mtu": 1360, "datapath": "userspace", "udpPort": 51820,
            "addresses": [{ "gateway": "198.19.0.1", "client": "198.19.0.2", "dnsStub": "198.19.0.3" }],
        }),
    ))
}

fn is_full(socket: ServerSocket) -> JoinHandle<()> {
    tokio::spawn(reply(
        socket,
        "429 Too Many Requests",
        json!({ "error": "64 sessions are open", "hint": "try later" }),
    ))
}

fn answers_nonsense(socket: ServerSocket) -> JoinHandle<()> {
    tokio::spawn(reply(socket, "200 OK", json!({ "hello": 1 })))
}

fn refuses(mut socket: ServerSocket) -> JoinHandle<()> {
    tokio::spawn(async move {
        let text = b"\x01\x24\x18error forwarding port 6180 to pod x: connect: connection refused";
        socket
            .send(Message::Binary(Bytes::from_static(text)))
            .await
            .unwrap();
        socket.close(None).await.unwrap();
    })
}

async fn outcome(serve: fn(ServerSocket) -> JoinHandle<()>) -> Result<SessionGrant, Error> {
    let api = FakeApi::start(move |asked| {
        assert_eq!(
            asked.path,
            "/api/v1/namespaces/demo/pods/kvpn-gateway-0/portforward"
        );
        assert!(asked.query.ends_with("ports=6180"), "{}", asked.query);
        Answer::WebSocket(serve)
    })
    .await;
    api.cluster().create_session(&gateway(), &request()).await
}

#[tokio::test]
async fn a_grant_comes_back() {
    let grant = outcome(grants).await.unwrap();
    assert_eq!(grant.session_id, "s1");
    assert_eq!(grant.addresses[0].client.to_string(), "198.19.0.2");
}

#[tokio::test]
async fn the_gateways_refusal_keeps_its_words() {
    let error = outcome(is_full).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the gateway demo/kvpn-gateway-0 refused: 64 sessions are open"
    );
    assert_eq!(error.hint().as_deref(), Some("try later"));
}

#[tokio::test]
async fn an_unreadable_grant_suggests_an_upgrade() {
    let error = outcome(answers_nonsense).await.unwrap_err();
    assert!(error.hint().unwrap().contains("--upgrade"), "{error}");
}

#[tokio::test]
async fn a_closed_control_port_is_told_with_the_kubelets_words() {
    let error = outcome(refuses).await.unwrap_err();
    assert!(
        matches!(error, Error::Forward { port: 6180, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("connection refused"), "{error}");
}
