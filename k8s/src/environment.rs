//! The environment of a workload's container, as the kubelet would make it: for `kvpn env` and `kvpn run --like`.
//!
//! Read from a pod that runs (its addresses are known), with the caller's own rights. What may not be read, or only the node
//! knows, is left out and said so. Values may be secrets: they are never logged.

mod expand;
mod links;
mod resolve;

use crate::{Cluster, Error, cluster::call::Call, gateway::is_ready};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::{ConfigMap, Container, Pod, PodSpec, Secret, Service},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Api, Resource, api::ListParams, core::Selector};
use serde::de::DeserializeOwned;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Debug},
};

/// What a container would find in its environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The pod it was read from.
    pub pod: String,
    /// The container.
    pub container: String,
    /// Names and values.
    pub variables: BTreeMap<String, String>,
    /// What is left out, and why: sentences for the user.
    pub notes: Vec<String>,
}

impl Debug for Environment {
    /// Without the values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("pod", &self.pod)
            .field("container", &self.container)
            .field("variables", &self.variables.keys())
            .field("notes", &self.notes)
            .finish()
    }
}

/// What becomes of variables whose ConfigMap or Secret the caller may not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Nothing is given.
    Refuse,
    /// They are left out, each with a note.
    LeaveOut,
}

/// What variables are taken from: what was read, by name.
#[derive(Default)]
struct Sources {
    config_maps: BTreeMap<String, Source>,
    secrets: BTreeMap<String, Source>,
    services: Vec<Service>,
}

/// A ConfigMap or a Secret.
enum Source {
    Values(BTreeMap<String, String>),
    Missing,
    Denied,
}

/// A container of a workload.
struct Wanted<'a> {
    namespace: &'a str,
    pod: &'a Pod,
    container: &'a Container,
}

/// The kinds a workload may have, in the order in which a plain name is looked for.
const KINDS: [(&str, &[&str]); 4] = [
    ("deployment", &["deployments", "deploy"]),
    ("statefulset", &["statefulsets", "sts"]),
    ("daemonset", &["daemonsets", "ds"]),
    ("pod", &["pods", "po"]),
];

impl Cluster {
    /// The environment of a workload's container: `pod/web-1`, `deployment/web`, `sts/db`, or a plain name, looked for among
    /// Deployments, StatefulSets, DaemonSets and pods (those that the caller may read). Without `container`: the pod's default one,
    /// else its first.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such workload, pod of it or container; [`Error::Forbidden`], but for a ConfigMap or Secret
    /// with [`Denied::LeaveOut`]; [`Error::Refused`] when the kubelet would not start the container either, because something that
    /// it needs is not there.
    pub async fn environment(
        &self,
        namespace: &str,
        workload: &str,
        container: Option<&str>,
        denied: Denied,
    ) -> Result<Environment, Error> {
        let pod = self.pod_like(namespace, workload).await?;
        let container = chosen(&pod, container)?;
        let mut notes = Vec::new();
        let wanted = Wanted {
            namespace,
            pod: &pod,
            container,
        };
        let sources = self.sources(&wanted, denied, &mut notes).await?;
        resolve::resolve(&pod, container, &sources, notes)
    }

    /// The pod of a workload that is most like a running one: ready before not, then by name.
    async fn pod_like(&self, namespace: &str, workload: &str) -> Result<Pod, Error> {
        let (kind, name) = workload.split_once('/').unwrap_or(("", workload));
        let fits = |(word, others): &&(&str, &[&str])| {
            kind.is_empty() || kind == *word || others.contains(&kind)
        };
        let kinds: Vec<&str> = KINDS.iter().filter(fits).map(|(word, _)| *word).collect();
        if kinds.is_empty() {
            return Err(Error::NotFound {
                what: format!(
                    "{kind}, as a kind of workload ({}),",
                    listed(&KINDS.map(|(word, _)| word))
                ),
            });
        }
        let mut denied = None;
        for word in &kinds {
            match self.pod_of_kind(word, namespace, name).await {
                Ok(Some(pod)) => return Ok(pod),
                Ok(None) => {}
                // A plain name may still be that of something that the caller may read.
                Err(error @ Error::Forbidden { .. }) => denied = denied.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(denied.unwrap_or_else(|| Error::NotFound {
            what: format!("{} {name} in namespace {namespace}", listed(&kinds)),
        }))
    }

    async fn pod_of_kind(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Pod>, Error> {
        if kind == "pod" {
            return self.look::<Pod>("pods", namespace, name).await;
        }
        match self.selector_of(kind, namespace, name).await? {
            Some(selector) => self
                .pod_of(namespace, kind, name, &selector)
                .await
                .map(Some),
            None => Ok(None),
        }
    }

    async fn selector_of(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<LabelSelector>, Error> {
        Ok(match kind {
            "deployment" => {
                let found = self
                    .look::<Deployment>("deployments.apps", namespace, name)
                    .await?;
                found.and_then(|found| Some(found.spec?.selector))
            }
            "statefulset" => {
                let found = self
                    .look::<StatefulSet>("statefulsets.apps", namespace, name)
                    .await?;
                found.and_then(|found| Some(found.spec?.selector))
            }
            _ => {
                let found = self
                    .look::<DaemonSet>("daemonsets.apps", namespace, name)
                    .await?;
                found.and_then(|found| Some(found.spec?.selector))
            }
        })
    }

    async fn pod_of(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
        selector: &LabelSelector,
    ) -> Result<Pod, Error> {
        let selector = Selector::try_from(selector.clone()).unwrap_or_default();
        let params = ListParams::default().labels(&selector.to_string());
        let api = self.api::<Pod>(namespace).await?;
        let call = Call::namespaced("list", "pods", namespace);
        let pods = self.run(&call, api.list(&params)).await?.items;
        let best = pods
            .into_iter()
            .min_by_key(|pod| (Reverse(is_ready(pod)), pod.metadata.name.clone()));
        best.ok_or_else(|| Error::NotFound {
            what: format!("a pod of {kind} {namespace}/{name}"),
        })
    }

    async fn look<K>(
        &self,
        resource: &'static str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<K>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let api: Api<K> = self.api(namespace).await?;
        let call = Call::namespaced("get", resource, namespace).named(name);
        self.run(&call, api.get_opt(name)).await
    }

    /// Reads what the container's variables are taken from, and no other ConfigMap or Secret.
    async fn sources(
        &self,
        wanted: &Wanted<'_>,
        denied: Denied,
        notes: &mut Vec<String>,
    ) -> Result<Sources, Error> {
        let Wanted {
            namespace,
            pod,
            container,
        } = wanted;
        let mut sources = Sources::default();
        for name in resolve::config_maps(container) {
            let found = self.look::<ConfigMap>("configmaps", namespace, &name).await;
            let values = |found: ConfigMap| found.data.unwrap_or_default();
            let source = Source::of(found, denied, values)?;
            sources.config_maps.insert(name, source);
        }
        for name in resolve::secrets(container) {
            let found = self.look::<Secret>("secrets", namespace, &name).await;
            let source = Source::of(found, denied, |found| resolve::texts(&found))?;
            sources.secrets.insert(name, source);
        }
        sources.services = self
            .linked_services(namespace, pod.spec.as_ref(), notes)
            .await?;
        Ok(sources)
    }

    /// The Services whose addresses the kubelet puts into the environment: the namespace's, and `kubernetes`.
    async fn linked_services(
        &self,
        namespace: &str,
        spec: Option<&PodSpec>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Service>, Error> {
        let mut services = Vec::new();
        if spec
            .and_then(|spec| spec.enable_service_links)
            .unwrap_or(true)
        {
            let api = self.api::<Service>(namespace).await?;
            let call = Call::namespaced("list", "services", namespace);
            match self.run(&call, api.list(&ListParams::default())).await {
                Ok(list) => services = list.items,
                Err(error @ Error::Forbidden { .. }) => {
                    notes.push(format!(
                        "the variables of Services (…_SERVICE_HOST) are left out: {error}"
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        match self
            .look::<Service>("services", "default", "kubernetes")
            .await
        {
            Ok(found) => services.extend(found),
            Err(Error::Forbidden { .. }) => {
                notes.push("KUBERNETES_SERVICE_HOST and the like are left out: you may not get services in namespace default".to_owned());
            }
            Err(error) => return Err(error),
        }
        Ok(services)
    }
}

impl Source {
    fn of<K>(
        found: Result<Option<K>, Error>,
        denied: Denied,
        values: impl FnOnce(K) -> BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        match found {
            Ok(Some(found)) => Ok(Self::Values(values(found))),
            Ok(None) => Ok(Self::Missing),
            Err(Error::Forbidden { .. }) if denied == Denied::LeaveOut => Ok(Self::Denied),
            Err(error) => Err(error),
        }
    }
}

/// `a, b or c`.
fn listed(words: &[&str]) -> String {
    match words {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        words => words.concat(),
    }
}

/// The container that is meant (as kubectl chooses).
fn chosen<'a>(pod: &'a Pod, name: Option<&str>) -> Result<&'a Container, Error> {
    let containers = pod.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
    let annotations = pod.metadata.annotations.iter().flatten();
    let default = annotations
        .into_iter()
        .find(|(key, _)| *key == "kubectl.kubernetes.io/default-container")
        .map(|(_, name)| name.as_str());
    let wanted = name.or(default);
    let mut found = containers
        .iter()
        .filter(|container| wanted.is_none_or(|wanted| wanted == container.name));
    found.next().ok_or_else(|| {
        let names: BTreeSet<&str> = containers
            .iter()
            .map(|container| container.name.as_str())
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        Error::NotFound {
            what: format!(
                "container {} of pod {} (it has {})",
                wanted.unwrap_or_default(),
                pod.metadata.name.as_deref().unwrap_or_default(),
                names.join(", ")
            ),
        }
    })
}

#[cfg(test)]
mod tests;
