//! What stands around a Service and would suffer from a swap: meshes and autoscalers. No calls.

use super::finding::{Finding, Severity};
use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{Namespace, Pod},
};
use std::collections::{BTreeMap, BTreeSet};

type Map = BTreeMap<String, String>;

/// Containers that a mesh puts into pods, and whose they are.
const SIDECARS: [(&str, &str); 5] = [
    ("istio-proxy", "Istio"),
    ("linkerd-proxy", "Linkerd"),
    ("kuma-sidecar", "Kuma"),
    ("consul-dataplane", "Consul"),
    ("envoy-sidecar", "Consul"),
];

/// Labels and annotations by which a mesh takes a namespace or a pod in, with the values that mean no.
const MARKS: [(&str, &[&str], &str); 7] = [
    ("istio-injection", &["disabled"], "Istio"),
    ("istio.io/rev", &[], "Istio"),
    ("istio.io/dataplane-mode", &["none"], "Istio"),
    ("sidecar.istio.io/inject", &["false"], "Istio"),
    ("linkerd.io/inject", &["disabled"], "Linkerd"),
    ("kuma.io/sidecar-injection", &["disabled", "false"], "Kuma"),
    ("consul.hashicorp.com/connect-inject", &["false"], "Consul"),
];

/// A mesh around the origin: callers' sidecars expect a peer that the gateway is not.
pub(super) fn mesh(namespace: Option<&Namespace>, pods: &[Pod]) -> Option<Finding> {
    let of_namespace = namespace.and_then(|namespace| {
        let whose = marked(&namespace.metadata.labels, &namespace.metadata.annotations)?;
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        Some((format!("namespace {name}"), whose))
    });
    let (object, whose) = of_namespace.or_else(|| pods.iter().find_map(meshed_pod))?;
    Some(Finding::new(
        Severity::NeedsForce,
        object,
        format!(
            "is part of a mesh ({whose}): its callers may insist on the mesh's encryption, which the gateway does not speak, and its rules for the Service no longer apply"
        ),
        "let the mesh accept plain traffic to the Service (Istio: PeerAuthentication PERMISSIVE)",
    ))
}

fn meshed_pod(pod: &Pod) -> Option<(String, &'static str)> {
    let whose = sidecar(pod).or_else(|| marked(&pod.metadata.labels, &pod.metadata.annotations))?;
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    Some((
        format!(
            "pod {}/{}",
            of(&pod.metadata.namespace),
            of(&pod.metadata.name)
        ),
        whose,
    ))
}

fn sidecar(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let mut containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    containers.find_map(|container| {
        let known = SIDECARS.iter().find(|(name, _)| *name == container.name);
        known.map(|(_, whose)| *whose)
    })
}

fn marked(labels: &Option<Map>, annotations: &Option<Map>) -> Option<&'static str> {
    let value = |key: &str| {
        let maps = [labels, annotations].into_iter().flatten();
        maps.into_iter().find_map(|map| map.get(key))
    };
    let mark = MARKS
        .iter()
        .find(|(key, no, _)| value(key).is_some_and(|value| !no.contains(&value.as_str())));
    mark.map(|(_, _, whose)| *whose)
}

/// Autoscalers of the origin's workloads, which see less load than there is.
pub(super) fn autoscalers(
    scalers: &[HorizontalPodAutoscaler],
    pods: &[Pod],
    severity: Severity,
) -> Vec<Finding> {
    let workloads: BTreeSet<(String, String)> = pods.iter().flat_map(workloads).collect();
    let targets = scalers.iter().filter_map(|scaler| {
        let target = &scaler.spec.as_ref()?.scale_target_ref;
        workloads
            .contains(&(target.kind.clone(), target.name.clone()))
            .then_some((scaler, target))
    });
    targets
        .map(|(scaler, target)| {
            let of = |text: &Option<String>| text.clone().unwrap_or_default();
            Finding::new(
                severity,
                format!("HorizontalPodAutoscaler {}/{}", of(&scaler.metadata.namespace), of(&scaler.metadata.name)),
                format!("scales {} {}, which will see less load than there is, and may be made too small for what comes back", target.kind, target.name),
                "set its minReplicas to what is needed for the time",
            )
        })
        .collect()
}

/// A pod's owners, as autoscalers name them; a ReplicaSet's Deployment is known by the hash in its name.
fn workloads(pod: &Pod) -> Vec<(String, String)> {
    let labels = pod.metadata.labels.iter().flatten();
    let hash = labels
        .into_iter()
        .find(|(key, _)| *key == "pod-template-hash")
        .map(|(_, hash)| format!("-{hash}"));
    let owners = pod.metadata.owner_references.iter().flatten();
    owners
        .flat_map(|owner| {
            let deployment = hash
                .as_deref()
                .and_then(|hash| owner.name.strip_suffix(hash));
            let deployment = deployment.map(|name| ("Deployment".to_owned(), name.to_owned()));
            [Some((owner.kind.clone(), owner.name.clone())), deployment]
        })
        .flatten()
        .collect()
}
