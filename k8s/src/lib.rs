//! kvpn-k8s: everything kvpn asks of the Kubernetes API, in plain async functions.
//!
//! The only importer of kube. It hands out plain types: no kube type is in the public API, so that a
//! shell never needs to know how the cluster is talked to. It reads no environment and no clock of its
//! own accord (the shell passes [`KubeOptions`]), prints nothing, and decides nothing about the tunnel.
//!
//! A shell's way through it:
//!
//! ```no_run
//! # async fn way(options: kvpn_k8s::KubeOptions) -> Result<(), kvpn_k8s::Error> {
//! use std::time::Duration;
//! let cluster = kvpn_k8s::Cluster::load(&options)?;
//! cluster.version().await?; // is it there, does it know us?
//! let namespace = cluster.namespace().to_owned();
//! let gateway = match cluster.find_gateway(&[&namespace, "kvpn"]).await? {
//!     Some(gateway) => gateway,
//!     None => {
//!         let spec = kvpn_k8s::GatewaySpec::new(&namespace, "kvpn/gateway:0.1.0", "0.1.0");
//!         cluster.install(&spec).await?;
//!         cluster.wait_ready(&namespace, Duration::from_secs(60), &mut |_| {}).await?
//!     }
//! };
//! let facts = cluster.discover(&namespace, &gateway).await?;
//! let carrier = cluster.forward(&gateway, 6181).await?;
//! # drop((facts, carrier)); Ok(())
//! # }
//! ```

mod cluster;
mod discovery;
mod environment;
mod error;
mod forward;
mod gateway;
mod install;
mod installed;
mod lease;
mod manifest;
mod namespaces;
mod preflight;
mod rbac;
mod ready;
mod session;
mod takeover;
#[cfg(test)]
mod testing;

pub use cluster::{Cluster, KubeOptions};
pub use discovery::Discovery;
pub use environment::{Denied, Environment};
pub use error::Error;
pub use forward::Forward;
pub use gateway::GatewayPod;
pub use install::{Installed, Uninstalled};
pub use lease::{LEASE_DURATION, LEASE_RENEWAL, LeaseObserver, LeaseRecord};
pub use manifest::{DatapathChoice, GatewaySpec, UdpExposure, manifest, to_yaml};
pub use preflight::{Missing, Purpose};
pub use rbac::{RbacLevel, RbacSpec, Subject, rbac};
pub use ready::Progress;
pub use takeover::{
    ANNOTATION, Annotation, BadAnnotation, Claim, ExposedService, ExposureWish, Finding,
    Inspection, Original, OriginalPort, Owner, Restored, ServiceChange, Severity, TargetPort,
    Whose, since,
};

/// Name of every object that kvpn installs (StatefulSet, Service, ServiceAccount, Role, RoleBinding).
pub const GATEWAY_NAME: &str = "kvpn-gateway";

/// Field manager of every write, so that `kubectl get --show-managed-fields` tells what is ours.
pub const FIELD_MANAGER: &str = "kvpn";
