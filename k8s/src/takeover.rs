//! Exposures of Services: what stands in their way, the steps that swap a Service over to a gateway pod, and the way back.
//!
//! A swap changes a Service's selector and target ports, nothing else; the annotation [`ANNOTATION`] keeps what was there, and for
//! whom it was changed. The steps, each of which may be the last one before a crash and may be done again:
//!
//! 1. [`Cluster::claim_service`](crate::Cluster::claim_service) writes the annotation (or creates the Service). Nothing has changed for callers.
//! 2. The client's `PUT` makes the gateway listen; it accepts because the annotation names the session.
//! 3. [`Cluster::shadow_service`](crate::Cluster::shadow_service) makes the Service that leads to the origin, and waits until it does.
//! 4. [`Cluster::swap_service`](crate::Cluster::swap_service): one patch, refused by the API server when the Service changed since it was read.
//! 5. [`Cluster::restore_service`](crate::Cluster::restore_service) undoes it for one session, the last one's restores the Service; then
//!    [`Cluster::remove_shadow`](crate::Cluster::remove_shadow), after the time in which the gateway still proxies.
//!
//! What is decided is decided by pure functions on the objects; the calls around them are thin. Selectors do not cross
//! namespaces: a Service, its gateway and its shadow are in one.

mod annotation;
mod finding;
mod inspect;
mod object;
mod plan;
mod policies;
mod ports;
mod restore;
mod shadow;
mod steps;
mod surroundings;
mod watch;

pub use annotation::{
    ANNOTATION, Annotation, BadAnnotation, Original, OriginalPort, Owner, TargetPort, since,
};
pub use finding::{Finding, Severity};
pub use inspect::{ExposureWish, Inspection};
pub use plan::Claim;
pub use restore::{Restored, Whose};
pub use watch::{ExposedService, ServiceChange};

/// Resource name of Services in RBAC's words.
const SERVICES: &str = "services";

/// Label that says who looks after an object.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// A Service as error texts name it.
fn service_text(namespace: &str, service: &str) -> String {
    format!("Service {namespace}/{service}")
}

#[cfg(test)]
mod tests;
