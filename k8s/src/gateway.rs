//! Finding gateway pods, and the addresses at which a gateway's UDP port may be reached.

mod endpoints;

pub(crate) use endpoints::{NodeAddresses, udp_candidates};

use crate::{
    Cluster, DatapathChoice, Error, GATEWAY_NAME,
    cluster::call::Call,
    manifest::{DATAPATH_LABEL, GATEWAY_SELECTOR, VERSION_LABEL},
};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{ResourceExt as _, api::ListParams};
use std::{cmp::Reverse, net::IpAddr};

/// A gateway pod as the cluster shows it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPod {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name, `kvpn-gateway-0` as a rule.
    pub name: String,
    /// The pod's uid: another uid is another gateway with other keys.
    pub uid: String,
    /// The node it was scheduled to.
    pub node: Option<String>,
    /// The node's addresses (`status.hostIPs`).
    pub host_ips: Vec<IpAddr>,
    /// The pod's addresses (`status.podIPs`).
    pub pod_ips: Vec<IpAddr>,
    /// The gateway container's image.
    pub image: String,
    /// kvpn's version by its label, when it has one.
    pub version: Option<String>,
    /// The datapath that was asked for at install; the session grant says which one runs.
    pub datapath: DatapathChoice,
    /// Whether its readiness probe passes, and it is not being deleted.
    pub ready: bool,
}

impl GatewayPod {
    /// `namespace/name`, for messages.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(crate) fn of(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let label = |key: &str| pod.labels().get(key).cloned();
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            host_ips: addresses(
                status
                    .host_ips
                    .iter()
                    .flatten()
                    .map(|entry| entry.ip.as_str()),
            ),
            pod_ips: pod_ips(&status),
            image: containers
                .filter_map(|container| container.image.clone())
                .next()
                .unwrap_or_default(),
            version: label(VERSION_LABEL),
            datapath: DatapathChoice::from_label(&label(DATAPATH_LABEL).unwrap_or_default()),
            ready: is_ready(pod),
        }
    }
}

/// Whether a pod's readiness probe passes, and it is not being deleted.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "True");
    is_ready && pod.metadata.deletion_timestamp.is_none()
}

/// A pod's addresses.
pub(crate) fn pod_ips(status: &PodStatus) -> Vec<IpAddr> {
    addresses(
        status
            .pod_ips
            .iter()
            .flatten()
            .map(|entry| entry.ip.as_str()),
    )
}

/// The texts that are addresses.
pub(crate) fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

impl Cluster {
    /// The best gateway pod in the first of `namespaces` that has one: ready ones first, then by name; pods being deleted do not count.
    ///
    /// A namespace that the user may not look into, or that is not there, is passed over.
    ///
    /// # Errors
    /// [`Error::Forbidden`] when none of the namespaces may be looked into; [`Error::Unreachable`], [`Error::Unauthorized`].
    pub async fn find_gateway(&self, namespaces: &[&str]) -> Result<Option<GatewayPod>, Error> {
        // A credential plugin that fails does so once, not once a namespace.
        self.client().await?;
        let looks = namespaces
            .iter()
            .map(|namespace| self.gateway_pods(namespace));
        let mut refusal = None;
        let mut looked = false;
        for found in join_all(looks).await {
            match found {
                Ok(mut pods) if !pods.is_empty() => return Ok(Some(pods.swap_remove(0))),
                Ok(_) => looked = true,
                Err(error @ Error::Forbidden { .. }) => refusal = refusal.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match refusal {
            Some(error) if !looked => Err(error),
            Some(_) | None => Ok(None),
        }
    }

    /// The gateway pods of a namespace: ready ones first, then by name; pods being deleted do not count.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::Unreachable`], [`Error::Unauthorized`].
    pub async fn gateway_pods(&self, namespace: &str) -> Result<Vec<GatewayPod>, Error> {
        let api = self.api::<Pod>(namespace).await?;
        let call = Call::namespaced("list", "pods", namespace);
        let listed = self
            .run(
                &call,
                api.list(&ListParams::default().labels(GATEWAY_SELECTOR)),
            )
            .await;
        let pods = match listed {
            Ok(pods) => pods.items,
            Err(error @ Error::Forbidden { .. }) => {
                self.first_by_name(namespace).await.ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        let alive = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut gateways: Vec<GatewayPod> = alive.map(GatewayPod::of).collect();
        gateways.sort_by_key(|gateway| (Reverse(gateway.ready), gateway.name.clone()));
        Ok(gateways)
    }

    /// For users who may get the one pod by its name (`resourceNames`), and list none.
    async fn first_by_name(&self, namespace: &str) -> Option<Vec<Pod>> {
        let name = format!("{GATEWAY_NAME}-0");
        let api = self.api::<Pod>(namespace).await.ok()?;
        let call = Call::namespaced("get", "pods", namespace).named(&name);
        let pod = self.run(&call, api.get_opt(&name)).await.ok()?;
        Some(pod.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
