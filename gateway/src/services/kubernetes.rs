//! The gateway's own view of the cluster: the Services of its namespace that are exposed through it, and the way back for them. Its
//! ServiceAccount restores, and does nothing else; where it may not, that is said once and left to clients.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use futures::StreamExt as _;
use kvpn_gateway_core::ServiceKey;
use kvpn_k8s::{Cluster, Error, ExposedService, KubeOptions, LeaseRecord, Whose};
use tokio::sync::mpsc;

use super::News;
use crate::cli::PodOptions;

/// The cluster from inside the pod. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Kubernetes(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    /// None outside a cluster, and without a ServiceAccount's token.
    cluster: Option<Cluster>,
    namespace: String,
    pod: String,
    pod_uid: String,
    addresses: Vec<IpAddr>,
    /// That something is not permitted has been said.
    said: AtomicBool,
}

impl Kubernetes {
    /// The cluster of this pod, which has these addresses.
    pub(crate) fn of_pod(pod: &PodOptions, addresses: &[IpAddr]) -> Self {
        let cluster = Cluster::load(&KubeOptions::default());
        if let Err(error) = &cluster {
            tracing::info!(%error, "no access to the API server: Services are restored by clients only");
        }
        Self(Arc::new(Inside {
            cluster: cluster.ok(),
            namespace: pod.pod_namespace.clone(),
            pod: pod.pod_name.clone(),
            pod_uid: pod.pod_uid.clone(),
            addresses: addresses.to_vec(),
            said: AtomicBool::new(false),
        }))
    }

    /// The gateway pod's name.
    pub(crate) fn pod(&self) -> &str {
        &self.0.pod
    }

    /// The gateway pod's addresses.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.0.addresses
    }

    /// A Service of the gateway's namespace: selectors do not cross namespaces.
    pub(crate) fn key(&self, service: &str) -> ServiceKey {
        ServiceKey {
            namespace: self.0.namespace.clone(),
            service: service.to_owned(),
        }
    }

    /// The Service's exposure as it is now.
    ///
    /// # Errors
    /// [`Error::Forbidden`], also without a cluster; [`Error::Unreachable`].
    pub(crate) async fn exposure(&self, key: &ServiceKey) -> Result<Option<ExposedService>, Error> {
        match &self.0.cluster {
            Some(cluster) => cluster.exposed_service(&key.namespace, &key.service).await,
            None => Ok(None),
        }
    }

    /// Whether there is an API server to ask at all.
    pub(crate) fn is_there(&self) -> bool {
        self.0.cluster.is_some()
    }

    /// Ends `whose` part of a Service's exposure; whether that is done, by whomever.
    pub(super) async fn restore(&self, key: &ServiceKey, whose: &Whose) -> bool {
        let Some(cluster) = &self.0.cluster else {
            return true;
        };
        let restored = cluster
            .restore_service(&key.namespace, &key.service, whose)
            .await;
        match restored {
            Ok(restored) => {
                tracing::debug!(?key, ?restored, "exposure ended");
                true
            }
            Err(error) => {
                self.tell(&error);
                false
            }
        }
    }

    /// Removes the way to the origin that nobody goes any more.
    pub(super) async fn remove_shadow(&self, key: &ServiceKey) {
        let Some(cluster) = &self.0.cluster else {
            return;
        };
        // Somebody may have exposed it again meanwhile, and needs it.
        let is_needed = self.exposure(key).await.is_ok_and(|found| found.is_some());
        if !is_needed && let Err(error) = cluster.remove_shadow(&key.namespace, &key.service).await
        {
            self.tell(&error);
        }
    }

    /// The addresses of a Service.
    pub(super) async fn addresses_of(&self, namespace: &str, service: &str) -> Vec<IpAddr> {
        let Some(cluster) = &self.0.cluster else {
            return Vec::new();
        };
        cluster
            .service_addresses(namespace, service)
            .await
            .unwrap_or_else(|error| {
                self.tell(&error);
                Vec::new()
            })
    }

    /// Tells of the namespace's exposed Services for as long as somebody listens.
    pub(super) async fn watch(self, news: mpsc::Sender<News>) {
        let Some(cluster) = &self.0.cluster else {
            return;
        };
        let mut changes = cluster.watch_exposures(&self.0.namespace);
        while let Some(change) = changes.next().await {
            match change {
                Ok(change) => {
                    if news.send(News::Changed(change)).await.is_err() {
                        return;
                    }
                }
                Err(error) => self.tell(&error),
            }
        }
    }

    /// Says that this gateway lives.
    pub(super) async fn renew_lease(&self) {
        let Some(cluster) = &self.0.cluster else {
            return;
        };
        let Inside {
            namespace,
            pod,
            pod_uid,
            ..
        } = &*self.0;
        let renewed = cluster.renew_lease(namespace, pod, pod_uid, wall_clock());
        if let Err(error) = renewed.await {
            self.tell(&error);
        }
    }

    /// The leases of the namespace's gateways; `None` when they cannot be seen.
    pub(super) async fn leases(&self) -> Option<Vec<LeaseRecord>> {
        let cluster = self.0.cluster.as_ref()?;
        let leases = cluster.leases(&self.0.namespace).await;
        leases.inspect_err(|error| self.tell(error)).ok()
    }

    /// What is not permitted stays so and is said once; what fails may work again.
    fn tell(&self, error: &Error) {
        if !matches!(error, Error::Forbidden { .. }) {
            tracing::warn!(%error, "the API server did not do what an exposure needs");
        } else if !self.0.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "this gateway may not restore Services: their clients have to");
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "for people who read the lease; nothing is reckoned with it"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}
