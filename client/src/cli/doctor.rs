//! `kvpn doctor`: what connecting needs, looked at one by one, each with a remedy. Changes nothing.

mod machine;
mod names;
mod routes;

use std::process::ExitCode;

use clap::Args;
use kvpn_k8s::{Cluster, GatewayPod, Purpose};
use kvpn_wire::{API_CARRIER_PORT, range};
use serde::Serialize;

use crate::agent::laptop;
use crate::agent::places::Places;
use crate::agent::report::{SessionReport, State};
use crate::cli::failure::{FAILED, Failure};
use crate::cli::kube::kube;
use crate::cli::output::{self, Format, OutputArgs};
use crate::cli::{Situation, status};
use crate::cluster::SHARED_NAMESPACE;
use crate::os::platform;

/// Look at what connecting needs: kubeconfig, cluster, rights, gateway, this machine
///
/// Changes nothing. Exit code 1 when something would keep `kvpn connect` from working.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but the user should know.
    Warning,
    /// Keeps connecting from working.
    Failed,
    /// Could not be looked at, because of something above.
    Skipped,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, detail)
    }

    fn warning(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..Self::new(name, Verdict::Warning, detail)
        }
    }

    fn failed(name: &'static str, error: impl Into<anyhow::Error>) -> Self {
        let failure = Failure::of(&error.into());
        Self {
            remedy: failure.hint.or_else(|| remedy(name).map(str::to_owned)),
            ..Self::new(name, Verdict::Failed, failure.message)
        }
    }
}

/// What to try when a failure does not say.
fn remedy(check: &str) -> Option<&'static str> {
    Some(match check {
        "kubeconfig" => "see `kubectl config get-contexts`; --kubeconfig and --context name others",
        "API server" => "try `kubectl version`: a VPN, a proxy or new credentials may be missing",
        "rights" => "see `kubectl auth can-i --list`",
        "gateway" => "see `kvpn gateway status`",
        "carriers" => {
            "try `kubectl port-forward` to the gateway's pod: a proxy on the way may not let it through"
        }
        "ranges" => "--cidr names the cluster's ranges",
        "networks" => machine::NETWORKS,
        "sessions" => "see `kvpn status`",
        _ => return None,
    })
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document {
    checks: Vec<Check>,
}

/// `kvpn doctor`
pub(crate) async fn run(situation: Situation, args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut checks = Vec::new();
    let (server, discovered) = check_cluster(&situation, &mut checks).await;
    machine::check(&situation, discovered, &mut checks).await;
    check_sessions(&situation, &server, &mut checks).await;
    let bad = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Failed)
        .count();
    match args.output.format {
        Format::Json => output::print_json(&Document { checks })?,
        Format::Table => output::print(&table(&checks)),
    }
    match bad {
        0 => Ok(ExitCode::SUCCESS),
        1 => Err(Failure::new(FAILED, "one check failed").into()),
        bad => Err(Failure::new(FAILED, format!("{bad} checks failed")).into()),
    }
}

type Ranges = Vec<ipnetwork::IpNetwork>;

/// From the kubeconfig to the carriers; each needs the one before. Gives the API server's URL and the cluster's ranges, as far
/// as they were found.
async fn check_cluster(situation: &Situation, checks: &mut Vec<Check>) -> (String, Option<Ranges>) {
    let interactive = std::io::IsTerminal::is_terminal(&std::io::stdin());
    let cluster = match Cluster::load(&kube(situation).options(interactive)) {
        Ok(cluster) => cluster,
        Err(error) => {
            checks.push(Check::failed("kubeconfig", error));
            skip(
                checks,
                &["API server", "rights", "gateway", "carriers", "ranges"],
                "the kubeconfig cannot be used",
            );
            return (String::new(), None);
        }
    };
    checks.push(Check::ok(
        "kubeconfig",
        format!(
            "context {}, namespace {}",
            cluster.context(),
            cluster.namespace()
        ),
    ));
    match cluster.version().await {
        Ok(version) => checks.push(Check::ok(
            "API server",
            format!("{} is Kubernetes {version}", cluster.server()),
        )),
        Err(error) => {
            checks.push(Check::failed("API server", error));
            skip(
                checks,
                &["rights", "gateway", "carriers", "ranges"],
                "the API server does not serve us",
            );
            return (cluster.server().to_owned(), None);
        }
    }
    let gateway = check_gateway(&cluster, checks).await;
    checks.push(check_carriers(&cluster, gateway.as_ref()).await);
    let ranges = check_ranges(&cluster, gateway.as_ref(), checks).await;
    (cluster.server().to_owned(), ranges)
}

fn skip(checks: &mut Vec<Check>, names: &[&'static str], why: &str) {
    checks.extend(
        names
            .iter()
            .map(|name| Check::new(name, Verdict::Skipped, why)),
    );
}

/// Rights depend on whether there is a gateway: without one, installing is needed.
async fn check_gateway(cluster: &Cluster, checks: &mut Vec<Check>) -> Option<GatewayPod> {
    let found = cluster
        .find_gateway(&[cluster.namespace(), SHARED_NAMESPACE])
        .await;
    let (namespace, purpose) = match &found {
        Ok(Some(gateway)) => (gateway.namespace.as_str(), Purpose::Connect),
        Ok(None) | Err(_) => (cluster.namespace(), Purpose::Install),
    };
    checks.push(check_rights(cluster, namespace, purpose).await);
    let (check, gateway) = match found {
        Ok(Some(gateway)) if gateway.ready => {
            let text = format!(
                "{}/{}, image {}",
                gateway.namespace, gateway.name, gateway.image
            );
            (Check::ok("gateway", text), Some(gateway))
        }
        Ok(Some(gateway)) => {
            let text = format!("{}/{} is not ready", gateway.namespace, gateway.name);
            let remedy = format!(
                "see why: kubectl -n {} describe pod {}",
                gateway.namespace, gateway.name
            );
            (Check::warning("gateway", text, remedy), None)
        }
        Ok(None) => {
            let text = format!(
                "none in namespace {} or {SHARED_NAMESPACE}",
                cluster.namespace()
            );
            (
                Check::warning("gateway", text, "`kvpn connect` installs one, if you may"),
                None,
            )
        }
        Err(error) => (Check::failed("gateway", error), None),
    };
    checks.push(check);
    gateway
}

async fn check_rights(cluster: &Cluster, namespace: &str, purpose: Purpose) -> Check {
    let what = match purpose {
        Purpose::Connect => "connect",
        Purpose::Expose => "expose Services",
        Purpose::Install => "install a gateway and connect",
    };
    match cluster.preflight(namespace, purpose).await {
        Ok(missing) if missing.is_empty() => {
            Check::ok("rights", format!("you may {what} in namespace {namespace}"))
        }
        Ok(missing) => {
            let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let text = format!("you may not {what}: {}", list.join("; "));
            let remedy = format!(
                "an admin can allow it: kvpn gateway rbac -n {namespace} --for install | kubectl apply -f -"
            );
            Check {
                remedy: Some(remedy),
                ..Check::new("rights", Verdict::Failed, text)
            }
        }
        Err(error) => Check::failed("rights", error),
    }
}

async fn check_carriers(cluster: &Cluster, gateway: Option<&GatewayPod>) -> Check {
    let Some(gateway) = gateway else {
        return Check::new(
            "carriers",
            Verdict::Skipped,
            "there is no gateway that is ready",
        );
    };
    if let Err(error) = cluster.forward(gateway, API_CARRIER_PORT).await {
        return Check::failed("carriers", error);
    }
    match cluster.udp_endpoints(gateway).await {
        Ok(endpoints) if endpoints.is_empty() => {
            Check::ok("carriers", "api works; the gateway offers no UDP")
        }
        Ok(endpoints) => {
            let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            Check::ok(
                "carriers",
                format!(
                    "api works; connecting also tries UDP to {}",
                    list.join(", ")
                ),
            )
        }
        Err(error) => Check::failed("carriers", error),
    }
}

async fn check_ranges(
    cluster: &Cluster,
    gateway: Option<&GatewayPod>,
    checks: &mut Vec<Check>,
) -> Option<Ranges> {
    let Some(gateway) = gateway else {
        skip(checks, &["ranges"], "there is no gateway that is ready");
        return None;
    };
    match cluster.discover(cluster.namespace(), gateway).await {
        Ok(found) => {
            let ranges = range::aggregate([found.service_ranges, found.pod_ranges].concat());
            let list: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            let text = format!(
                "{} and {} single addresses",
                list.join(", "),
                found.observed.len()
            );
            checks.push(match found.notes.as_slice() {
                [] => Check::ok("ranges", text),
                notes => Check::warning("ranges", text, notes.join("; ")),
            });
            Some(ranges)
        }
        Err(error) => {
            checks.push(Check::failed("ranges", error));
            None
        }
    }
}

/// What sessions set, and the ways of names with them and without.
async fn check_sessions(situation: &Situation, server: &str, checks: &mut Vec<Check>) {
    let places = Places::of(&situation.environment, &situation.user);
    let sessions = match status::sessions(&places).await {
        Ok(sessions) => sessions,
        Err(error) => {
            checks.push(Check::failed("sessions", error));
            Vec::new()
        }
    };
    checks.push(list(&sessions));
    let standing: Vec<SessionReport> = sessions
        .into_iter()
        .filter(|session| session.state == State::Connected)
        .collect();
    match laptop::snapshot().await {
        Ok(snapshot) => {
            checks.push(routes::check_mtu(&snapshot, platform::mtu));
            checks.push(routes::check_routes(&standing, &snapshot));
        }
        Err(error) => checks.push(Check::failed("networks", error)),
    }
    let nsswitch = platform::name_services();
    let mut resolvers = platform::resolver_addresses();
    resolvers.retain(|resolver| !range::is_tunnel(*resolver));
    checks.extend(names::checks(nsswitch.as_deref(), &resolvers, server, &standing).await);
}

fn list(sessions: &[SessionReport]) -> Check {
    let dead = sessions.iter().any(|session| session.state == State::Dead);
    let list: Vec<String> = sessions
        .iter()
        .map(|session| format!("{} {}", session.name, session.state.as_str()))
        .collect();
    match list.as_slice() {
        [] => Check::ok("sessions", "none"),
        list if dead => Check::warning(
            "sessions",
            list.join(", "),
            "`kvpn disconnect` undoes what a dead one left",
        ),
        list => Check::ok("sessions", list.join(", ")),
    }
}

fn table(checks: &[Check]) -> String {
    let rows = checks.iter().map(|check| {
        let remedy = check
            .remedy
            .as_ref()
            .map_or_else(String::new, |remedy| format!("\n  -> {remedy}"));
        (
            check.name,
            format!("{}: {}{remedy}", check.verdict.as_str(), check.detail),
        )
    });
    output::rows(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_remedy() {
        for name in [
            "kubeconfig",
            "API server",
            "rights",
            "gateway",
            "carriers",
            "ranges",
            "networks",
            "sessions",
        ] {
            let check = Check::failed(name, anyhow::anyhow!("no reason"));
            assert!(check.remedy.is_some(), "{name}");
        }
    }

    #[test]
    fn the_documents_fields_stay() {
        let check = Check::warning("ranges", "d", "r");
        let text = serde_json::to_string(&check).unwrap();
        assert_eq!(
            text,
            r#"{"name":"ranges","verdict":"warning","detail":"d","remedy":"r"}"#
        );
    }
}
