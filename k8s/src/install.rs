//! Installing and removing the gateway: server-side apply of the manifests, removal by labels.

mod kind;

use crate::{
    Cluster, Error, FIELD_MANAGER, GATEWAY_NAME, GatewaySpec, UdpExposure,
    cluster::call::Call,
    gateway::{NodeAddresses, udp_candidates},
    manifest::{GATEWAY_SELECTOR, OURS_SELECTOR, manifest},
};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kind::Kind;
use kube::{
    Api, ResourceExt as _,
    api::{
        DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
        PropagationPolicy,
    },
    runtime::wait::{await_condition, conditions::is_deleted},
};
use serde_json::Value;
use std::time::Duration;
use tokio::time::timeout;

/// How long removed pods may take to go; they get 5 s to end.
const GONE_LIMIT: Duration = Duration::from_secs(20);
/// Label that says who looks after an object.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Counts applies. Its change makes the StatefulSet's controller try again at once, instead of after the
/// minutes of its back-off, when what hindered it is out of the way.
const APPLIED: &str = "kvpn.dev/applied";

/// What an install did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installed {
    /// The objects written, such as `statefulset kvpn-gateway`.
    pub applied: Vec<String>,
    /// What was left out for lack of rights, and what that costs: sentences for the user.
    pub skipped: Vec<String>,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uninstalled {
    /// The objects removed.
    pub removed: Vec<String>,
    /// Kinds that the user may not look at or remove: sentences for the user.
    pub skipped: Vec<String>,
}

impl Cluster {
    /// Applies the manifests, or brings an install of ours up to date. Does not wait: see [`Cluster::wait_ready`].
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Rejected`] (quota, policies), [`Error::NotFound`] (the namespace),
    /// [`Error::Conflict`] when an object of that name is not kvpn's.
    pub async fn install(&self, spec: &GatewaySpec) -> Result<Installed, Error> {
        let (existing, nodes) = tokio::join!(self.existing(spec), self.known_nodes());
        let applied_before = existing?;
        let mut spec = spec.clone();
        if spec.node_addresses.is_empty() {
            spec.node_addresses = nodes.iter().flat_map(NodeAddresses::all).collect();
        }
        let mut installed = Installed::default();
        // A RoleBinding may be made only when its Role is there, unless the user may bind anything.
        let (first, _) = split(&spec);
        let written = self
            .apply_all(&spec.namespace, first, &mut installed)
            .await?;
        let port = written
            .iter()
            .find_map(node_port)
            .filter(|_| spec.udp != UdpExposure::None);
        if let Some(port) = port.filter(|_| spec.udp_endpoints.is_empty()) {
            spec.udp_endpoints = udp_candidates(&nodes, None, port);
        }
        let (_, mut last) = split(&spec);
        for (_, set) in last
            .iter_mut()
            .filter(|(kind, _)| *kind == Kind::StatefulSet)
        {
            set["metadata"]["annotations"][APPLIED] = (applied_before + 1).to_string().into();
        }
        self.apply_all(&spec.namespace, last, &mut installed)
            .await?;
        Ok(installed)
    }

    /// Removes what kvpn installed in a namespace (found by labels, nothing else), and waits until the pods are gone.
    /// Nothing to remove is not an error.
    ///
    /// # Errors
    /// [`Error::Forbidden`] when the StatefulSet or Service may not be removed; [`Error::Unreachable`].
    pub async fn uninstall(&self, namespace: &str) -> Result<Uninstalled, Error> {
        let pods = self.our_pods(namespace).await;
        let mut done = Uninstalled::default();
        for kind in Kind::REMOVAL_ORDER {
            match self.remove(kind, namespace).await {
                Ok(removed) => done.removed.extend(removed),
                Err(Error::Forbidden { verb, resource, .. }) if kind.is_optional() => {
                    done.skipped.push(format!(
                        "{} not looked for or removed: you may not {verb} {resource}",
                        kind.word()
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        if !done.removed.is_empty() {
            self.wait_gone(namespace, pods).await;
        }
        Ok(done)
    }

    /// Refuses to touch what is not ours; tells how often the StatefulSet was applied before.
    async fn existing(&self, spec: &GatewaySpec) -> Result<u64, Error> {
        let client = self.client().await?;
        let namespace = spec.namespace.as_str();
        let kinds: Vec<Kind> = manifest(spec).iter().filter_map(Kind::of).collect();
        let looks = kinds.iter().map(|kind| {
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), namespace, &kind.api_resource());
            let call = Call::namespaced("get", kind.resource(), namespace).named(GATEWAY_NAME);
            async move { self.run(&call, api.get_opt(GATEWAY_NAME)).await }
        });
        let mut applied = 0;
        for (kind, found) in kinds.iter().zip(join_all(looks).await) {
            match found {
                Ok(Some(object)) => {
                    refuse_foreign(*kind, namespace, &object)?;
                    applied = applied.max(applied_count(&object));
                }
                Ok(None) => {}
                Err(Error::Forbidden { .. }) if kind.is_optional() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(applied)
    }

    /// Applies objects side by side; tells what was written.
    async fn apply_all(
        &self,
        namespace: &str,
        objects: Vec<(Kind, Value)>,
        installed: &mut Installed,
    ) -> Result<Vec<DynamicObject>, Error> {
        let results = join_all(
            objects
                .iter()
                .map(|(kind, object)| self.apply(*kind, namespace, object)),
        )
        .await;
        let mut written = Vec::new();
        for ((kind, _), result) in objects.iter().zip(results) {
            match result {
                Ok(object) => {
                    installed.applied.push(kind.object_text());
                    written.push(object);
                }
                // A binding to a Role that could not be made is not found rather than forbidden.
                Err(error @ (Error::Forbidden { .. } | Error::NotFound { .. }))
                    if kind.is_optional() =>
                {
                    installed.skipped.push(format!(
                        "{} left out ({error}): the gateway cannot restore exposed Services by itself",
                        kind.object_text()
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Applies one object as ours. A Service that cannot become what is asked (headless or not is fixed at creation) is made anew.
    async fn apply(
        &self,
        kind: Kind,
        namespace: &str,
        object: &Value,
    ) -> Result<DynamicObject, Error> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client().await?, namespace, &kind.api_resource());
        let call = Call::namespaced("patch", kind.resource(), namespace).named(GATEWAY_NAME);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(object);
        let applied = self
            .run(&call, api.patch(GATEWAY_NAME, &params, &patch))
            .await;
        let Err(Error::Rejected { message, .. }) = &applied else {
            return applied;
        };
        let is_fixed = kind == Kind::Service && message.contains("is invalid");
        if !is_fixed || self.remove(kind, namespace).await?.is_empty() {
            return applied;
        }
        self.run(&call, api.patch(GATEWAY_NAME, &params, &patch))
            .await
    }

    async fn remove(&self, kind: Kind, namespace: &str) -> Result<Vec<String>, Error> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client().await?, namespace, &kind.api_resource());
        let call = Call::namespaced("list", kind.resource(), namespace);
        let found = match self
            .run(
                &call,
                api.list(&ListParams::default().labels(OURS_SELECTOR)),
            )
            .await
        {
            Err(Error::NotFound { .. }) => return Ok(Vec::new()),
            found => found?,
        };
        let mut removed = Vec::new();
        for object in found {
            let name = object.name_any();
            let params = DeleteParams {
                // This very object, not one that took its name meanwhile.
                preconditions: Some(Preconditions {
                    uid: object.uid(),
                    resource_version: None,
                }),
                propagation_policy: Some(PropagationPolicy::Background),
                ..DeleteParams::default()
            };
            let call = Call::namespaced("delete", kind.resource(), namespace).named(&name);
            match self.run(&call, api.delete(&name, &params)).await {
                Ok(_) => removed.push(format!("{} {name}", kind.word())),
                Err(Error::NotFound { .. } | Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Our pods' names and uids; none when they cannot be seen.
    async fn our_pods(&self, namespace: &str) -> Vec<(String, String)> {
        let Ok(api) = self.api::<Pod>(namespace).await else {
            return Vec::new();
        };
        let call = Call::namespaced("list", "pods", namespace);
        let pods = self
            .run(
                &call,
                api.list(&ListParams::default().labels(GATEWAY_SELECTOR)),
            )
            .await;
        let pods = pods.map(|pods| pods.items).unwrap_or_default();
        let ours = pods.iter().filter(|pod| {
            pod.owner_references()
                .iter()
                .any(|owner| owner.kind == "StatefulSet" && owner.name == GATEWAY_NAME)
        });
        ours.filter_map(|pod| Some((pod.name_any(), pod.uid()?)))
            .collect()
    }

    /// Waits until the pods are gone; a node that does not answer must not hold the user up for ever.
    async fn wait_gone(&self, namespace: &str, pods: Vec<(String, String)>) {
        let Ok(api) = self.api::<Pod>(namespace).await else {
            return;
        };
        let waits = pods
            .iter()
            .map(|(name, uid)| await_condition(api.clone(), name, is_deleted(uid)));
        if timeout(GONE_LIMIT, join_all(waits)).await.is_err() {
            tracing::warn!(
                namespace,
                "a gateway pod is still ending; its node may be down"
            );
        }
    }
}

/// Objects that are applied side by side.
type Wave = Vec<(Kind, Value)>;

/// The manifests in two waves: what others need, and what needs it.
fn split(spec: &GatewaySpec) -> (Wave, Wave) {
    let objects = manifest(spec)
        .into_iter()
        .filter_map(|object| Some((Kind::of(&object)?, object)));
    objects.partition(|(kind, _)| !matches!(kind, Kind::RoleBinding | Kind::StatefulSet))
}

/// The UDP node port of an applied Service.
fn node_port(object: &DynamicObject) -> Option<u16> {
    let port = object.data["spec"]["ports"].get(0)?["nodePort"].as_u64()?;
    u16::try_from(port).ok()
}

fn refuse_foreign(kind: Kind, namespace: &str, object: &DynamicObject) -> Result<(), Error> {
    let keeper = object.labels().get(MANAGED_BY).map(String::as_str);
    if keeper == Some(FIELD_MANAGER) {
        return Ok(());
    }
    let message = keeper.map_or_else(
        || "it was not installed by kvpn (no label app.kubernetes.io/managed-by: kvpn)".to_owned(),
        |keeper| format!("{keeper} looks after it; change it there"),
    );
    Err(Error::Conflict {
        object: format!("{} {namespace}/{GATEWAY_NAME}", kind.word()),
        message,
    })
}

fn applied_count(object: &DynamicObject) -> u64 {
    object
        .annotations()
        .get(APPLIED)
        .and_then(|count| count.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
