//! Looking at a Service before it is exposed: its ports, what stands in the way, who has it already.

use super::{
    SERVICES,
    annotation::Annotation,
    finding::{self, Finding, Severity},
    object::Object,
    plan::read,
    policies::{self, Paths},
    ports, service_text, shadow,
    steps::label_text,
    surroundings,
};
use crate::{Cluster, Error, cluster::call::Call};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{Namespace, Pod, Service},
        networking::v1::NetworkPolicy,
    },
};
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject, ListParams},
};
use kvpn_wire::{
    control::{Expose, ExposedPort},
    exposure::{PortMapping, Traffic},
};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// What a user wants.
#[derive(Debug, Clone, PartialEq)]
pub struct ExposureWish {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// Which ports.
    pub ports: Vec<PortMapping>,
    /// Which traffic.
    pub traffic: Traffic,
    /// Whether the origin answers when the laptop does not.
    pub fallback: bool,
    /// Whether the laptop gets PROXY protocol headers.
    pub proxy_protocol: bool,
    /// Who it is, for people: `ana@laptop`.
    pub owner: String,
    /// The gateway pod that the Service would lead to.
    pub gateway: String,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// Whether the Service is there and is someone else's: then it is a takeover, else kvpn makes it (or made it).
    pub takeover: bool,
    /// What to ask of the gateway, and to claim.
    pub expose: Expose,
    /// What stands in the way, or is worth knowing.
    pub findings: Vec<Finding>,
    /// What could not be looked at: sentences for the user.
    pub unread: Vec<String>,
    /// The exposure that the Service has already.
    pub annotation: Option<Annotation>,
}

impl Inspection {
    /// Why it is not done: the gravest finding that `--force` does not pass over.
    pub fn refusal(&self, force: bool) -> Option<Error> {
        finding::refusal(&self.findings, force)
    }
}

impl Cluster {
    /// Looks at a Service and what is around it. Changes nothing. What the user may not read is left out, and said so.
    ///
    /// # Errors
    /// [`Error::Forbidden`] when the Service may not be read; [`Error::Refused`] when the ports do not fit; [`Error::Unreachable`].
    pub async fn inspect_service(&self, wish: &ExposureWish) -> Result<Inspection, Error> {
        let service = self.service(&wish.namespace, &wish.service).await?;
        let selector = service.as_ref().map(origin_selector).unwrap_or_default();
        let around = self
            .surroundings(&wish.namespace, &selector, &wish.gateway)
            .await?;
        let inspection = match &service {
            Some(service) => inspection(wish, service, &around)?,
            None => inspection_of_new(wish, &around)?,
        };
        checked(wish, inspection)
    }

    /// A Service with all its fields.
    pub(super) async fn service(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Object>, Error> {
        let api = self.services(namespace).await?;
        let call = Call::namespaced("get", SERVICES, namespace).named(name);
        let found = self.run(&call, api.get_opt(name)).await?;
        Ok(found.as_ref().map(whole))
    }

    /// Services with all their fields.
    pub(super) async fn services(&self, namespace: &str) -> Result<Api<DynamicObject>, Error> {
        let resource = ApiResource::erase::<Service>(&());
        Ok(Api::namespaced_with(
            self.client().await?,
            namespace,
            &resource,
        ))
    }

    async fn surroundings(
        &self,
        namespace: &str,
        selector: &str,
        gateway: &str,
    ) -> Result<Around, Error> {
        let all = ListParams::default();
        let (namespace_seen, gateway, pods, scalers, policies) = tokio::join!(
            self.read_namespace(namespace),
            self.read_pod(namespace, gateway),
            self.read_origin(namespace, selector),
            self.read_all::<HorizontalPodAutoscaler>(
                "horizontalpodautoscalers.autoscaling",
                namespace,
                &all
            ),
            self.read_all::<NetworkPolicy>("networkpolicies.networking.k8s.io", namespace, &all),
        );
        let mut unread = Vec::new();
        Ok(Around {
            namespace: seen(
                namespace_seen,
                "whether a mesh takes the namespace in",
                &mut unread,
            )?,
            gateway: seen(
                gateway,
                "whether NetworkPolicies reach the gateway pod",
                &mut unread,
            )?
            .flatten(),
            pods: seen(pods, "the pods behind the Service", &mut unread)?.unwrap_or_default(),
            scalers: seen(
                scalers,
                "whether an autoscaler looks after the pods",
                &mut unread,
            )?
            .unwrap_or_default(),
            policies: seen(
                policies,
                "whether NetworkPolicies keep callers from the gateway",
                &mut unread,
            )?
            .unwrap_or_default(),
            unread,
        })
    }

    async fn read_namespace(&self, name: &str) -> Result<Namespace, Error> {
        let api: Api<Namespace> = Api::all(self.client().await?);
        let call = Call::cluster("get", "namespaces").named(name);
        self.run(&call, api.get(name)).await
    }

    async fn read_pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Error> {
        let api = self.api::<Pod>(namespace).await?;
        let call = Call::namespaced("get", "pods", namespace).named(name);
        self.run(&call, api.get_opt(name)).await
    }

    /// The origin's pods; an empty selector selects nobody, as in a Service.
    async fn read_origin(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>, Error> {
        if selector.is_empty() {
            return Ok(Vec::new());
        }
        let selected = ListParams::default().labels(selector);
        self.read_all("pods", namespace, &selected).await
    }

    pub(super) async fn read_all<K>(
        &self,
        resource: &'static str,
        namespace: &str,
        params: &ListParams,
    ) -> Result<Vec<K>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let api = self.api::<K>(namespace).await?;
        let call = Call::namespaced("list", resource, namespace);
        Ok(self.run(&call, api.list(params)).await?.items)
    }
}

/// A Service's fields, as they came.
pub(super) fn whole(object: &DynamicObject) -> Object {
    Object(serde_json::to_value(object).expect("what came as JSON has a JSON form"))
}

/// What is around a Service, as far as it may be seen.
#[derive(Debug, Default)]
pub(super) struct Around {
    pub(super) namespace: Option<Namespace>,
    pub(super) gateway: Option<Pod>,
    pub(super) pods: Vec<Pod>,
    pub(super) scalers: Vec<HorizontalPodAutoscaler>,
    pub(super) policies: Vec<NetworkPolicy>,
    pub(super) unread: Vec<String>,
}

/// What was read; without the right (or the API) it is skipped, and said what for.
fn seen<T>(
    read: Result<T, Error>,
    what_for: &str,
    unread: &mut Vec<String>,
) -> Result<Option<T>, Error> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Error::Forbidden { verb, resource, .. }) => {
            unread.push(format!(
                "not looked at: {what_for} (you may not {verb} {resource})"
            ));
            Ok(None)
        }
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The origin's pods, as a label selector's text: of a Service that is swapped, those it had before.
fn origin_selector(service: &Object) -> String {
    let selector = match service.annotation() {
        Ok(Some(annotation)) => super::restore::selector_before(&service.selector(), &annotation),
        Ok(None) | Err(_) => service.selector(),
    };
    label_text(&selector)
}

/// What follows from all that was seen.
pub(super) fn inspection(
    wish: &ExposureWish,
    service: &Object,
    around: &Around,
) -> Result<Inspection, Error> {
    let annotation = read(service)?;
    let created = annotation
        .as_ref()
        .is_some_and(|annotation| annotation.created);
    let ports = ports::of_existing(service, &wish.ports)?;
    let origin = (!created).then(|| shadow::name(service.name()));
    let expose = expose(wish, ports, origin);
    let mut findings = finding::of_service(service);
    if !created {
        findings.extend(around_findings(wish, &expose, around));
    }
    Ok(Inspection {
        takeover: !created,
        expose,
        findings,
        unread: around.unread.clone(),
        annotation,
    })
}

/// A Service that kvpn would make: only a NetworkPolicy can stand in its way, and whom it keeps out is for the user to know.
pub(super) fn inspection_of_new(wish: &ExposureWish, around: &Around) -> Result<Inspection, Error> {
    let ports = ports::of_new(&wish.namespace, &wish.service, &wish.ports)?;
    let expose = expose(wish, ports, None);
    let findings = policy_findings(&expose, around)
        .into_iter()
        .map(|finding| Finding {
            severity: Severity::NeedsForce,
            ..finding
        });
    Ok(Inspection {
        takeover: false,
        findings: findings.collect(),
        expose,
        unread: around.unread.clone(),
        annotation: None,
    })
}

fn around_findings(wish: &ExposureWish, expose: &Expose, around: &Around) -> Vec<Finding> {
    let mut findings: Vec<Finding> = surroundings::mesh(around.namespace.as_ref(), &around.pods)
        .into_iter()
        .collect();
    // A developer's own requests, or copies, take no load off the origin.
    let severity = match wish.traffic {
        Traffic::All | Traffic::Weight(_) => Severity::NeedsForce,
        Traffic::Match(_) | Traffic::Mirror => Severity::Note,
    };
    findings.extend(surroundings::autoscalers(
        &around.scalers,
        &around.pods,
        severity,
    ));
    findings.extend(policy_findings(expose, around));
    findings
}

fn policy_findings(expose: &Expose, around: &Around) -> Vec<Finding> {
    let Some(gateway) = &around.gateway else {
        return Vec::new();
    };
    let protocols: Vec<_> = expose.ports.iter().map(|port| port.protocol).collect();
    let namespace = around.namespace.as_ref();
    policies::of_policies(
        &around.policies,
        &Paths {
            gateway,
            origin: around.pods.first(),
            namespace: namespace.and_then(|namespace| namespace.metadata.labels.as_ref()),
            protocols: &protocols,
        },
    )
}

fn expose(wish: &ExposureWish, ports: Vec<ExposedPort>, origin: Option<String>) -> Expose {
    Expose {
        owner: wish.owner.clone(),
        ports,
        traffic: wish.traffic.clone(),
        origin,
        fallback: wish.fallback,
        proxy_protocol: wish.proxy_protocol,
    }
}

/// Refuses what the gateway would refuse, before anything is touched.
fn checked(wish: &ExposureWish, inspection: Inspection) -> Result<Inspection, Error> {
    match inspection.expose.check() {
        Ok(()) => Ok(inspection),
        Err(why) => Err(Error::Refused {
            object: service_text(&wish.namespace, &wish.service),
            why: format!("cannot be exposed like this: {why}"),
            remedy: "choose other ports or other traffic".to_owned(),
        }),
    }
}
