//! Finding gateways, and where their UDP port answers, against a stand-in API server.

use super::*;
use crate::testing::{Answer, FakeApi, forbidden, list};
use serde_json::{Value, json};

fn pod(name: &str, ready: bool) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "demo", "uid": format!("uid-{name}"),
            "labels": { "app.kubernetes.io/name": "kvpn-gateway", "app.kubernetes.io/version": "1.2.3", "kvpn.dev/datapath": "kernel" },
        },
        "spec": { "nodeName": "node2", "containers": [{ "name": "gateway", "image": "gw:1" }] },
        "status": {
            "phase": "Running",
            "podIPs": [{ "ip": "10.244.2.9" }, { "ip": "fd00::9" }],
            "hostIPs": [{ "ip": "172.31.2.12" }],
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        },
    })
}

#[tokio::test]
async fn the_ready_pod_of_the_first_namespace_is_taken() {
    let api = FakeApi::start(|asked| {
        assert!(
            asked
                .query
                .contains("app.kubernetes.io%2Fname%3Dkvpn-gateway"),
            "{}",
            asked.query
        );
        match asked.path.as_str() {
            "/api/v1/namespaces/demo/pods" => list(json!([
                pod("kvpn-gateway-0", false),
                pod("kvpn-gateway-1", true)
            ])),
            _ => list(json!([])),
        }
    })
    .await;
    let gateway = api
        .cluster()
        .find_gateway(&["empty", "demo"])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        gateway,
        GatewayPod {
            namespace: "demo".into(),
            name: "kvpn-gateway-1".into(),
            uid: "uid-kvpn-gateway-1".into(),
            node: Some("node2".into()),
            host_ips: vec!["172.31.2.12".parse().unwrap()],
            pod_ips: vec!["10.244.2.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            image: "gw:1".into(),
            version: Some("1.2.3".into()),
            datapath: DatapathChoice::Kernel,
            ready: true,
        }
    );
    assert_eq!(gateway.full_name(), "demo/kvpn-gateway-1");
}

#[tokio::test]
async fn a_pod_being_deleted_is_no_gateway() {
    let api = FakeApi::start(|_| {
        let mut leaving = pod("kvpn-gateway-0", true);
        leaving["metadata"]["deletionTimestamp"] = "2026-11-21T10:00:00Z".into();
        list(json!([leaving]))
    })
    .await;
    assert_eq!(api.cluster().find_gateway(&["demo"]).await.unwrap(), None);
}

#[tokio::test]
async fn a_closed_namespace_matters_only_when_all_are() {
    let api = FakeApi::start(|asked| {
        if asked.path.contains("/kvpn/") {
            forbidden()
        } else {
            list(json!([]))
        }
    })
    .await;
    assert_eq!(
        api.cluster().find_gateway(&["demo", "kvpn"]).await.unwrap(),
        None
    );
    let error = api.cluster().find_gateway(&["kvpn"]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "not permitted: list pods in namespace kvpn"
    );
}

#[tokio::test]
async fn the_one_pod_may_be_got_where_none_may_be_listed() {
    let api = FakeApi::start(|asked| match asked.path.as_str() {
        "/api/v1/namespaces/demo/pods/kvpn-gateway-0" => {
            Answer::Json(200, pod("kvpn-gateway-0", true))
        }
        _ => forbidden(),
    })
    .await;
    assert!(
        api.cluster()
            .find_gateway(&["demo"])
            .await
            .unwrap()
            .is_some()
    );
}

fn service(kind: &str, ingress: Value) -> Answer {
    Answer::Json(
        200,
        json!({
            "metadata": { "name": "kvpn-gateway" },
            "spec": { "type": kind, "ports": [{ "name": "wireguard", "protocol": "UDP", "port": 51820, "nodePort": 30099 }] },
            "status": { "loadBalancer": { "ingress": ingress } },
        }),
    )
}

fn node(name: &str, internal: &str, external: Option<&str>) -> Value {
    let mut addresses = vec![
        json!({ "type": "InternalIP", "address": internal }),
        json!({ "type": "Hostname", "address": name }),
    ];
    addresses.extend(external.map(|address| json!({ "type": "ExternalIP", "address": address })));
    json!({ "metadata": { "name": name }, "status": { "addresses": addresses } })
}

async fn endpoints(api: &FakeApi) -> Vec<String> {
    let gateway = GatewayPod::of(&serde_json::from_value(pod("kvpn-gateway-0", true)).unwrap());
    let endpoints = api.cluster().udp_endpoints(&gateway).await.unwrap();
    endpoints.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn node_ports_begin_with_the_gateways_node() {
    let api = FakeApi::start(|asked| match asked.path.as_str() {
        "/api/v1/nodes" => list(json!([
            node("node1", "172.31.2.11", None),
            node("node2", "172.31.2.12", Some("203.0.113.2")),
            node("node3", "fd00::13", Some("203.0.113.3")),
        ])),
        _ => service("NodePort", json!([])),
    })
    .await;
    let expected = [
        "203.0.113.2:30099",
        "172.31.2.12:30099",
        "203.0.113.3:30099",
        "172.31.2.11:30099",
        "[fd00::13]:30099",
    ];
    assert_eq!(endpoints(&api).await, expected);
}

#[tokio::test]
async fn without_rights_on_nodes_the_pods_own_host_has_to_do() {
    let api = FakeApi::start(|asked| {
        if asked.path == "/api/v1/nodes" {
            forbidden()
        } else {
            service("NodePort", json!([]))
        }
    })
    .await;
    assert_eq!(endpoints(&api).await, ["172.31.2.12:30099"]);
    let api = FakeApi::start(|_| forbidden()).await;
    assert!(endpoints(&api).await.is_empty());
}

#[tokio::test]
async fn a_load_balancer_comes_first() {
    let api = FakeApi::start(|asked| {
        if asked.path == "/api/v1/nodes" {
            forbidden()
        } else {
            service("LoadBalancer", json!([{ "ip": "198.51.100.7" }]))
        }
    })
    .await;
    assert_eq!(
        endpoints(&api).await,
        ["198.51.100.7:51820", "172.31.2.12:30099"]
    );
}
