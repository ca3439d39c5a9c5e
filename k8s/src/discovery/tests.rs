//! Discovery with all rights, with some, and with one namespace only, against a stand-in API server.

use super::*;
use crate::testing::{Answer, Asked, FakeApi, failure, forbidden, list};
use serde_json::{Value, json};

fn gateway() -> GatewayPod {
    GatewayPod::of(
        &serde_json::from_value(json!({
            "metadata": { "name": "kvpn-gateway-0", "namespace": "kvpn" },
            "status": { "podIPs": [{ "ip": "10.244.1.9" }], "hostIPs": [{ "ip": "172.31.2.11" }] },
        }))
        .unwrap(),
    )
}

fn pod(ip: &str, host_network: bool) -> Value {
    json!({
        "metadata": { "name": ip },
        "spec": { "containers": [], "hostNetwork": host_network },
        "status": { "phase": "Running", "podIPs": [{ "ip": ip }] },
    })
}

fn service(ip: &str) -> Value {
    json!({ "metadata": { "name": ip }, "spec": { "clusterIPs": [ip] } })
}

fn node(name: &str, ip: &str, cidr: &str) -> Value {
    json!({
        "metadata": { "name": name }, "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
        "status": { "addresses": [{ "type": "InternalIP", "address": ip }] },
    })
}

/// A whole cluster, all of it visible.
fn whole(asked: &Asked) -> Answer {
    match asked.path.as_str() {
        "/apis/networking.k8s.io/v1/servicecidrs" => list(
            json!([{ "metadata": { "name": "kubernetes" }, "spec": { "cidrs": ["10.96.0.0/16", "fd00:10:96::/112"] } }]),
        ),
        "/api/v1/namespaces" => {
            list(json!([{ "metadata": { "name": "default" } }, { "metadata": { "name": "demo" } }]))
        }
        "/api/v1/nodes" => list(json!([
            node("node1", "172.31.2.11", "10.244.0.0/24"),
            node("node2", "172.31.2.12", "10.244.1.0/24")
        ])),
        "/api/v1/pods" => list(json!([pod("10.244.0.5", false), pod("172.31.2.11", true)])),
        "/api/v1/services" => list(json!([
            service("10.96.0.1"),
            service("None"),
            service("10.96.200.7")
        ])),
        _ => failure(404, "the server could not find the requested resource"),
    }
}

async fn discover(respond: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Discovery {
    FakeApi::start(respond)
        .await
        .cluster()
        .discover("demo", &gateway())
        .await
        .unwrap()
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_cluster_that_shows_all_is_known_exactly() {
    let found = discover(whole).await;
    assert_eq!(
        texts(&found.service_ranges),
        ["10.96.0.0/16", "fd00:10:96::/112"]
    );
    assert_eq!(texts(&found.pod_ranges), ["10.244.0.0/23"]);
    assert_eq!(
        found.namespaces,
        Some(vec!["default".to_owned(), "demo".to_owned()])
    );
    assert_eq!(texts(&found.node_addresses), ["172.31.2.11", "172.31.2.12"]);
    assert!(
        found.observed.is_empty() && found.notes.is_empty(),
        "{found:?}"
    );
}

#[tokio::test]
async fn without_service_cidrs_the_services_tell() {
    let found = discover(|asked| {
        if asked.path.contains("servicecidrs") {
            failure(404, "no")
        } else {
            whole(asked)
        }
    })
    .await;
    assert_eq!(texts(&found.service_ranges), ["10.96.0.0/16"]);
    assert_eq!(found.notes.len(), 1);
}

#[tokio::test]
async fn node_ranges_that_miss_a_pod_are_not_believed() {
    let respond = |pools: Value| {
        move |asked: &Asked| match asked.path.as_str() {
            "/api/v1/pods" => list(json!([pod("192.168.7.5", false)])),
            "/apis/crd.projectcalico.org/v1/ippools" => list(pools.clone()),
            _ => whole(asked),
        }
    };
    let pool = json!([{ "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": { "name": "a" }, "spec": { "cidr": "192.168.0.0/16" } }]);
    let found = discover(respond(pool.clone())).await;
    assert_eq!(
        texts(&found.observed),
        ["10.244.1.9", "192.168.7.5"],
        "the pool misses the gateway's own pod"
    );
    let both = json!([pool[0], { "apiVersion": "x/v1", "kind": "IPPool", "metadata": { "name": "b" }, "spec": { "cidr": "10.244.0.0/16" } }]);
    let found = discover(respond(both)).await;
    assert_eq!(
        texts(&found.pod_ranges),
        ["10.244.0.0/16", "192.168.0.0/16"]
    );
    assert!(found.observed.is_empty());
}

#[tokio::test]
async fn one_visible_namespace_gives_its_own_addresses() {
    let found = discover(|asked| match asked.path.as_str() {
        "/api/v1/namespaces/demo/pods" => list(json!([pod("10.244.0.5", false)])),
        "/api/v1/namespaces/demo/services" => list(json!([service("10.96.3.3"), service("None")])),
        _ => forbidden(),
    })
    .await;
    assert_eq!(found.namespaces, None);
    assert!(found.service_ranges.is_empty() && found.pod_ranges.is_empty());
    assert_eq!(
        texts(&found.observed),
        ["10.96.3.3", "10.244.0.5", "10.244.1.9"]
    );
    assert_eq!(texts(&found.node_addresses), ["172.31.2.11"]);
    assert_eq!(found.notes.len(), 4, "{:?}", found.notes);
}

#[tokio::test]
async fn refused_credentials_are_no_missing_right() {
    let api = FakeApi::start(|_| failure(401, "Unauthorized")).await;
    let error = api
        .cluster()
        .discover("demo", &gateway())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
}

#[test]
fn too_many_addresses_are_cut_and_said() {
    let mut found = Discovery::default();
    found.observe(
        (0..1000_u32)
            .map(|n| IpAddr::from(n.to_be_bytes()))
            .collect(),
    );
    assert_eq!(found.observed.len(), MOST_OBSERVED);
    assert_eq!(
        found.notes,
        ["488 of 1000 addresses are not routed beforehand"]
    );
}
