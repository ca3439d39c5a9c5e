//! Plans on Services of every kind, and the calls against a stand-in API server that keeps Services.

mod calls;
mod findings;
mod plans;
mod policies;
mod store;

use super::{Claim, object::Object};
use kvpn_wire::{
    control::{Expose, Exposed, ListeningPort},
    exposure::Traffic,
};
use serde_json::{Value, json};

const GATEWAY: &str = "kvpn-gateway-0";

/// A Service with two ports, one target by name, one by number, and a field that no build knows.
fn web() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "demo", "uid": "u1", "resourceVersion": "1", "labels": { "app": "web" },
            "annotations": { "theirs": "yes" } },
        "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack",
            "selector": { "app": "web", "tier": "front" }, "sessionAffinity": "None", "ofNextYear": { "a": 1 },
            "ports": [
                { "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http", "nodePort": 30080, "ofNextYear": true },
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353, "nodePort": 30053 },
            ],
        },
    })
}

fn object(value: &Value) -> Object {
    Object(value.clone())
}

/// A session's claim on both ports of `web`.
fn claim(session: &str, traffic: &str) -> Claim {
    Claim {
        namespace: "demo".into(),
        service: "web".into(),
        session: session.into(),
        replaces: None,
        gateway: GATEWAY.into(),
        since: "2026-11-21T17:00:00Z".into(),
        expose: expose(session, traffic),
    }
}

fn expose(session: &str, traffic: &str) -> Expose {
    let traffic: Traffic = match traffic {
        "all" => Traffic::All,
        rule => {
            Traffic::of_options(vec![rule.parse().unwrap()], vec![], vec![], None, false).unwrap()
        }
    };
    serde_json::from_value(json!({
        "owner": format!("{session}@laptop"), "origin": "web-kvpn-origin", "traffic": traffic,
        "ports": [{ "port": 80, "name": "http", "laptopPort": 8080 }, { "port": 53, "protocol": "udp", "name": "dns" }],
    }))
    .unwrap()
}

/// The gateway's answer for both ports.
fn exposed() -> Exposed {
    let ports = [("tcp", 80, 20_000), ("udp", 53, 20_001)];
    let listening = ports.map(|(protocol, port, gateway_port)| -> ListeningPort {
        serde_json::from_value(
            json!({ "port": port, "protocol": protocol, "gatewayPort": gateway_port }),
        )
        .unwrap()
    });
    Exposed {
        pod_name: GATEWAY.into(),
        addresses: vec!["10.244.0.7".parse().unwrap()],
        ports: listening.to_vec(),
    }
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// The same after a patch.
fn patched(service: &Value, patch: Option<Value>) -> Value {
    let mut service = service.clone();
    if let Some(patch) = patch {
        merge(&mut service, &patch);
    }
    service
}
