//! `kvpn unexpose`: ends exposures of this user, and what dead ones left.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use kvpn_k8s::{Cluster, Whose};

use crate::agent::places::Places;
use crate::cli::exposures::{Own, own};
use crate::cli::failure::{Failure, NOT_CONNECTED, USAGE};
use crate::cli::kube::kube;
use crate::cli::progress::Display;
use crate::cli::{Situation, disconnect};
use crate::cluster::Kube;

/// End an exposure of yours and put the Service back
///
/// Connections that are open have 5 s to end. What a process left that was killed is put back too.
#[derive(Debug, Args)]
pub(crate) struct UnexposeArgs {
    /// The Service; with -n if several namespaces have one of that name
    #[arg(value_name = "SERVICE", required_unless_present = "all")]
    service: Option<String>,
    /// All exposures of yours (in the namespace and context, where they are given)
    #[arg(long, conflicts_with = "service")]
    all: bool,
}

/// `kvpn unexpose`
pub(crate) async fn run(situation: Situation, args: UnexposeArgs) -> anyhow::Result<ExitCode> {
    let places = Places::of(&situation.environment, &situation.user).of_exposures();
    let display = Display::new(situation.globals.quiet);
    let meant = meant(own(&places)?, &situation, &args)?;
    for own in &meant {
        let place = full_name(own);
        display.step(&format!("ending the exposure of {place}"));
        end(&situation, &places, own, &display)
            .await
            .with_context(|| format!("the exposure of {place} could not be ended"))?;
        display.result(&format!("no longer exposed: {place}"));
    }
    display.clear();
    Ok(ExitCode::SUCCESS)
}

fn full_name(own: &Own) -> String {
    let service = own.holder.service.as_deref().unwrap_or("?");
    format!("{}/{service}", own.holder.namespace)
}

fn meant(all: Vec<Own>, situation: &Situation, args: &UnexposeArgs) -> anyhow::Result<Vec<Own>> {
    let service = args.service.as_deref();
    let is_meant = |own: &Own| {
        disconnect::is_of(&own.holder, &situation.globals)
            && service.is_none_or(|service| own.holder.service.as_deref() == Some(service))
    };
    let meant: Vec<Own> = all.into_iter().filter(is_meant).collect();
    match (service, meant.as_slice()) {
        (None, _) | (Some(_), [_]) => Ok(meant),
        (Some(service), []) => {
            let message = format!("no process of yours exposes a Service {service}");
            let hint = format!(
                "`kvpn list` shows what is exposed; `kvpn restore {service}` puts it back whoever exposed it"
            );
            Err(Failure::new(NOT_CONNECTED, message).hint(hint).into())
        }
        (Some(service), several) => {
            let places: Vec<String> = several
                .iter()
                .map(|own| format!("{} (context {})", full_name(own), own.holder.context))
                .collect();
            let message = format!(
                "several Services {service} are exposed: {}",
                places.join(", ")
            );
            Err(Failure::new(USAGE, message)
                .hint("say which with -n or --context")
                .into())
        }
    }
}

/// Ends one exposure, with its process if it lives.
pub(super) async fn end(
    situation: &Situation,
    places: &Places,
    own: &Own,
    display: &Display,
) -> anyhow::Result<()> {
    if own.alive {
        return disconnect::end(places, &own.name, display).await;
    }
    if let (Some(service), Some(session)) = (&own.holder.service, &own.holder.fingerprint) {
        let kube = Kube {
            context: Some(own.holder.context.clone()),
            namespace: Some(own.holder.namespace.clone()),
            ..kube(situation)
        };
        let cluster = Cluster::load(&kube.options(false))?;
        let whose = Whose::Session(session.clone());
        cluster
            .restore_service(cluster.namespace(), service, &whose)
            .await?;
    }
    disconnect::forget(places, &own.name)
}
