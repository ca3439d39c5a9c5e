//! What is found on a Service and around it, and which ports are meant.

use super::*;
use crate::{
    ExposureWish, Inspection, Severity,
    takeover::inspect::{Around, inspection, inspection_of_new},
};

fn wish(ports: &[&str]) -> ExposureWish {
    ExposureWish {
        namespace: "demo".into(),
        service: "web".into(),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        traffic: Traffic::All,
        fallback: true,
        proxy_protocol: false,
        owner: "ana@laptop".into(),
        gateway: GATEWAY.into(),
    }
}

fn around(extra: Value) -> Around {
    let part = |name: &str| extra.get(name).cloned().unwrap_or_else(|| json!([]));
    Around {
        namespace: serde_json::from_value(extra["namespace"].clone()).ok(),
        pods: serde_json::from_value(part("pods")).unwrap(),
        scalers: serde_json::from_value(part("scalers")).unwrap(),
        ..Around::default()
    }
}

fn inspected(service: &Value, extra: Value) -> Inspection {
    inspection(&wish(&["8080:80"]), &object(service), &around(extra)).unwrap()
}

/// The gravest finding about a changed `web`, as an error, with and without force.
fn refusal(change: impl Fn(&mut Value), extra: Value) -> [Option<String>; 2] {
    let mut service = web();
    change(&mut service);
    let inspection = inspected(&service, extra);
    [false, true].map(|force| inspection.refusal(force).map(|error| error.to_string()))
}

/// What somebody does to a Service.
type Change = fn(&mut Value);

#[test]
fn an_ordinary_service_is_taken_over_with_all_its_ports() {
    let inspection = inspected(&web(), json!({}));
    assert_eq!(
        (
            inspection.takeover,
            inspection.findings.as_slice(),
            inspection.annotation.as_ref()
        ),
        (true, [].as_slice(), None)
    );
    assert!(inspection.refusal(false).is_none());
    let expose = inspection.expose;
    assert_eq!(expose.origin.as_deref(), Some("web-kvpn-origin"));
    let ports: Vec<_> = expose
        .ports
        .iter()
        .map(|port| (port.port, port.laptop_port, port.gateway_port))
        .collect();
    assert_eq!(
        ports,
        [(80, Some(8080), None), (53, None, None)],
        "what is not exposed is passed on"
    );
}

#[test]
fn what_cannot_work_is_refused_with_and_without_force() {
    let cases: [(Change, &str); 4] = [
        (
            |service| service["spec"]["type"] = "ExternalName".into(),
            "is of type ExternalName",
        ),
        (
            |service| service["spec"]["selector"] = Value::Null,
            "has no selector",
        ),
        (
            |service| service["metadata"]["deletionTimestamp"] = "2026-11-21T17:00:00Z".into(),
            "is being deleted",
        ),
        (
            |service| service["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "kvpn".into(),
            "is kvpn's own",
        ),
    ];
    for (change, what) in cases {
        for refusal in refusal(change, json!({})) {
            assert!(
                refusal
                    .as_ref()
                    .is_some_and(|text| text.starts_with(&format!("Service demo/web {what}"))),
                "{what}: {refusal:?}"
            );
        }
    }
}

#[test]
fn what_may_break_something_needs_force() {
    let cases: [(Change, &str); 8] = [
        (
            |service| service["spec"]["clusterIP"] = "None".into(),
            "is headless",
        ),
        (
            |service| service["spec"]["externalTrafficPolicy"] = "Local".into(),
            "has externalTrafficPolicy Local",
        ),
        (
            |service| service["spec"]["internalTrafficPolicy"] = "Local".into(),
            "has internalTrafficPolicy Local",
        ),
        (
            |service| {
                service["metadata"]["annotations"]["argocd.argoproj.io/tracking-id"] =
                    "a:v1/Service:demo/web".into()
            },
            "is tracked by Argo CD",
        ),
        (
            |service| {
                service["metadata"]["managedFields"] = json!([{ "manager": "argocd-controller" }])
            },
            "is tracked by Argo CD",
        ),
        (
            |service| {
                service["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/name"] = "apps".into()
            },
            "is tracked by Flux (a Kustomization)",
        ),
        (
            |service| service["metadata"]["labels"]["helm.toolkit.fluxcd.io/name"] = "web".into(),
            "is tracked by Flux (a HelmRelease)",
        ),
        (
            |service| {
                service["metadata"]["managedFields"] = json!([{ "manager": "helm-controller" }])
            },
            "is tracked by Flux (a HelmRelease)",
        ),
    ];
    for (change, what) in cases {
        let [plain, forced] = refusal(change, json!({}));
        assert!(
            plain.as_ref().is_some_and(|text| text.contains(what)),
            "{what}: {plain:?}"
        );
        assert_eq!(forced, None, "{what}");
    }
    let paused = |service: &mut Value| {
        service["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/name"] = "apps".into();
        service["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/reconcile"] =
            "disabled".into();
    };
    assert_eq!(refusal(paused, json!({})), [None, None]);
}

#[test]
fn what_is_only_worth_knowing_refuses_nothing() {
    let mut service = web();
    service["spec"]["sessionAffinity"] = "ClientIP".into();
    service["metadata"]["labels"]["app.kubernetes.io/instance"] = "web".into();
    let inspection = inspected(&service, json!({}));
    let severities: Vec<_> = inspection
        .findings
        .iter()
        .map(|finding| finding.severity)
        .collect();
    assert_eq!(severities, [Severity::Note; 2], "{:?}", inspection.findings);
    service["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "Helm".into();
    assert_eq!(
        inspected(&service, json!({})).findings.len(),
        1,
        "every chart sets the label, and Helm puts nothing back"
    );
}

#[test]
fn a_mesh_needs_force() {
    let cases = [
        (
            json!({ "namespace": { "metadata": { "name": "demo", "labels": { "istio-injection": "enabled" } } } }),
            "namespace demo is part of a mesh (Istio)",
        ),
        (
            json!({ "namespace": { "metadata": { "name": "demo", "annotations": { "linkerd.io/inject": "enabled" } } } }),
            "namespace demo is part of a mesh (Linkerd)",
        ),
        (
            json!({ "pods": [{ "metadata": { "name": "a", "namespace": "demo" }, "spec": { "containers": [{ "name": "app" }, { "name": "linkerd-proxy" }] } }] }),
            "pod demo/a is part of a mesh (Linkerd)",
        ),
        (
            json!({ "pods": [{ "metadata": { "name": "a", "namespace": "demo" }, "spec": { "containers": [], "initContainers": [{ "name": "istio-proxy" }] } }] }),
            "pod demo/a is part of a mesh (Istio)",
        ),
    ];
    for (extra, what) in cases {
        let [plain, forced] = refusal(|_| {}, extra);
        assert!(
            plain.as_ref().is_some_and(|text| text.starts_with(what)),
            "{plain:?}"
        );
        assert_eq!(forced, None);
    }
    let out = json!({ "namespace": { "metadata": { "name": "demo", "labels": { "istio-injection": "disabled" } } } });
    assert_eq!(refusal(|_| {}, out), [None, None]);
}

#[test]
fn an_autoscaler_matters_as_far_as_load_is_taken_away() {
    let scaled = |kind: &str, name: &str| {
        json!({
            "pods": [{ "metadata": { "name": "web-5d4-x", "labels": { "pod-template-hash": "5d4" },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4", "uid": "r" }] } }],
            "scalers": [{ "metadata": { "name": "h", "namespace": "demo" },
                "spec": { "maxReplicas": 3, "scaleTargetRef": { "kind": kind, "name": name } } }],
        })
    };
    let [plain, forced] = refusal(|_| {}, scaled("Deployment", "web"));
    assert!(
        plain
            .unwrap()
            .starts_with("HorizontalPodAutoscaler demo/h scales Deployment web")
    );
    assert_eq!(forced, None);
    assert_eq!(refusal(|_| {}, scaled("Deployment", "other")), [None, None]);
    let mirror = ExposureWish {
        traffic: Traffic::Mirror,
        ..wish(&["8080:80"])
    };
    let inspection = inspection(
        &mirror,
        &object(&web()),
        &around(scaled("Deployment", "web")),
    )
    .unwrap();
    assert_eq!(inspection.findings[0].severity, Severity::Note);
    assert!(inspection.refusal(false).is_none());
}

/// The Service's port that each mapping means, or what is said.
fn meant(ports: &[&str]) -> Result<Vec<(u16, Option<u16>)>, String> {
    let inspection = inspection(&wish(ports), &object(&web()), &Around::default());
    let expose = inspection
        .map_err(|error| format!("{error}; {}", error.hint().unwrap()))?
        .expose;
    Ok(expose
        .ports
        .iter()
        .map(|port| (port.port, port.laptop_port))
        .collect())
}

#[test]
fn ports_are_found_by_number_name_protocol_or_the_laptops_number() {
    let http = Ok(vec![(80, Some(8080)), (53, None)]);
    assert_eq!(meant(&["8080:80"]), http);
    assert_eq!(meant(&["8080:http"]), http);
    assert_eq!(meant(&["8080/tcp"]), http, "the only one of its protocol");
    assert_eq!(meant(&["80"]), Ok(vec![(80, Some(80)), (53, None)]));
    assert_eq!(
        meant(&["8080:http", "5353:dns"]),
        Ok(vec![(80, Some(8080)), (53, Some(5353))])
    );
    let unknown = "Service demo/web has several ports, none of them 8080; name one of its ports: 8080:80 (http), 8080:53/udp (dns)";
    assert_eq!(meant(&["8080"]), Err(unknown.into()));
    assert!(meant(&["8080:81"]).unwrap_err().contains("has no port 81;"));
    assert!(
        meant(&["8080:80/udp"])
            .unwrap_err()
            .contains("has no port 80/udp;")
    );
    assert!(
        meant(&["8080:80", "9090:http"])
            .unwrap_err()
            .contains("port 80/tcp twice")
    );
    let headers = ExposureWish {
        traffic: expose("ana", "x-dev: ana").traffic,
        ..wish(&["53:dns"])
    };
    assert!(
        inspection(&headers, &object(&web()), &Around::default())
            .unwrap()
            .expose
            .check()
            .is_err(),
        "UDP has no requests"
    );
}

#[test]
fn a_headless_services_ports_are_those_that_callers_use() {
    let mut service = web();
    service["spec"]["clusterIP"] = "None".into();
    let ports = inspected(&service, json!({})).expose.ports;
    assert_eq!(
        [ports[0].gateway_port, ports[1].gateway_port],
        [Some(80), Some(5353)]
    );
}

#[test]
fn sctp_cannot_be_passed_on() {
    let mut service = web();
    service["spec"]["ports"][1]["protocol"] = "SCTP".into();
    let error = inspection(&wish(&["8080:80"]), &object(&service), &Around::default()).unwrap_err();
    assert!(
        error.to_string().contains("port 53 with protocol \"SCTP\""),
        "{error}"
    );
}

#[test]
fn a_new_service_gets_the_ports_that_are_named() {
    let ports = |texts: &[&str]| {
        let inspection = inspection_of_new(&wish(texts), &Around::default())?;
        assert!(!inspection.takeover && inspection.expose.origin.is_none());
        Ok::<_, crate::Error>(
            inspection
                .expose
                .ports
                .into_iter()
                .map(|port| (port.port, port.name))
                .collect::<Vec<_>>(),
        )
    };
    let named = |port, name: &str| (port, name.to_owned());
    assert_eq!(
        ports(&["8080:80", "9090:9090/udp", "3000:http"]).unwrap(),
        [
            named(80, "tcp-80"),
            named(9090, "udp-9090"),
            named(3000, "http")
        ]
    );
    assert!(
        ports(&["8080:80", "8081:80"])
            .unwrap_err()
            .to_string()
            .contains("port 80/tcp twice")
    );
}
