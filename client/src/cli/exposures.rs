//! The exposures of a namespace: what the Services' annotations say, and what the gateways say of them. For `list` and `restore`.

use std::time::Duration;

use kvpn_k8s::{Cluster, ExposedService, GatewayPod, Owner};
use kvpn_wire::CONTROL_PORT;
use kvpn_wire::control::{ALL_EXPOSURES_PATH, ExposureList, ExposureStatus};

use crate::agent::lock::{self, Held, Holder};
use crate::agent::places::{Places, SessionName};
use crate::cluster::http;

/// How long a gateway may take to say what it serves.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// One owner's part of an exposed Service.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// The Service.
    pub(super) service: &'a ExposedService,
    /// Whose part.
    pub(super) owner: &'a Owner,
    /// What the gateway says of it, if it says anything.
    pub(super) status: Option<&'a ExposureStatus>,
}

impl Part<'_> {
    /// Whether the gateway hears the owner's session.
    pub(super) fn is_alive(&self) -> bool {
        self.status.is_some_and(ExposureStatus::is_active)
    }
}

/// What is exposed in a namespace.
#[derive(Debug)]
pub(super) struct Exposures {
    /// What the annotations say.
    pub(super) services: Vec<ExposedService>,
    /// What the gateways say.
    pub(super) statuses: Vec<ExposureStatus>,
    /// Whether any gateway said something.
    pub(super) gateway_answers: bool,
}

impl Exposures {
    /// Looks at the connected namespace.
    ///
    /// # Errors
    ///
    /// Services may not be listed, or the API server cannot be reached. A gateway that is away is none.
    pub(super) async fn look(cluster: &Cluster) -> anyhow::Result<Self> {
        let (services, statuses) = tokio::join!(
            cluster.exposed_services(cluster.namespace()),
            statuses(cluster)
        );
        Ok(Self {
            services: services?,
            gateway_answers: statuses.is_some(),
            statuses: statuses.unwrap_or_default(),
        })
    }

    /// Every owner's part of every Service.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.services.iter().flat_map(move |service| {
            let owners = service.annotation.owners.iter();
            owners.map(move |owner| Part {
                service,
                owner,
                status: self.status(service, owner),
            })
        })
    }

    /// A gateway knows owners by name and traffic; who shares a Service has other traffic.
    fn status(&self, service: &ExposedService, owner: &Owner) -> Option<&ExposureStatus> {
        self.statuses.iter().find(|status| {
            status.service == service.name
                && status.namespace == service.namespace
                && status.owner == owner.expose.owner
                && status.traffic == owner.expose.traffic
        })
    }
}

/// What the namespace's gateways serve; `None` when none says so.
async fn statuses(cluster: &Cluster) -> Option<Vec<ExposureStatus>> {
    let pods = cluster.gateway_pods(cluster.namespace()).await;
    let pods = pods
        .inspect_err(|error| tracing::info!(%error, "gateways cannot be looked for"))
        .unwrap_or_default();
    let ready = pods.iter().filter(|pod| pod.ready);
    let lists = futures::future::join_all(ready.map(|pod| list(cluster, pod))).await;
    let lists: Vec<ExposureList> = lists.into_iter().flatten().collect();
    if lists.is_empty() {
        return None;
    }
    Some(lists.into_iter().flat_map(|list| list.exposures).collect())
}

async fn list(cluster: &Cluster, gateway: &GatewayPod) -> Option<ExposureList> {
    let asked = async {
        let stream = cluster.forward(gateway, CONTROL_PORT).await?;
        let body = http::get(stream, ALL_EXPOSURES_PATH).await?;
        anyhow::Ok(serde_json::from_slice(&body)?)
    };
    match tokio::time::timeout(STATUS_LIMIT, asked).await {
        Ok(Ok(list)) => Some(list),
        Ok(Err(error)) => {
            tracing::info!(error = format!("{error:#}"), "a gateway says nothing");
            None
        }
        Err(_) => None,
    }
}

/// An exposure that a process of this user holds, or held until it died.
#[derive(Debug)]
pub(super) struct Own {
    /// What its files are called.
    pub(super) name: SessionName,
    /// Who it is.
    pub(super) holder: Holder,
    /// Whether the process lives.
    pub(super) alive: bool,
}

impl Own {
    /// Whether the part of an exposure is of this process.
    pub(super) fn has(&self, owner: &Owner) -> bool {
        self.holder.fingerprint.as_deref() == Some(owner.session.as_str())
    }
}

/// The user's own exposures, of every cluster.
///
/// # Errors
///
/// The user's directory cannot be read.
pub(super) fn own(places: &Places) -> anyhow::Result<Vec<Own>> {
    let held = |name: SessionName| {
        let (holder, alive) = match lock::look(&places.lock(&name)) {
            Held::Alive(holder) => (holder?, true),
            Held::Dead(holder) => (holder?, false),
            Held::Absent => return None,
        };
        Some(Own {
            name,
            holder,
            alive,
        })
    };
    Ok(places.sessions()?.into_iter().filter_map(held).collect())
}
