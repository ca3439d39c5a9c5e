//! Variables as the kubelet would make them, on canned pods, and which objects are read.

use super::{Denied, expand::expand};
use crate::testing::{Answer, FakeApi, failure, forbidden, list};
use serde_json::{Value, json};

#[test]
fn references_are_expanded_as_kubernetes_does() {
    let value = |name: &str| (name == "A").then_some("1");
    for (text, expected) in [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("$", "$"),
        ("$$", "$"),
        ("", ""),
        ("ü$(A)", "ü1"),
    ] {
        assert_eq!(expand(text, value), expected, "{text}");
    }
}

fn pod() -> Value {
    json!({
        "metadata": { "name": "web-1", "namespace": "demo", "uid": "u1", "labels": { "app": "web" } },
        "spec": {
            "nodeName": "n1", "serviceAccountName": "robot",
            "containers": [
                { "name": "app",
                  "resources": { "limits": { "cpu": "500m", "memory": "1.5Gi" }, "requests": { "cpu": "1e-1" } },
                  "envFrom": [
                    { "configMapRef": { "name": "settings" } },
                    { "prefix": "DB_", "secretRef": { "name": "db" } },
                    { "configMapRef": { "name": "missing", "optional": true } },
                  ],
                  "env": [
                    { "name": "MODE", "value": "own" },
                    { "name": "URL", "value": "http://$(WEB_SERVICE_HOST)/$(MODE)/$(LATER)" },
                    { "name": "LATER", "value": "x" },
                    { "name": "EMPTY" },
                    { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "db", "key": "password" } } },
                    { "name": "NONE", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "none", "optional": true } } },
                    { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                    { "name": "APP", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['app']" } } },
                    { "name": "IPS", "valueFrom": { "fieldRef": { "fieldPath": "status.podIPs" } } },
                    { "name": "CPUS", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } },
                    { "name": "MIBS", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } } },
                    { "name": "MILLIS", "valueFrom": { "resourceFieldRef": { "resource": "requests.cpu", "divisor": "1m" } } },
                    { "name": "DISK", "valueFrom": { "resourceFieldRef": { "resource": "limits.ephemeral-storage" } } },
                  ] },
                { "name": "side" },
            ],
        },
        "status": { "podIPs": [{ "ip": "10.244.0.8" }, { "ip": "fd00::8" }] },
    })
}

fn object(path: &str) -> Answer {
    let service = |name: &str, address: &str, ports: Value| json!({ "metadata": { "name": name }, "spec": { "clusterIP": address, "ports": ports } });
    match path.trim_start_matches("/api/v1/namespaces/") {
        "demo/pods/web-1" => Answer::Json(200, pod()),
        "demo/configmaps/settings" => Answer::Json(
            200,
            json!({ "metadata": {}, "data": { "MODE": "shared", "COLOUR": "red" } }),
        ),
        "demo/secrets/db" => Answer::Json(
            200,
            json!({ "metadata": {}, "data": { "password": "aHVudGVyMg==" } }),
        ),
        "demo/services" => list(json!([
            service("web", "10.96.0.9", json!([{ "name": "http", "port": 80 }])),
            service(
                "db-0",
                "fd00::9",
                json!([{ "port": 53, "protocol": "UDP" }])
            ),
            service("quiet", "None", json!([{ "port": 1 }])),
        ])),
        "default/services/kubernetes" => Answer::Json(
            200,
            service(
                "kubernetes",
                "10.96.0.1",
                json!([{ "name": "https", "port": 443 }]),
            ),
        ),
        _ => failure(404, "not found"),
    }
}

#[tokio::test]
async fn a_pods_variables_are_the_kubelets() {
    let api = FakeApi::start(|asked| object(&asked.path)).await;
    let environment = api
        .cluster()
        .environment("demo", "pod/web-1", None, Denied::Refuse)
        .await
        .unwrap();
    let value = |name: &str| environment.variables.get(name).map(String::as_str);
    let expected = [
        ("MODE", "own"),
        ("COLOUR", "red"),
        ("DB_password", "hunter2"),
        ("PASSWORD", "hunter2"),
        ("EMPTY", ""),
        ("URL", "http://10.96.0.9/own/$(LATER)"),
        ("POD", "web-1"),
        ("APP", "web"),
        ("IPS", "10.244.0.8,fd00::8"),
        ("CPUS", "1"),
        ("MIBS", "1536"),
        ("MILLIS", "100"),
        ("WEB_SERVICE_HOST", "10.96.0.9"),
        ("WEB_SERVICE_PORT_HTTP", "80"),
        ("WEB_PORT", "tcp://10.96.0.9:80"),
        ("DB_0_PORT_53_UDP", "udp://[fd00::9]:53"),
        ("DB_0_PORT_53_UDP_PROTO", "udp"),
        ("KUBERNETES_SERVICE_PORT", "443"),
    ];
    for (name, text) in expected {
        assert_eq!(value(name), Some(text), "{name}");
    }
    for name in ["NONE", "DISK", "QUIET_SERVICE_HOST"] {
        assert_eq!(value(name), None, "{name}");
    }
    assert_eq!(
        environment.notes,
        ["DISK is left out: limits.ephemeral-storage is not set, and then it is what the node has"]
    );
    assert!(
        !format!("{environment:?}").contains("hunter2"),
        "values are not shown"
    );
    assert!(
        !api.asked()
            .iter()
            .any(|asked| asked.path.ends_with("/secrets")),
        "no other Secret is read"
    );
}

/// An API server that shows everything but Secrets.
async fn without_secrets() -> FakeApi {
    FakeApi::start(|asked| match asked.path.as_str() {
        path if path.contains("/secrets/") => forbidden(),
        path => object(path),
    })
    .await
}

#[tokio::test]
async fn what_is_missing_or_denied_is_named() {
    let api = without_secrets().await;
    let error = api
        .cluster()
        .environment("demo", "web-1", None, Denied::Refuse)
        .await
        .unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().as_str()),
        (4, "not permitted: get secrets in namespace demo")
    );
    let api = FakeApi::start(|asked| match asked.path.as_str() {
        path if path.contains("/secrets/") => failure(404, "not found"),
        path => object(path),
    })
    .await;
    let error = api
        .cluster()
        .environment("demo", "web-1", None, Denied::Refuse)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "container app of pod web-1 needs Secret db, which is not there"
    );
    let error = api
        .cluster()
        .environment("demo", "web-1", Some("other"), Denied::Refuse)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "container other of pod web-1 (it has app, side) was not found"
    );
    let error = api
        .cluster()
        .environment("demo", "deploy/web", None, Denied::Refuse)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "deployment web in namespace demo was not found"
    );
}

#[tokio::test]
async fn a_workloads_ready_pod_is_taken() {
    let api = FakeApi::start(|asked| match asked.path.as_str() {
        path if path.ends_with("/deployments/web") => {
            Answer::Json(200, json!({ "metadata": { "name": "web" }, "spec": { "selector": { "matchLabels": { "app": "web" } }, "template": {} } }))
        }
        path if path.ends_with("/pods") => {
            assert!(asked.query.contains("app%3Dweb"), "{}", asked.query);
            let mut ready = pod();
            ready["metadata"]["name"] = "web-2".into();
            ready["status"]["conditions"] = json!([{ "type": "Ready", "status": "True" }]);
            list(json!([pod(), ready]))
        }
        path => object(path),
    })
    .await;
    let environment = api
        .cluster()
        .environment("demo", "web", Some("side"), Denied::LeaveOut)
        .await
        .unwrap();
    assert_eq!(
        (environment.pod.as_str(), environment.container.as_str()),
        ("web-2", "side")
    );
}

#[tokio::test]
async fn what_may_not_be_read_is_left_out_when_that_is_wanted() {
    let api = without_secrets().await;
    let environment = api
        .cluster()
        .environment("demo", "web-1", None, Denied::LeaveOut)
        .await
        .unwrap();
    assert_eq!(environment.variables.get("PASSWORD"), None);
    assert_eq!(
        environment.variables.get("COLOUR").map(String::as_str),
        Some("red")
    );
    assert_eq!(
        environment.notes[..2],
        [
            "what all of Secret db gives is left out: you may not read it",
            "PASSWORD is left out: it is key password of Secret db, which you may not read"
        ]
    );
}

#[tokio::test]
async fn a_workload_that_is_not_there_is_told_with_the_kinds_that_were_tried() {
    let api = FakeApi::start(|_| failure(404, "not found")).await;
    for (workload, expected) in [
        (
            "shop",
            "deployment, statefulset, daemonset or pod shop in namespace demo was not found",
        ),
        (
            "job/shop",
            "job, as a kind of workload (deployment, statefulset, daemonset or pod), was not found",
        ),
    ] {
        let error = api
            .cluster()
            .environment("demo", workload, None, Denied::Refuse)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn a_plain_name_is_found_by_who_may_read_pods_only() {
    let api = FakeApi::start(|asked| match asked.path.as_str() {
        path if path.starts_with("/apis/apps/") => forbidden(),
        path => object(path),
    })
    .await;
    let cluster = api.cluster();
    let environment = cluster.environment("demo", "web-1", None, Denied::Refuse);
    assert_eq!(environment.await.unwrap().pod, "web-1");
    let error = cluster.environment("demo", "web-9", None, Denied::Refuse);
    assert_eq!(error.await.unwrap_err().exit_code(), 4);
}
