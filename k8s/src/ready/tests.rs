//! The wait as a whole, against a stand-in API server that lists and watches.

use super::*;
use crate::testing::{Answer, Asked, FakeApi, forbidden, list};
use serde_json::{Value, json};

fn set() -> Value {
    json!({
        "metadata": { "name": "kvpn-gateway", "namespace": "demo", "uid": "s1", "generation": 1, "resourceVersion": "5" },
        "spec": { "selector": {}, "template": {}, "serviceName": "kvpn-gateway" },
        "status": { "observedGeneration": 1, "replicas": 1, "updateRevision": "r1" },
    })
}

fn pod(status: Value) -> Value {
    json!({
        "metadata": {
            "name": "kvpn-gateway-0", "namespace": "demo", "uid": "p1", "resourceVersion": "6",
            "labels": { "app.kubernetes.io/name": "kvpn-gateway", "controller-revision-hash": "r1" },
        },
        "spec": { "containers": [{ "name": "gateway", "image": "gw:1" }] },
        "status": status,
    })
}

fn waiting(reason: &str) -> Value {
    json!({ "containerStatuses": [{
        "name": "gateway", "image": "", "imageID": "", "ready": false, "restartCount": 1,
        "state": { "waiting": { "reason": reason } }, "lastState": { "terminated": { "exitCode": 2, "reason": "Error" } },
    }]})
}

/// A cluster with one StatefulSet and one pod, whose status changes as `statuses` say.
async fn cluster(statuses: Vec<Value>) -> FakeApi {
    FakeApi::start(move |asked| respond(asked, &statuses)).await
}

fn respond(asked: &Asked, statuses: &[Value]) -> Answer {
    let changes = |objects: Vec<Value>| {
        objects
            .into_iter()
            .map(|object| json!({ "type": "MODIFIED", "object": object }))
            .collect()
    };
    match (
        asked.path.rsplit('/').next().unwrap_or_default(),
        asked.is_watch(),
    ) {
        ("pods", false) => list(json!([pod(statuses[0].clone())])),
        ("pods", true) => Answer::Events(changes(
            statuses[1..]
                .iter()
                .map(|status| pod(status.clone()))
                .collect(),
        )),
        ("statefulsets", false) => list(json!([set()])),
        ("log", _) => Answer::Text("panicked: no key\n"),
        (_, true) => Answer::Events(Vec::new()),
        (_, false) => list(json!([])),
    }
}

async fn wait(api: &FakeApi, limit: Duration) -> (Result<GatewayPod, Error>, Vec<Progress>) {
    let mut steps = Vec::new();
    let result = api
        .cluster()
        .wait_ready("demo", limit, &mut |step| steps.push(step))
        .await;
    (result, steps)
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_pod_is_followed_until_it_is_ready() {
    let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }], "podIPs": [{ "ip": "10.244.1.2" }] });
    let api = cluster(vec![json!({}), waiting("ContainerCreating"), ready]).await;
    let (gateway, steps) = wait(&api, LONG).await;
    assert_eq!(gateway.unwrap().pod_ips.len(), 1);
    assert_eq!(steps.last(), Some(&Progress::Pulling("gw:1".into())));
    assert!(steps.windows(2).all(|two| two[0] != two[1]), "{steps:?}");
}

#[tokio::test]
async fn a_crash_brings_the_gateways_last_words() {
    let api = cluster(vec![waiting("CrashLoopBackOff")]).await;
    let error = wait(&api, LONG).await.0.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("exit code 2") && text.ends_with("its last words:\npanicked: no key"),
        "{text}"
    );
}

#[tokio::test]
async fn time_is_up_at_its_limit() {
    let api = cluster(vec![waiting("ContainerCreating")]).await;
    let error = wait(&api, Duration::from_millis(300)).await.0.unwrap_err();
    assert!(matches!(error, Error::NotReady { .. }), "{error:?}");
    assert!(
        error.to_string().contains("still: getting the image gw:1"),
        "{error}"
    );
}

#[tokio::test]
async fn who_may_watch_only_pods_is_served_too() {
    let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
    let api = FakeApi::start(move |asked| {
        if asked.path.ends_with("/pods") {
            respond(asked, std::slice::from_ref(&ready))
        } else {
            forbidden()
        }
    })
    .await;
    wait(&api, LONG).await.0.unwrap();
}

#[tokio::test]
async fn who_may_not_watch_pods_is_told_at_once() {
    let api = FakeApi::start(|_| forbidden()).await;
    let error = wait(&api, LONG).await.0.unwrap_err();
    assert_eq!(
        error.to_string(),
        "not permitted: watch pods in namespace demo"
    );
}
