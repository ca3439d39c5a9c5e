//! The patches that make an exposure: a claim, and the swap. No calls.

use super::{
    annotation::{ANNOTATION, Annotation, MAX_OWNERS, OriginalPort, Owner},
    object::{self, Object},
    restore::selector_before,
};
use crate::Error;
use kvpn_wire::{
    control::{Expose, Exposed},
    exposure::Protocol,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Who wants which Service.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The Service's namespace, which is the gateway's.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// The fingerprint of the session's public key.
    pub session: String,
    /// The fingerprint of a former session of the same client, whose part this takes over.
    pub replaces: Option<String>,
    /// The gateway pod that holds the session.
    pub gateway: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// What: see [`super::Inspection::expose`].
    pub expose: Expose,
}

impl Claim {
    fn owner(&self) -> Owner {
        Owner {
            session: self.session.clone(),
            since: self.since.clone(),
            expose: self.expose.clone(),
        }
    }
}

/// The patch that writes the claim into the annotation, and nothing else; `None` when it is there.
pub(super) fn claim(service: &Object, claim: &Claim) -> Result<Option<Value>, Error> {
    let found = read(service)?;
    let annotation = claimed(service, found.clone(), claim)?;
    let is_there = found.as_ref() == Some(&annotation);
    Ok((!is_there).then(|| patch(service, Some(&annotation), json!({}))))
}

fn claimed(
    service: &Object,
    found: Option<Annotation>,
    claim: &Claim,
) -> Result<Annotation, Error> {
    if found.is_none() && claim.expose.origin.is_none() {
        return Err(cannot(service, "somebody made it meanwhile; try again"));
    }
    let mut annotation = found.unwrap_or_else(|| Annotation::new(&claim.gateway, false));
    let former = annotation
        .owner(&claim.session)
        .map(|owner| owner.since.clone());
    annotation.owners.retain(|owner| {
        owner.session != claim.session && Some(&owner.session) != claim.replaces.as_ref()
    });
    let rival = annotation
        .owners
        .iter()
        .find(|other| !other.expose.is_disjoint(&claim.expose));
    if let Some(rival) = rival {
        return Err(cannot(service, &taken(rival)));
    }
    if annotation.owners.len() >= MAX_OWNERS {
        return Err(cannot(
            service,
            &format!("{MAX_OWNERS} sessions share it already"),
        ));
    }
    let is_elsewhere = annotation.gateway != claim.gateway;
    if is_elsewhere && !annotation.owners.is_empty() {
        let why = format!(
            "it is exposed through the gateway pod {}, and not through {}",
            annotation.gateway, claim.gateway
        );
        return Err(cannot(service, &why));
    }
    annotation.owners.push(Owner {
        since: former.unwrap_or_else(|| claim.since.clone()),
        ..claim.owner()
    });
    Ok(annotation)
}

fn taken(rival: &Owner) -> String {
    format!(
        "{} exposes it since {} ({}); choose other traffic with --match, or let them end it",
        rival.name(),
        rival.since,
        rival.expose.traffic
    )
}

/// The Service to create when there is none. It leads nowhere before the swap.
pub(super) fn new_service(claim: &Claim) -> Value {
    let mut annotation = Annotation::new(&claim.gateway, true);
    annotation.owners.push(claim.owner());
    let ports: Vec<Value> = claim
        .expose
        .ports
        .iter()
        .map(|port| json!({ "name": port.name, "port": port.port, "protocol": port.protocol.as_kubernetes() }))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": claim.service,
            "namespace": claim.namespace,
            "labels": { super::MANAGED_BY: "kvpn" },
            "annotations": { ANNOTATION: annotation.to_text() },
        },
        "spec": { "type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack", "ports": ports },
    })
}

/// The one patch that leads the Service to the gateway; `None` when it does lead there.
pub(super) fn swap(
    service: &Object,
    session: &str,
    exposed: &Exposed,
) -> Result<Option<Value>, Error> {
    let found = read(service)?;
    let mut annotation = found
        .clone()
        .filter(|annotation| annotation.owner(session).is_some())
        .ok_or_else(|| {
            cannot(
                service,
                "its annotation no longer names this session: it was restored meanwhile",
            )
        })?;
    let selector = service.selector();
    annotation.original.selector = selector_before(&selector, &annotation);
    annotation.gateway.clone_from(&exposed.pod_name);
    let (ports, originals) = swapped_ports(service, &annotation, exposed)?;
    annotation.original.ports = originals;
    for owner in annotation
        .owners
        .iter_mut()
        .filter(|owner| owner.session == session)
    {
        note_gateway_ports(owner, exposed);
    }
    let wanted = annotation.gateway_selector();
    if found.as_ref() == Some(&annotation) && wanted == selector && ports == service.ports() {
        return Ok(None);
    }
    let spec = json!({ "selector": difference(&selector, &wanted), "ports": ports });
    Ok(Some(patch(service, Some(&annotation), spec)))
}

/// The Service's ports, as they are but for the target, and what the targets were.
fn swapped_ports(
    service: &Object,
    annotation: &Annotation,
    exposed: &Exposed,
) -> Result<(Vec<Value>, Vec<OriginalPort>), Error> {
    let mut ports = service.ports().to_vec();
    let mut originals = Vec::new();
    for port in &mut ports {
        let (protocol, number) = (object::protocol(port), object::number(port));
        let listening = protocol.and_then(|protocol| gateway_port(exposed, number, protocol));
        let Some((protocol, gateway_port)) = protocol.zip(listening) else {
            let why = format!("its port {number} is new since it was looked at; try again");
            return Err(cannot(service, &why));
        };
        let target = object::target(port);
        let before = annotation.original_target(protocol, &target).cloned();
        originals.push(OriginalPort {
            protocol,
            gateway_port,
            target_port: before.unwrap_or(target),
        });
        port["targetPort"] = gateway_port.into();
    }
    Ok((ports, originals))
}

fn gateway_port(exposed: &Exposed, number: u16, protocol: Protocol) -> Option<u16> {
    let port = exposed
        .ports
        .iter()
        .find(|port| (port.port, port.protocol) == (number, protocol))?;
    Some(port.gateway_port)
}

/// A gateway that starts again listens where the Service leads.
fn note_gateway_ports(owner: &mut Owner, exposed: &Exposed) {
    for port in &mut owner.expose.ports {
        port.gateway_port = gateway_port(exposed, port.port, port.protocol).or(port.gateway_port);
    }
}

/// A merge patch (RFC 7396) of the annotation and the spec, refused with 409 unless the Service is the one that was read.
pub(super) fn patch(service: &Object, annotation: Option<&Annotation>, spec: Value) -> Value {
    let text = annotation.map(Annotation::to_text);
    let mut patch = json!({ "metadata": {
        "resourceVersion": service.resource_version(),
        "annotations": { ANNOTATION: text },
    }});
    if spec.as_object().is_some_and(|fields| !fields.is_empty()) {
        patch["spec"] = spec;
    }
    patch
}

/// A merge patch from one map to another.
pub(super) fn difference(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Value {
    let gone = from
        .keys()
        .filter(|key| !to.contains_key(*key))
        .map(|key| (key.clone(), Value::Null));
    let set = to
        .iter()
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    gone.chain(set).collect::<serde_json::Map<_, _>>().into()
}

/// The annotation, or a refusal to touch what cannot be read.
pub(super) fn read(service: &Object) -> Result<Option<Annotation>, Error> {
    service.annotation().map_err(|error| Error::Refused {
        object: service.text(),
        why: format!("cannot be touched: {error}"),
        remedy: format!("look at it, put selector and ports right by hand, and remove the annotation {ANNOTATION}"),
    })
}

fn cannot(service: &Object, why: &str) -> Error {
    Error::Taken {
        object: service.text(),
        why: why.to_owned(),
    }
}
