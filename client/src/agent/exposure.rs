//! One exposure: a Service whose traffic, or a chosen part of it, goes to programs on this machine. A process of its own holds it,
//! in the foreground (`kvpn expose`) or behind (`--detach`), with a session of its own over the `stack` link.
//!
//! Its life: [`prepare`] looks at the Service and refuses what would break, [`Process`] takes lock and socket, [`Exposing`] leads
//! the Service here step by step and back again, [`keep`] sees to it meanwhile. The Service's annotation names the session;
//! whatever dies, somebody else reads there how to put it back.

mod control;
mod events;
mod exposing;
mod judge;
mod keep;
mod process;
mod sse;

use anyhow::Context as _;
use kvpn_k8s::{
    Annotation, Cluster, Error as ClusterError, ExposureWish, Finding, GatewayPod, Inspection,
    Purpose,
};
use kvpn_wire::exposure::{PortMapping, Traffic};
use serde::{Deserialize, Serialize};

use crate::agent::board::Board;
use crate::agent::gateway;
use crate::agent::message::Access;
use crate::agent::places::Places;
use crate::cli::failure::{Failure, USAGE};
use crate::cli::log;

pub(crate) use exposing::Exposing;
pub(crate) use process::{Process, interrupted, serve_detached};

/// What a user wants exposed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// Where the exposures' files are.
    pub(crate) places: Places,
    /// How to get at the gateway; its namespace is the Service's.
    pub(crate) access: Access,
    /// The Service, in the connected namespace.
    pub(crate) service: String,
    /// Which ports.
    pub(crate) ports: Vec<PortMapping>,
    /// Which traffic.
    pub(crate) traffic: Traffic,
    /// Whether the origin answers when the program here does not.
    pub(crate) fallback: bool,
    /// Whether programs get PROXY protocol headers.
    pub(crate) proxy_protocol: bool,
    /// Who it is, for people: `ana@laptop`.
    pub(crate) owner: String,
    /// Whether what may break something is done all the same.
    pub(crate) force: bool,
    /// Whether all traffic of a Service that is there already may be taken.
    pub(crate) takeover: bool,
    /// How much is logged, as with `-v`.
    pub(crate) verbose: u8,
    /// How log lines look.
    pub(crate) log_format: log::Format,
}

/// What was seen before anything is changed.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The pod that the Service will lead to.
    pub(crate) gateway: GatewayPod,
    /// The Service and what is around it.
    pub(crate) inspection: Inspection,
}

impl Prepared {
    /// Whether pods that serve now would lose all their traffic: that takes the user's consent.
    pub(crate) fn needs_consent(&self, wanted: &Wanted) -> bool {
        self.inspection.takeover && wanted.traffic == Traffic::All && !wanted.takeover
    }
}

/// Finds or installs the gateway, looks at the Service, tells what is worth knowing.
///
/// # Errors
///
/// A missing right (exit code 4), a finding that stands in the way (1), somebody else's exposure (6).
pub(crate) async fn prepare(
    cluster: &Cluster,
    wanted: &Wanted,
    board: &Board,
    former: Option<&str>,
) -> anyhow::Result<Prepared> {
    let gateway = gateway::ready(cluster, &wanted.access, board, Purpose::Expose).await?;
    board.step(format!("looking at Service {}", wanted.full_name(cluster)));
    let inspection = match cluster
        .inspect_service(&wanted.wish(cluster, &gateway))
        .await
    {
        Ok(inspection) => inspection,
        Err(error) => return Err(denied(cluster, error).await),
    };
    if let Some(rival) = rival(&inspection, former) {
        return Err(ClusterError::Taken {
            object: format!("Service {}", wanted.full_name(cluster)),
            why: rival,
        }
        .into());
    }
    if let Some(refusal) = inspection.refusal(wanted.force) {
        return Err(refusal.into());
    }
    for note in notes(&inspection) {
        board.note(note);
    }
    let gateway = match &inspection.annotation {
        Some(annotation) => the_others(cluster, annotation, gateway).await?,
        None => gateway,
    };
    Ok(Prepared {
        gateway,
        inspection,
    })
}

/// Who has this traffic already, in words.
fn rival(inspection: &Inspection, former: Option<&str>) -> Option<String> {
    let owners = inspection
        .annotation
        .iter()
        .flat_map(|annotation| &annotation.owners);
    let mut rivals = owners.filter(|owner| {
        Some(owner.session.as_str()) != former && !owner.expose.is_disjoint(&inspection.expose)
    });
    let rival = rivals.next()?;
    Some(format!(
        "{} exposes it since {} ({}); choose other traffic with --match, or let them end it (`kvpn restore` ends it for them)",
        rival.name(),
        rival.since,
        rival.expose.traffic
    ))
}

fn notes(inspection: &Inspection) -> Vec<String> {
    let note = |finding: &Finding| format!("{finding}; {}", finding.remedy);
    let findings = inspection.findings.iter().map(note);
    findings.chain(inspection.unread.iter().cloned()).collect()
}

/// The pod through which others expose the Service already: a Service leads to one pod.
async fn the_others(
    cluster: &Cluster,
    annotation: &Annotation,
    found: GatewayPod,
) -> anyhow::Result<GatewayPod> {
    if annotation.gateway == found.name {
        return Ok(found);
    }
    let pods = cluster.gateway_pods(&found.namespace).await?;
    let same = |pod: &GatewayPod| pod.name == annotation.gateway && pod.ready;
    Ok(pods.into_iter().find(same).unwrap_or(found))
}

/// What a refusal by the API server means to the user; other errors as they are.
async fn denied(cluster: &Cluster, error: ClusterError) -> anyhow::Error {
    match error {
        ClusterError::Forbidden { .. } => {
            let namespace = cluster.namespace();
            gateway::not_permitted(cluster, Purpose::Expose, namespace, None, error).await
        }
        other => other.into(),
    }
}

impl Wanted {
    /// `NAMESPACE/SERVICE`, for messages.
    pub(crate) fn full_name(&self, cluster: &Cluster) -> String {
        format!("{}/{}", cluster.namespace(), self.service)
    }

    /// The same in the words of [`Cluster::inspect_service`].
    fn wish(&self, cluster: &Cluster, gateway: &GatewayPod) -> ExposureWish {
        ExposureWish {
            namespace: cluster.namespace().to_owned(),
            service: self.service.clone(),
            ports: self.ports.clone(),
            traffic: self.traffic.clone(),
            fallback: self.fallback,
            proxy_protocol: self.proxy_protocol,
            owner: self.owner.clone(),
            gateway: gateway.name.clone(),
        }
    }

    /// The cluster, as the exposure's process sees it.
    ///
    /// # Errors
    ///
    /// As [`Cluster::load`].
    pub(crate) fn cluster(&self, interactive: bool) -> anyhow::Result<Cluster> {
        let options = self.access.kube.options(interactive);
        Cluster::load(&options).context("the cluster of the exposure is not known")
    }

    /// That nobody consented to what the user wants.
    pub(crate) fn no_consent(&self, cluster: &Cluster) -> Failure {
        let message = format!(
            "Service {} is there already, and all its traffic would come to this machine",
            self.full_name(cluster)
        );
        Failure::new(USAGE, message).hint(
            "say --takeover if that is meant, or choose a part of the traffic: --match, --match-path, --weight, --mirror",
        )
    }
}

#[cfg(test)]
mod tests;
