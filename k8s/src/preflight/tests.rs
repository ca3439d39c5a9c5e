//! Reviews against a stand-in API server.

use super::*;
use crate::testing::{Answer, Asked, FakeApi, failure, forbidden};
use serde_json::json;

fn verdict(asked: &Asked, denied: &[(&str, &str)]) -> Answer {
    let attributes = &asked.body["spec"]["resourceAttributes"];
    let resource = [&attributes["resource"], &attributes["subresource"]]
        .map(|part| part.as_str().unwrap_or_default())
        .join("/");
    let is_denied = denied
        .iter()
        .any(|(verb, name)| attributes["verb"] == *verb && resource.trim_end_matches('/') == *name);
    Answer::Json(
        201,
        json!({ "spec": asked.body["spec"], "status": { "allowed": !is_denied } }),
    )
}

#[tokio::test]
async fn who_may_all_misses_nothing() {
    let api = FakeApi::start(|asked| verdict(asked, &[])).await;
    assert_eq!(
        api.cluster()
            .preflight("demo", Purpose::Install)
            .await
            .unwrap(),
        []
    );
    assert_eq!(api.asked().len(), rights(Purpose::Install).len());
}

#[tokio::test]
async fn what_is_denied_is_named_as_kubectl_would() {
    let api = FakeApi::start(|asked| {
        verdict(
            asked,
            &[("create", "pods/portforward"), ("patch", "statefulsets")],
        )
    })
    .await;
    let missing = api
        .cluster()
        .preflight("demo", Purpose::Install)
        .await
        .unwrap();
    let texts: Vec<String> = missing.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "create pods/portforward in namespace demo",
            "patch statefulsets.apps in namespace demo"
        ]
    );
    let attributes: Vec<_> = api
        .asked()
        .iter()
        .map(|asked| asked.body["spec"]["resourceAttributes"].clone())
        .collect();
    assert!(attributes.contains(&json!({ "verb": "patch", "group": "apps", "resource": "statefulsets", "namespace": "demo" })));
    assert!(attributes.contains(
        &json!({ "verb": "get", "group": "", "resource": "pods", "subresource": "portforward", "namespace": "demo" })
    ));
}

#[tokio::test]
async fn who_may_not_ask_is_not_told_no() {
    let api = FakeApi::start(|_| forbidden()).await;
    assert_eq!(
        api.cluster()
            .preflight("demo", Purpose::Connect)
            .await
            .unwrap(),
        []
    );
    let api = FakeApi::start(|_| failure(401, "Unauthorized")).await;
    assert!(matches!(
        api.cluster().preflight("demo", Purpose::Connect).await,
        Err(Error::Unauthorized { .. })
    ));
}
