//! What cannot be exposed, or not without being asked for: refused with the reason and the remedy, and nothing is changed.

use kvpn::cluster::Cluster;
use serde_json::{Value, json};

use super::failures::in_a_scene;
use super::{FAILED, USAGE};

/// Name, spec, metadata of a Service, and what is said.
fn refused() -> Vec<(&'static str, Value, Value, &'static [&'static str])> {
    let headless = json!({ "clusterIP": "None", "ports": [{ "name": "http", "port": 8080 }] });
    let outside =
        json!({ "type": "ExternalName", "externalName": "example.com", "selector": null });
    let local = json!({ "type": "NodePort", "externalTrafficPolicy": "Local" });
    let argo = json!({ "annotations": { "argocd.argoproj.io/tracking-id": "shop:/Service:web" } });
    let flux = json!({ "labels": { "kustomize.toolkit.fluxcd.io/name": "shop" } });
    vec![
        ("headless", headless, json!({}), &["headless", "--force"]),
        (
            "unselected",
            json!({ "selector": null }),
            json!({}),
            &["selector"],
        ),
        ("outside", outside, json!({}), &["ExternalName"]),
        (
            "local",
            local,
            json!({}),
            &["externalTrafficPolicy", "--force"],
        ),
        (
            "local-inside",
            json!({ "internalTrafficPolicy": "Local" }),
            json!({}),
            &["internalTrafficPolicy", "--force"],
        ),
        ("argo", json!({}), argo, &["Argo CD", "--force"]),
        ("flux", json!({}), flux, &["Flux", "--force"]),
    ]
}

#[test]
fn services_that_would_break() {
    in_a_scene("kvpn-test-refusals", |scene| {
        for (name, spec, metadata, words) in refused() {
            scene.origin.service(name, &spec);
            let patch = json!({ "metadata": metadata }).to_string();
            scene
                .origin
                .kubectl(&["patch", "service", name, "-p", &patch])
                .ok();
            let before = scene.origin.object(name);
            let refused = scene
                .ana
                .kvpn(&format!("expose --detach 8080:http as {name} --takeover"));
            refused.fails_with(FAILED).says(words).says(&[name]);
            assert_eq!(scene.origin.object(name), before, "{name} was changed");
        }
        let services = scene
            .origin
            .kubectl(&["get", "services", "-o", "name"])
            .ok()
            .stdout;
        assert!(!services.contains("kvpn-origin"), "{services}");
    });
}

/// Nobody is there to be asked, so the word has to be given.
#[test]
fn a_whole_service_without_takeover() {
    in_a_scene("kvpn-test-consent", |scene| {
        let refused = scene.ana.kvpn("expose --detach 8080:80 as web");
        refused.fails_with(USAGE).says(&["--takeover"]);
        assert_eq!(scene.origin.object("web"), scene.before);
    });
}

#[test]
fn ports_that_the_service_does_not_have() {
    in_a_scene("kvpn-test-ports", |scene| {
        let refused = scene.ana.kvpn("expose --detach 8080:81 as web --takeover");
        refused.fails_with(FAILED).says(&["81", "web", "8080:80"]);
        let refused = scene
            .ana
            .kvpn("expose --detach 9000:9000/udp as web --match 'x-dev: ana'");
        assert_ne!(refused.code, 0, "{refused}");
        refused.says(&["9000/udp"]);
        assert_eq!(scene.origin.object("web"), scene.before);
    });
}

/// A policy that lets nobody but the asked-for callers at the gateway is seen, and names itself.
#[test]
fn a_network_policy_that_keeps_callers_from_the_gateway() {
    in_a_scene("kvpn-test-network-policy", |scene| {
        Cluster::get().apply(&json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "closed", "namespace": scene.origin.namespace },
            "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
        }));
        let refused = scene
            .ana
            .kvpn("expose --detach 8080:80 as web --takeover --force");
        refused
            .fails_with(FAILED)
            .says(&["closed", "NetworkPolicy"]);
        assert_eq!(scene.origin.object("web"), scene.before);
    });
}
