//! The shadow of an exposed Service: a Service that leads to the origin while the exposed one leads to the gateway. No calls.

use super::{
    object::Object,
    plan::read,
    restore::{ports_before, selector_before},
};
use crate::Error;
use blake2::{Blake2s256, Digest as _};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

/// Label of a shadow, with the name of the Service whose origin it leads to.
pub(super) const ORIGIN_OF: &str = "kvpn.dev/origin-of";

/// The end of a shadow's name.
const SUFFIX: &str = "-kvpn-origin";

/// Longest name of a Service.
const MAX_NAME: usize = 63;

/// The shadow's name: `web-kvpn-origin`; a name too long for that is cut, and told apart by a hash.
pub(super) fn name(service: &str) -> String {
    let room = MAX_NAME - SUFFIX.len();
    if service.len() <= room {
        return format!("{service}{SUFFIX}");
    }
    let hash: String = Blake2s256::digest(service)[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // Names of Services are ASCII.
    let start = service[..room - hash.len() - 1].trim_end_matches('-');
    format!("{start}-{hash}{SUFFIX}")
}

/// The shadow of a claimed Service, swapped or not; `None` when there is no origin.
///
/// It has no label of the Service's (monitors and meshes find Services by labels) and ends with it.
pub(super) fn shadow(service: &Object) -> Result<Option<Value>, Error> {
    let Some(annotation) = read(service)?.filter(|annotation| !annotation.created) else {
        return Ok(None);
    };
    let spec = &service.0["spec"];
    let ports: Vec<Value> = ports_before(service, &annotation)
        .iter()
        .map(port)
        .collect();
    let mut shadow = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name(service.name()),
            "namespace": service.namespace(),
            "labels": { super::MANAGED_BY: "kvpn", ORIGIN_OF: service.name() },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Service", "name": service.name(), "uid": service.uid() }],
        },
        "spec": {
            "type": "ClusterIP",
            "selector": selector_before(&service.selector(), &annotation),
            "ports": ports,
        },
    });
    let kept = [
        "ipFamilies",
        "ipFamilyPolicy",
        "publishNotReadyAddresses",
        "sessionAffinity",
        "sessionAffinityConfig",
    ];
    for field in kept.into_iter().filter(|field| !spec[*field].is_null()) {
        shadow["spec"][field] = spec[field].clone();
    }
    Ok(Some(shadow))
}

/// A port without what only one Service can have (`nodePort`).
fn port(port: &Value) -> Value {
    let kept = ["name", "port", "protocol", "targetPort", "appProtocol"];
    let fields = kept.into_iter().filter(|field| !port[*field].is_null());
    fields
        .map(|field| (field.to_owned(), port[field].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Whether somebody answers behind these slices. A condition that is not set means yes (EndpointConditions).
pub(super) fn any_ready<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> bool {
    let mut endpoints = slices.into_iter().flat_map(|slice| &slice.endpoints);
    endpoints.any(|endpoint| {
        endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true)
    })
}

/// Whether a Service is a shadow of that one.
pub(super) fn is_shadow_of(shadow: &Object, service: &str) -> bool {
    let labels = &shadow.0["metadata"]["labels"];
    labels[super::MANAGED_BY] == "kvpn" && labels[ORIGIN_OF] == service
}
