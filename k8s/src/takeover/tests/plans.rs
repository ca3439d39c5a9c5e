//! What the plans change, and that nothing else changes.

use super::*;
use crate::{
    Error, Whose,
    takeover::{
        annotation::{ANNOTATION, TargetPort},
        plan,
        restore::{Restored, Step, restore},
        shadow,
    },
};

fn claimed(service: &Value, claim: &Claim) -> Value {
    patched(service, plan::claim(&object(service), claim).unwrap())
}

fn swapped(service: &Value, session: &str) -> Value {
    patched(
        service,
        plan::swap(&object(service), session, &exposed()).unwrap(),
    )
}

fn restored(service: &Value, whose: &Whose) -> Value {
    match restore(&object(service), whose).unwrap() {
        Step::Patch(patch, _) => patched(service, Some(patch)),
        step => panic!("{step:?}"),
    }
}

fn ana() -> Whose {
    Whose::Session("ana".into())
}

/// A whole takeover by `ana`.
fn taken(service: &Value) -> Value {
    swapped(&claimed(service, &claim("ana", "all")), "ana")
}

#[test]
fn a_claim_changes_the_annotation_and_nothing_else() {
    let mut after = claimed(&web(), &claim("ana", "all"));
    let annotation = object(&after).annotation().unwrap().unwrap();
    assert_eq!(
        (annotation.gateway.as_str(), annotation.created),
        (GATEWAY, false)
    );
    assert_eq!(annotation.owner("ana").unwrap().name(), "ana@laptop");
    assert_eq!(
        plan::claim(&object(&after), &claim("ana", "all")).unwrap(),
        None,
        "again: nothing to write"
    );
    after["metadata"]["annotations"]
        .as_object_mut()
        .unwrap()
        .remove(ANNOTATION);
    assert_eq!(after, web());
}

#[test]
fn a_swap_changes_selector_and_targets_and_nothing_else() {
    let after = taken(&web());
    let mut expected = web();
    expected["metadata"]["annotations"] = after["metadata"]["annotations"].clone();
    expected["spec"]["selector"] = json!({ "app.kubernetes.io/name": "kvpn-gateway", "statefulset.kubernetes.io/pod-name": GATEWAY });
    expected["spec"]["ports"][0]["targetPort"] = 20_000.into();
    expected["spec"]["ports"][1]["targetPort"] = 20_001.into();
    assert_eq!(after, expected);
    assert_eq!(
        plan::swap(&object(&after), "ana", &exposed()).unwrap(),
        None,
        "again: nothing to write"
    );
    let annotation = object(&after).annotation().unwrap().unwrap();
    let targets: Vec<_> = annotation
        .original
        .ports
        .iter()
        .map(|port| port.target_port.clone())
        .collect();
    assert_eq!(
        targets,
        [TargetPort::Name("http".into()), TargetPort::Number(5353)]
    );
    assert_eq!(
        annotation.owners[0].expose.ports[0].gateway_port,
        Some(20_000),
        "a new gateway listens there again"
    );
}

#[test]
fn every_patch_is_bound_to_what_was_read() {
    let claim = plan::claim(&object(&web()), &claim("ana", "all"))
        .unwrap()
        .unwrap();
    assert_eq!(claim["metadata"]["resourceVersion"], "1");
    let Step::Patch(undo, Restored::Service) = restore(&object(&taken(&web())), &ana()).unwrap()
    else {
        panic!("a patch")
    };
    assert_eq!(undo["metadata"]["resourceVersion"], "1");
}

#[test]
fn a_restore_gives_back_every_byte() {
    for kind in ["ClusterIP", "NodePort", "LoadBalancer"] {
        for target in [json!("http"), json!(8080), json!(80)] {
            let mut before = web();
            before["spec"]["type"] = kind.into();
            before["spec"]["ports"][0]["targetPort"] = target;
            assert_eq!(restored(&taken(&before), &ana()), before);
            assert_eq!(restored(&taken(&before), &Whose::Everybody), before);
            let only_claimed = claimed(&before, &claim("ana", "all"));
            assert_eq!(
                restored(&only_claimed, &ana()),
                before,
                "killed before the swap"
            );
        }
    }
    let mut bare = web();
    bare["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("annotations");
    let mut back = restored(&taken(&bare), &ana());
    assert_eq!(
        back["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("annotations"),
        Some(json!({})),
        "the API server drops it"
    );
    assert_eq!(back, bare);
}

#[test]
fn edits_that_others_made_meanwhile_stay() {
    let mut service = taken(&web());
    service["spec"]["ports"][0]["name"] = "renamed".into();
    service["spec"]["ports"][1]["port"] = 5300.into();
    let added = json!({ "name": "new", "port": 9000, "protocol": "TCP", "targetPort": 9000 });
    service["spec"]["ports"]
        .as_array_mut()
        .unwrap()
        .insert(0, added.clone());
    service["metadata"]["labels"]["more"] = "yes".into();
    service["spec"]["type"] = "ClusterIP".into();
    let back = restored(&service, &ana());
    assert_eq!(back["spec"]["ports"][0], added);
    assert_eq!(
        (
            &back["spec"]["ports"][1]["name"],
            &back["spec"]["ports"][1]["targetPort"]
        ),
        (&json!("renamed"), &json!("http"))
    );
    assert_eq!(
        (
            &back["spec"]["ports"][2]["port"],
            &back["spec"]["ports"][2]["targetPort"]
        ),
        (&json!(5300), &json!(5353))
    );
    assert_eq!(back["spec"]["selector"], web()["spec"]["selector"]);
    assert_eq!(back["metadata"]["labels"]["more"], "yes");
    assert_eq!(back["spec"]["type"], "ClusterIP");
}

#[test]
fn a_selector_that_others_chose_wins() {
    let mut service = taken(&web());
    service["spec"]["selector"] = json!({ "app": "web", "version": "2" });
    let back = restored(&service, &ana());
    assert_eq!(
        back["spec"]["selector"],
        json!({ "app": "web", "version": "2" })
    );
    assert_eq!(
        back["spec"]["ports"],
        web()["spec"]["ports"],
        "targets that are still ours are not"
    );
    assert!(back["metadata"]["annotations"].get(ANNOTATION).is_none());
}

/// `kubectl apply` adds its keys to ours: nothing is selected until ours go.
#[test]
fn a_selector_merged_with_ours_becomes_theirs() {
    let mut service = taken(&web());
    service["spec"]["selector"]["app"] = "web2".into();
    let back = restored(&service, &ana());
    assert_eq!(
        back["spec"]["selector"],
        json!({ "app": "web2", "tier": "front" })
    );
    let again = swapped(&service, "ana");
    assert_eq!(
        restored(&again, &ana())["spec"]["selector"],
        json!({ "app": "web2", "tier": "front" }),
        "swapped once more"
    );
}

#[test]
fn several_sessions_share_a_service_and_the_last_restores_it() {
    let first = swapped(&claimed(&web(), &claim("ana", "x-dev: ana")), "ana");
    let both = swapped(&claimed(&first, &claim("bob", "x-dev: bob")), "bob");
    assert_eq!(both["spec"], first["spec"], "swapped once");
    let bob_alone = restored(&both, &ana());
    assert_eq!(bob_alone["spec"], first["spec"]);
    let annotation = object(&bob_alone).annotation().unwrap().unwrap();
    assert!(annotation.owner("ana").is_none() && annotation.owner("bob").is_some());
    assert_eq!(restored(&bob_alone, &Whose::Session("bob".into())), web());
    assert_eq!(restored(&both, &Whose::Everybody), web());
    assert_eq!(
        restore(&object(&bob_alone), &ana()).unwrap(),
        Step::Nothing,
        "ana's part has ended already"
    );
}

#[test]
fn a_rival_is_named() {
    let first = claimed(&web(), &claim("ana", "all"));
    let error = plan::claim(&object(&first), &claim("bob", "x-dev: bob")).unwrap_err();
    assert_eq!(error.exit_code(), 6);
    let text = error.to_string();
    assert!(text.starts_with("Service demo/web cannot be exposed: ana@laptop exposes it since 2026-11-21T17:00:00Z (everything)"), "{text}");
    let later = Claim {
        replaces: Some("ana".into()),
        ..claim("ana2", "all")
    };
    let after = object(&claimed(&first, &later))
        .annotation()
        .unwrap()
        .unwrap();
    assert!(
        after.owner("ana").is_none() && after.owner("ana2").is_some(),
        "the same client's next session"
    );
}

#[test]
fn all_sessions_of_a_service_use_one_gateway() {
    let first = claimed(&web(), &claim("ana", "x-dev: ana"));
    let elsewhere = Claim {
        gateway: "kvpn-gateway-1".into(),
        ..claim("bob", "x-dev: bob")
    };
    let error = plan::claim(&object(&first), &elsewhere)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("through the gateway pod kvpn-gateway-0"),
        "{error}"
    );
    let moved = Claim {
        gateway: "kvpn-gateway-1".into(),
        ..claim("ana", "x-dev: ana")
    };
    let gateway = Exposed {
        pod_name: "kvpn-gateway-1".into(),
        ..exposed()
    };
    let before = claimed(&taken(&web()), &moved);
    let after = patched(
        &before,
        plan::swap(&object(&before), "ana", &gateway).unwrap(),
    );
    assert_eq!(
        after["spec"]["selector"]["statefulset.kubernetes.io/pod-name"],
        "kvpn-gateway-1"
    );
    assert_eq!(restored(&after, &ana()), web(), "the only session may move");
}

#[test]
fn a_swap_without_a_claim_or_with_an_unknown_port_is_refused() {
    let error = plan::swap(&object(&web()), "ana", &exposed()).unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error}");
    let mut service = claimed(&web(), &claim("ana", "all"));
    let error = plan::swap(&object(&service), "bob", &exposed()).unwrap_err();
    assert!(
        error.to_string().contains("no longer names this session"),
        "{error}"
    );
    service["spec"]["ports"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "port": 81, "protocol": "TCP" }));
    let error = plan::swap(&object(&service), "ana", &exposed()).unwrap_err();
    assert!(error.to_string().contains("its port 81 is new"), "{error}");
}

#[test]
fn what_bears_no_valid_annotation_is_not_touched() {
    assert_eq!(
        restore(&object(&web()), &Whose::Everybody).unwrap(),
        Step::Nothing
    );
    let valid = object(&claimed(&web(), &claim("ana", "all")))
        .annotation()
        .unwrap()
        .unwrap();
    let next_year = serde_json::to_string(&crate::Annotation {
        version: 2,
        ..valid.clone()
    })
    .unwrap();
    let nobodys = serde_json::to_string(&crate::Annotation {
        owners: vec![],
        ..valid
    })
    .unwrap();
    for text in ["", "{}", "ana", &next_year, &nobodys] {
        let mut service = web();
        service["metadata"]["annotations"][ANNOTATION] = text.into();
        for refusal in [
            restore(&object(&service), &Whose::Everybody).unwrap_err(),
            plan::claim(&object(&service), &claim("ana", "all")).unwrap_err(),
        ] {
            assert!(
                refusal
                    .to_string()
                    .contains("cannot be touched: its annotation kvpn.dev/exposure"),
                "{refusal}"
            );
            assert!(refusal.hint().unwrap().contains("remove the annotation"));
        }
    }
}

#[test]
fn a_service_that_kvpn_made_is_removed_unless_others_made_it_theirs() {
    let mut made = plan::new_service(&claim("ana", "all"));
    assert!(
        made["spec"].get("selector").is_none(),
        "it leads nowhere before the swap"
    );
    assert_eq!(restore(&object(&made), &ana()).unwrap(), Step::Delete);
    made = swapped(&made, "ana");
    assert_eq!(restore(&object(&made), &ana()).unwrap(), Step::Delete);
    assert_eq!(shadow::shadow(&object(&made)).unwrap(), None);
    made["spec"]["selector"] = json!({ "app": "web" });
    let theirs = restored(&made, &ana());
    assert_eq!(theirs["spec"]["selector"], json!({ "app": "web" }));
    assert_eq!(theirs["spec"]["ports"][0]["targetPort"], 80);
    assert_eq!(theirs["metadata"]["labels"], json!({}));
}

#[test]
fn a_shadow_leads_to_the_origin_before_and_after_the_swap() {
    let before = claimed(&web(), &claim("ana", "all"));
    let shadow = shadow::shadow(&object(&before)).unwrap().unwrap();
    assert_eq!(
        shadow::shadow(&object(&taken(&web()))).unwrap().unwrap(),
        shadow
    );
    assert_eq!(shadow["metadata"]["name"], "web-kvpn-origin");
    assert_eq!(
        shadow["metadata"]["labels"],
        json!({ "app.kubernetes.io/managed-by": "kvpn", "kvpn.dev/origin-of": "web" })
    );
    assert_eq!(
        shadow["metadata"]["ownerReferences"][0]["uid"], "u1",
        "it ends with the Service"
    );
    assert_eq!(
        shadow["spec"],
        json!({
            "type": "ClusterIP", "selector": web()["spec"]["selector"], "sessionAffinity": "None",
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack",
            "ports": [
                { "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http" },
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353 },
            ],
        })
    );
}

#[test]
fn a_shadows_name_fits_and_stays_its_own() {
    assert_eq!(
        shadow::name(&"a".repeat(51)),
        format!("{}-kvpn-origin", "a".repeat(51))
    );
    let names: Vec<String> = ["a", "b"]
        .map(|last| shadow::name(&format!("{}{last}", "a-".repeat(31))))
        .to_vec();
    assert_ne!(names[0], names[1]);
    for name in names {
        assert!(
            name.len() <= 63 && name.ends_with("-kvpn-origin") && !name.contains("--"),
            "{name}"
        );
        assert!(name.parse::<kvpn_wire::name::ServiceName>().is_ok());
    }
}
