//! kvpn on a real Kubernetes: the client and the gateway's image as users get them, run on laptops of their
//! own (tests/support). What can be shown without Kubernetes is shown elsewhere.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy knows the tests, but not the functions that they share"
)]

#[path = "cluster/acceptance/exposures.rs"]
mod exposures;
#[path = "cluster/acceptance/failures.rs"]
mod failures;
#[path = "cluster/acceptance/killed.rs"]
mod killed;
#[path = "cluster/acceptance/names.rs"]
mod names;
#[path = "cluster/acceptance/policy.rs"]
mod policy;
#[path = "cluster/acceptance/proxy.rs"]
mod proxy;
#[path = "cluster/acceptance/reach.rs"]
mod reach;
#[path = "cluster/acceptance/rights.rs"]
mod rights;
#[path = "cluster/acceptance/run.rs"]
mod run;
#[path = "cluster/acceptance/service.rs"]
mod service;
#[path = "cluster/acceptance/session.rs"]
mod session;
#[path = "cluster/acceptance/twins.rs"]
mod twins;
