//! Who may expose, and what a session and a gateway may not do.

use kvpn::cluster::{Cluster, PATIENCE, User};
use kvpn::developer::Developer;
use kvpn::outcome::eventually;
use serde_json::json;

use super::failures::in_a_scene;
use super::{CONFLICT, NEEDED, NOT_PERMITTED};

/// The rights that `kvpn gateway rbac --for expose` prints are enough for a user who has no others; before, they are told which
/// are missing.
#[test]
fn the_printed_rights_are_enough() {
    if !Cluster::get().has(NEEDED) {
        return;
    }
    in_a_scene("kvpn-test-expose-rights", |scene| {
        let namespace = scene.origin.namespace;
        scene.ana.kvpn("gateway install").ok();
        let bob = Developer::start_as("bob", namespace, &Cluster::get().user(User::Nobody));
        let refused = bob.kvpn("expose --detach 8080:80 as web --takeover");
        refused
            .fails_with(NOT_PERMITTED)
            .says(&["pods/portforward", namespace]);
        assert_eq!(scene.origin.object("web"), scene.before);

        let rights = scene
            .ana
            .kvpn("gateway rbac --for expose --no-discovery --user nobody")
            .ok()
            .stdout;
        scene
            .ana
            .shell(&format!("kubectl apply -f - <<'Y'\n{rights}\nY"))
            .ok();
        bob.exposes("8080:80 as web --takeover");
        assert!(scene.origin.is_answered_by("web", "bob", PATIENCE));
        bob.kvpn("list").ok();
        bob.kvpn("unexpose web").ok();
        scene.origin.is_again("web", &scene.before, PATIENCE);
    });
}

/// Rights to connect are not rights to expose: the missing verb is named.
#[test]
fn who_may_connect_may_not_expose() {
    in_a_scene("kvpn-test-connect-rights", |scene| {
        let namespace = scene.origin.namespace;
        scene.ana.kvpn("gateway install").ok();
        let rights = scene
            .ana
            .kvpn("gateway rbac --for connect --no-discovery --user nobody")
            .ok()
            .stdout;
        scene
            .ana
            .shell(&format!("kubectl apply -f - <<'Y'\n{rights}\nY"))
            .ok();
        let bob = Developer::start_as("bob", namespace, &Cluster::get().user(User::Nobody));
        let refused = bob.kvpn("expose --detach 8080:80 as web --takeover");
        refused
            .fails_with(NOT_PERMITTED)
            .says(&["patch", "services"]);
        assert_eq!(scene.origin.object("web"), scene.before);
    });
}

#[test]
fn another_session_cannot_have_what_is_taken() {
    in_a_scene("kvpn-test-taken", |scene| {
        scene.take_over();
        let bob = Developer::start("bob", scene.origin.namespace);
        let owner = format!("dev@{}", scene.ana.laptop.name());
        for options in ["--takeover", "--takeover --force", "--match 'x-dev: bob'"] {
            let refused = bob.kvpn(&format!("expose --detach 8080:80 as web {options}"));
            refused.fails_with(CONFLICT).says(&[&owner]);
        }
        scene.is_anas();
        bob.kvpn("unexpose web");
        scene.is_anas();
    });
}

/// Annotations that kvpn did not write: the gateway, which may patch Services, leaves them alone. It would restore the third one,
/// whose session nobody knows, if the others were like it.
#[test]
fn the_gateway_touches_no_service_without_a_valid_annotation() {
    in_a_scene("kvpn-test-annotations", |scene| {
        let owner = json!({ "session": "nobody", "since": "2026-01-01T00:00:00Z", "expose": { "ports": [{ "port": 80, "laptopPort": 8080 }] } });
        let original = json!({ "selector": { "app": "restored" }, "ports": [] });
        let valid = json!({ "version": 1, "gateway": "kvpn-gateway-0", "original": original, "owners": [owner] });
        let mut other_version = valid.clone();
        other_version["version"] = json!(2);
        let mut no_owner = valid.clone();
        no_owner["owners"] = json!([]);
        let bad = [
            ("no-json", "{".to_owned()),
            ("other-version", other_version.to_string()),
            ("no-owner", no_owner.to_string()),
        ];
        let ours = json!({ "app.kubernetes.io/name": "kvpn-gateway", "statefulset.kubernetes.io/pod-name": "kvpn-gateway-0" });
        let write = |name: &str, annotation: &str| {
            scene.origin.service(name, &json!({ "selector": ours }));
            scene
                .origin
                .kubectl(&[
                    "annotate",
                    "service",
                    name,
                    &format!("kvpn.dev/exposure={annotation}"),
                ])
                .ok();
        };
        for (name, annotation) in &bad {
            write(name, annotation);
        }
        let before: Vec<_> = bad
            .iter()
            .map(|(name, _)| scene.origin.object(name))
            .collect();
        write("valid", &valid.to_string());
        scene.ana.kvpn("gateway install").ok();
        // The valid one is restored by a gateway that starts: so the others were looked at too.
        let restored = eventually(PATIENCE, || {
            scene.origin.object("valid")["spec"]["selector"]["app"] == "restored"
        });
        assert!(restored, "{}", scene.origin.object("valid"));
        let after: Vec<_> = bad
            .iter()
            .map(|(name, _)| scene.origin.object(name))
            .collect();
        assert_eq!(before, after);
    });
}
