//! The way back: what is still ours becomes what it was; what others changed meanwhile stays theirs. No calls.

use super::{
    annotation::Annotation,
    object::{self, Object},
    plan::{difference, patch, read},
};
use crate::Error;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Whose part of an exposure ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// The session with this fingerprint; others' parts stay.
    Session(String),
    /// Everybody's.
    Everybody,
}

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// Nothing: the Service is not exposed, or not for that session.
    Nothing,
    /// Nothing: there is no such Service.
    Absent,
    /// The session's part ended; others have theirs.
    Shared,
    /// The Service is what it was. Its shadow is still there.
    Service,
    /// kvpn had made the Service and removed it.
    Removed,
}

/// The request that a restore takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// A merge patch, and what it means.
    Patch(Value, Restored),
    /// Deletion of this very object.
    Delete,
}

/// What to do with a Service, as it is now, to end `whose` part of its exposure.
///
/// A Service without a valid annotation is never touched: that is all a gateway's rights are good for.
pub(super) fn restore(service: &Object, whose: &Whose) -> Result<Step, Error> {
    let Some(mut annotation) = read(service)? else {
        return Ok(Step::Nothing);
    };
    if let Whose::Session(session) = whose {
        if annotation.owner(session).is_none() {
            return Ok(Step::Nothing);
        }
        annotation.owners.retain(|owner| owner.session != *session);
        if !annotation.owners.is_empty() {
            let shared = patch(service, Some(&annotation), json!({}));
            return Ok(Step::Patch(shared, Restored::Shared));
        }
    }
    let leads_to_us = service.selector() == annotation.gateway_selector();
    if annotation.created && (leads_to_us || service.selector().is_empty()) {
        return Ok(Step::Delete);
    }
    Ok(Step::Patch(undo(service, &annotation), Restored::Service))
}

/// One patch back. Without anything of ours in the spec, it only takes the annotation away.
fn undo(service: &Object, annotation: &Annotation) -> Value {
    let mut spec = Map::new();
    let selector = service.selector();
    let before = selector_before(&selector, annotation);
    if before != selector {
        spec.insert("selector".to_owned(), difference(&selector, &before));
    }
    let ports = ports_before(service, annotation);
    if ports != service.ports() {
        spec.insert("ports".to_owned(), ports.into());
    }
    let mut patch = patch(service, None, spec.into());
    if annotation.created {
        // Others made it theirs: kvpn no longer looks after it.
        patch["metadata"]["labels"][super::MANAGED_BY] = Value::Null;
    }
    patch
}

/// The selector without our part. When nothing of ours is in it, somebody chose another: that one stands. When others added to
/// ours (as `kubectl apply` does), their part stays.
pub(super) fn selector_before(
    selector: &BTreeMap<String, String>,
    annotation: &Annotation,
) -> BTreeMap<String, String> {
    let ours = annotation.gateway_selector();
    let is_ours = |key: &String, value: &String| ours.get(key) == Some(value);
    if !selector.iter().any(|(key, value)| is_ours(key, value)) {
        return selector.clone();
    }
    let mut before = annotation.original.selector.clone();
    let theirs = selector.iter().filter(|(key, value)| !is_ours(key, value));
    before.extend(theirs.map(|(key, value)| (key.clone(), value.clone())));
    before
}

/// The ports with their own targets again where ours still stand; ports that others added, renamed or renumbered stay so.
pub(super) fn ports_before(service: &Object, annotation: &Annotation) -> Vec<Value> {
    let mut ports = service.ports().to_vec();
    for port in &mut ports {
        let protocol = object::protocol(port);
        let target = object::target(port);
        let before = protocol.and_then(|protocol| annotation.original_target(protocol, &target));
        if let Some(before) = before {
            port["targetPort"] = json!(before);
        }
    }
    ports
}
