//! Which NetworkPolicies keep callers from the gateway, or the gateway from the origin.

use super::*;
use crate::takeover::policies::{Paths, of_policies};
use kvpn_wire::exposure::Protocol;

/// What is found with these policies: `gateway` or `origin`, whose way is closed.
fn closed(specs: Value) -> Vec<&'static str> {
    let policies: Vec<_> = specs
        .as_array()
        .unwrap()
        .iter()
        .map(|spec| {
            serde_json::from_value(
                json!({ "metadata": { "name": "p", "namespace": "demo" }, "spec": spec }),
            )
            .unwrap()
        })
        .collect();
    let pod = |labels: Value, ip: &str| {
        serde_json::from_value(
            json!({ "metadata": { "labels": labels }, "status": { "podIPs": [{ "ip": ip }] } }),
        )
        .unwrap()
    };
    let gateway = pod(
        json!({ "app.kubernetes.io/name": "kvpn-gateway" }),
        "10.244.0.7",
    );
    let origin = pod(json!({ "app": "web" }), "10.244.0.8");
    let namespace = [("team".to_owned(), "a".to_owned())].into();
    let paths = Paths {
        gateway: &gateway,
        origin: Some(&origin),
        namespace: Some(&namespace),
        protocols: &[Protocol::Tcp],
    };
    let findings = of_policies(&policies, &paths);
    let of = |finding: &crate::Finding| {
        if finding.what.contains("callers from the gateway") {
            "gateway"
        } else {
            "origin"
        }
    };
    findings.iter().map(of).collect()
}

const ALL: &[&str] = &["gateway", "origin"];

#[test]
fn without_policies_everything_is_open() {
    assert!(closed(json!([])).is_empty());
    assert!(
        closed(json!([{ "podSelector": {}, "policyTypes": ["Egress"] }])).is_empty(),
        "going out is not coming in"
    );
    assert!(closed(json!([{ "podSelector": { "matchLabels": { "app": "other" } } }])).is_empty());
}

#[test]
fn default_deny_keeps_the_gateway_out() {
    let nobody = ["origin"];
    assert_eq!(closed(json!([{ "podSelector": {} }])), nobody);
    assert_eq!(
        closed(json!([{ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [] }])),
        nobody
    );
}

#[test]
fn callers_of_the_origin_have_to_reach_the_gateway() {
    let same_namespace =
        json!([{ "podSelector": {}, "ingress": [{ "from": [{ "podSelector": {} }] }] }]);
    assert!(
        closed(same_namespace).is_empty(),
        "the same rule opens both"
    );
    let only_front = json!([
        { "podSelector": {} },
        { "podSelector": { "matchLabels": { "app": "web" } }, "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "app": "front" } } }] }] },
    ]);
    assert_eq!(
        closed(only_front),
        ALL,
        "front reaches the origin, and neither the gateway nor front is let further"
    );
    let with_ours = json!([
        { "podSelector": {} },
        { "podSelector": { "matchLabels": { "app": "web" } }, "ingress": [
            { "from": [{ "podSelector": { "matchLabels": { "app": "front" } } }, { "podSelector": { "matchLabels": { "app.kubernetes.io/name": "kvpn-gateway" } } }] },
        ] },
        { "podSelector": { "matchLabels": { "app.kubernetes.io/name": "kvpn-gateway" } }, "ingress": [{}] },
    ]);
    assert!(closed(with_ours).is_empty());
}

#[test]
fn the_gateways_ports_have_to_be_open() {
    let gateway = |ports: Value| {
        closed(json!([
            { "podSelector": { "matchLabels": { "app.kubernetes.io/name": "kvpn-gateway" } }, "ingress": [{ "ports": ports }] },
        ]))
    };
    assert_eq!(gateway(json!([{ "port": 6182 }])), ["gateway"]);
    assert_eq!(
        gateway(json!([{ "port": 20_000, "endPort": 32_767, "protocol": "UDP" }])),
        ["gateway"]
    );
    assert_eq!(
        gateway(json!([{ "port": 20_000 }])),
        ["gateway"],
        "one port is not all"
    );
    assert!(gateway(json!([{ "port": 20_000, "endPort": 32_767 }])).is_empty());
    assert!(gateway(json!([{ "protocol": "TCP" }])).is_empty());
}

#[test]
fn the_gateway_is_recognised_by_address_and_namespace() {
    let origin_from = |from: Value| {
        closed(
            json!([{ "podSelector": { "matchLabels": { "app": "web" } }, "ingress": [{ "from": from }] }]),
        )
    };
    assert!(origin_from(json!([{ "ipBlock": { "cidr": "10.244.0.0/16" } }])).is_empty());
    assert_eq!(
        origin_from(
            json!([{ "ipBlock": { "cidr": "10.244.0.0/16", "except": ["10.244.0.0/24"] } }])
        ),
        ["origin"]
    );
    assert!(
        origin_from(json!([{ "namespaceSelector": { "matchLabels": { "team": "a" } } }]))
            .is_empty()
    );
    assert_eq!(
        origin_from(json!([{ "namespaceSelector": { "matchLabels": { "team": "b" } } }])),
        ["origin"]
    );
    let both =
        json!([{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "app": "front" } } }]);
    assert_eq!(origin_from(both), ["origin"]);
}
