//! Installs by users with more and fewer rights, against a stand-in API server.

use super::*;
use crate::testing::{Answer, Asked, FakeApi, failure, forbidden, list};
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

fn missing() -> Answer {
    failure(404, "not found")
}

/// An API server that takes everything and has nothing yet.
fn empty(asked: &Asked) -> Answer {
    match asked.method.as_str() {
        "PATCH" => {
            let mut object = asked.body.clone();
            if object["kind"] == "Service" {
                object["spec"]["ports"][0]["nodePort"] = 30099.into();
            }
            Answer::Json(200, object)
        }
        _ if asked.path == "/api/v1/nodes" => list(json!([{
            "metadata": { "name": "n1" }, "status": { "addresses": [{ "type": "InternalIP", "address": "172.31.2.11" }] },
        }])),
        _ => missing(),
    }
}

fn spec() -> GatewaySpec {
    GatewaySpec::new("demo", "gw:1", "1.2.3")
}

/// What was written, in order.
fn written(api: &FakeApi) -> Vec<Asked> {
    api.asked()
        .into_iter()
        .filter(|asked| asked.method == "PATCH")
        .collect()
}

#[tokio::test]
async fn everything_is_applied_as_ours_the_pod_last() {
    let api = FakeApi::start(empty).await;
    let installed = api.cluster().install(&spec()).await.unwrap();
    assert_eq!(installed.skipped, Vec::<String>::new());
    assert_eq!(installed.applied.len(), 5);
    let written = written(&api);
    for asked in &written {
        assert!(
            asked.query.contains("fieldManager=kvpn") && asked.query.contains("force=true"),
            "{}",
            asked.query
        );
    }
    let position = |path: &str| {
        written
            .iter()
            .position(|asked| asked.path.ends_with(path))
            .unwrap()
    };
    assert!(position("roles/kvpn-gateway") < position("rolebindings/kvpn-gateway"));
    let set = &written[position("statefulsets/kvpn-gateway")].body;
    assert_eq!(set["metadata"]["annotations"]["kvpn.dev/applied"], "1");
    let env = set["spec"]["template"]["spec"]["containers"][0]["env"]
        .as_array()
        .unwrap();
    assert!(env.contains(&json!({ "name": "KVPN_NODE_ADDRESSES", "value": "172.31.2.11" })));
    assert!(env.contains(&json!({ "name": "KVPN_UDP_ENDPOINTS", "value": "172.31.2.11:30099" })));
}

#[tokio::test]
async fn who_may_not_make_roles_installs_without_and_is_told() {
    let api = FakeApi::start(|asked| {
        if asked.path.contains("rbac.authorization") {
            forbidden()
        } else {
            empty(asked)
        }
    })
    .await;
    let installed = api.cluster().install(&spec()).await.unwrap();
    assert_eq!(
        installed.applied,
        [
            "serviceaccount kvpn-gateway",
            "service kvpn-gateway",
            "statefulset kvpn-gateway"
        ]
    );
    assert_eq!(installed.skipped.len(), 2);
    assert!(
        installed.skipped[0].contains("role kvpn-gateway left out"),
        "{:?}",
        installed.skipped
    );
    assert!(
        installed.skipped[0].contains("patch roles.rbac.authorization.k8s.io"),
        "{:?}",
        installed.skipped
    );
}

#[tokio::test]
async fn who_may_not_install_learns_which_right_is_missing() {
    let api = FakeApi::start(|asked| {
        if asked.path.contains("statefulsets") && asked.method == "PATCH" {
            forbidden()
        } else {
            empty(asked)
        }
    })
    .await;
    let error = api.cluster().install(&spec()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "not permitted: patch statefulsets.apps in namespace demo"
    );
    assert_eq!(error.exit_code(), 4);
}

#[tokio::test]
async fn what_others_look_after_is_left_alone() {
    let api = FakeApi::start(|asked| match asked.path.as_str() {
        "/apis/apps/v1/namespaces/demo/statefulsets/kvpn-gateway" => Answer::Json(200, json!({
            "metadata": { "name": "kvpn-gateway", "labels": { "app.kubernetes.io/managed-by": "Helm" } },
        })),
        _ => empty(asked),
    })
    .await;
    let error = api.cluster().install(&spec()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "statefulset demo/kvpn-gateway is in the way: Helm looks after it; change it there"
    );
    assert_eq!(error.exit_code(), 6);
    assert!(written(&api).is_empty());
}

#[tokio::test]
async fn each_apply_of_an_install_of_ours_is_counted() {
    let api = FakeApi::start(|asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("GET", "/apis/apps/v1/namespaces/demo/statefulsets/kvpn-gateway") => Answer::Json(200, json!({
            "metadata": {
                "name": "kvpn-gateway", "labels": { "app.kubernetes.io/managed-by": "kvpn" }, "annotations": { "kvpn.dev/applied": "4" },
            },
        })),
        _ => empty(asked),
    })
    .await;
    api.cluster().install(&spec()).await.unwrap();
    assert_eq!(
        written(&api).last().unwrap().body["metadata"]["annotations"]["kvpn.dev/applied"],
        "5"
    );
}

fn ours(kind: &str) -> Answer {
    list(
        json!([{ "apiVersion": "v1", "kind": kind, "metadata": { "name": "kvpn-gateway", "uid": format!("uid-{kind}") } }]),
    )
}

#[tokio::test]
async fn removal_takes_what_bears_our_labels_and_nothing_else() {
    let api = FakeApi::start(|asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("DELETE", _) => Answer::Json(
            200,
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }),
        ),
        (_, path) if path.ends_with("/pods") => list(json!([])),
        (_, path) if path.contains("rbac.authorization") => forbidden(),
        (_, path) => {
            assert!(
                asked.query.contains("managed-by%3Dkvpn"),
                "{path}?{}",
                asked.query
            );
            ours(path.rsplit('/').next().unwrap())
        }
    })
    .await;
    let done = api.cluster().uninstall("demo").await.unwrap();
    assert_eq!(
        done.removed,
        [
            "statefulset kvpn-gateway",
            "service kvpn-gateway",
            "serviceaccount kvpn-gateway"
        ]
    );
    assert_eq!(done.skipped.len(), 2);
    let deleted: Vec<Asked> = api
        .asked()
        .into_iter()
        .filter(|asked| asked.method == "DELETE")
        .collect();
    assert_eq!(deleted.len(), 3);
    assert_eq!(deleted[0].body["preconditions"]["uid"], "uid-statefulsets");
}

#[tokio::test]
async fn removing_nothing_is_fine() {
    let api = FakeApi::start(|_| list(json!([]))).await;
    assert_eq!(
        api.cluster().uninstall("demo").await.unwrap(),
        Uninstalled::default()
    );
}

#[tokio::test]
async fn a_service_that_cannot_change_is_made_anew() {
    let is_there = Arc::new(AtomicBool::new(true));
    let there = is_there.clone();
    let api = FakeApi::start(move |asked| {
        match (
            asked.method.as_str(),
            asked.path.ends_with("services/kvpn-gateway"),
        ) {
            ("PATCH", true) if there.load(Ordering::Relaxed) => failure(
                422,
                "Service \"kvpn-gateway\" is invalid: spec.clusterIPs[0]: may not change once set",
            ),
            ("DELETE", true) => {
                there.store(false, Ordering::Relaxed);
                Answer::Json(
                    200,
                    json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }),
                )
            }
            ("GET", false) if asked.path.ends_with("/services") => ours("Service"),
            _ => empty(asked),
        }
    })
    .await;
    let spec = GatewaySpec {
        udp: UdpExposure::None,
        ..spec()
    };
    api.cluster().install(&spec).await.unwrap();
    assert!(!is_there.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_service_that_a_quota_refuses_is_not_removed() {
    let api = FakeApi::start(|asked| {
        match (
            asked.method.as_str(),
            asked.path.ends_with("services/kvpn-gateway"),
        ) {
            ("PATCH", true) => failure(
                403,
                "services \"kvpn-gateway\" is forbidden: exceeded quota: no-node-ports",
            ),
            _ => empty(asked),
        }
    })
    .await;
    let error = api.cluster().install(&spec()).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    assert!(!api.asked().iter().any(|asked| asked.method == "DELETE"));
}
