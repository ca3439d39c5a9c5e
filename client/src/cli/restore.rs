//! `kvpn restore`: puts exposed Services back, whoever exposed them. For what dead clients and gateways left.

use std::process::ExitCode;

use clap::Args;
use kvpn_k8s::{Cluster, Error as ClusterError, Restored, Whose};

use crate::agent::places::Places;
use crate::cli::exposures::{Exposures, Own, Part, own};
use crate::cli::failure::{CONFLICT, FAILED, Failure};
use crate::cli::kube::kube;
use crate::cli::progress::Display;
use crate::cli::{Situation, unexpose};

/// Put exposed Services of a namespace (-n) back as they were, whoever exposed them
///
/// Without a Service: those whose owners are gone. A Service that somebody else's living session exposes is left alone, unless
/// --force is given; that session then ends. Changes that others made to the Service meanwhile stay.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The Service
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// Every exposed Service of the namespace
    #[arg(long, conflicts_with = "service")]
    all: bool,
    /// Also what others expose right now
    #[arg(long)]
    force: bool,
}

/// `kvpn restore`
pub(crate) async fn run(situation: Situation, args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let interactive = std::io::IsTerminal::is_terminal(&std::io::stdin());
    let cluster = Cluster::load(&kube(&situation).options(interactive))?;
    let display = Display::new(situation.globals.quiet);
    let places = Places::of(&situation.environment, &situation.user).of_exposures();
    display.step(&format!("looking at namespace {}", cluster.namespace()));
    let restore = Restore {
        exposures: Exposures::look(&cluster).await?,
        own: own(&places)?,
        cluster: &cluster,
        situation: &situation,
        places: &places,
        args: &args,
        display: &display,
    };
    let outcome = restore.run().await;
    display.clear();
    outcome
}

struct Restore<'a> {
    cluster: &'a Cluster,
    situation: &'a Situation,
    places: &'a Places,
    args: &'a RestoreArgs,
    display: &'a Display,
    exposures: Exposures,
    own: Vec<Own>,
}

/// What is to be done with one owner's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// End it by the Service's annotation.
    Restore,
    /// A process of this user holds it: end that.
    Unexpose,
    /// Somebody else's session lives.
    Leave,
}

impl Restore<'_> {
    async fn run(&self) -> anyhow::Result<ExitCode> {
        // A gateway that lives removes shadows itself, when the connections over them are done.
        if !self.exposures.gateway_answers || self.args.all {
            self.sweep().await?;
        }
        let meant: Vec<Part<'_>> = (self.exposures.parts())
            .filter(|part| self.is_meant(part))
            .collect();
        let mut left = Vec::new();
        for part in &meant {
            match self.verdict(part) {
                Verdict::Leave => left.push(part),
                verdict => self.end(part, verdict).await?,
            }
        }
        if meant.is_empty() {
            self.nothing_found().await?;
        }
        if !self.exposures.gateway_answers {
            self.sweep().await?;
        }
        match left.as_slice() {
            [] => Ok(ExitCode::SUCCESS),
            // Without a name only what is dead was meant.
            _ if self.args.service.is_none() && !self.args.all => Ok(ExitCode::SUCCESS),
            left => Err(in_use(left).into()),
        }
    }

    fn is_meant(&self, part: &Part<'_>) -> bool {
        let service = self.args.service.as_ref();
        service.is_none_or(|service| *service == part.service.name)
    }

    fn verdict(&self, part: &Part<'_>) -> Verdict {
        let own = self.own.iter().find(|own| own.has(part.owner));
        let is_named = self.args.service.is_some() || self.args.all;
        match own {
            Some(own) if own.alive && is_named => Verdict::Unexpose,
            Some(own) if own.alive => Verdict::Leave,
            Some(_) => Verdict::Restore,
            None if part.is_alive() && !self.args.force => Verdict::Leave,
            None => Verdict::Restore,
        }
    }

    async fn end(&self, part: &Part<'_>, verdict: Verdict) -> anyhow::Result<()> {
        let (namespace, service) = (self.cluster.namespace(), &part.service.name);
        self.display
            .step(&format!("putting Service {namespace}/{service} back"));
        let own = self.own.iter().find(|own| own.has(part.owner));
        if let (Verdict::Unexpose, Some(own)) = (verdict, own) {
            unexpose::end(self.situation, self.places, own, self.display).await?;
        } else {
            let whose = Whose::Session(part.owner.session.clone());
            let restored = self
                .cluster
                .restore_service(namespace, service, &whose)
                .await?;
            if matches!(restored, Restored::Nothing | Restored::Absent) {
                return Ok(());
            }
        }
        let owner = part.owner.name();
        self.display.result(&format!(
            "restored: Service {namespace}/{service} (exposed by {owner})"
        ));
        Ok(())
    }

    /// The Service may bear an annotation that cannot be read, which is an error; not being exposed is none.
    async fn nothing_found(&self) -> anyhow::Result<()> {
        let namespace = self.cluster.namespace();
        if let Some(service) = &self.args.service {
            let everybody = &Whose::Everybody;
            let restored = self
                .cluster
                .restore_service(namespace, service, everybody)
                .await?;
            if restored == Restored::Absent {
                let message = format!("there is no Service {namespace}/{service}");
                return Err(Failure::new(FAILED, message)
                    .hint("`kvpn list` shows what is exposed")
                    .into());
            }
            self.display
                .result(&format!("Service {namespace}/{service} is not exposed"));
        } else {
            self.display
                .result(&format!("no Service is exposed in namespace {namespace}"));
        }
        Ok(())
    }

    async fn sweep(&self) -> anyhow::Result<()> {
        match self.cluster.sweep_shadows(self.cluster.namespace()).await {
            Ok(removed) => {
                for shadow in removed {
                    let namespace = self.cluster.namespace();
                    self.display.note(&format!(
                        "removed Service {namespace}/{shadow}, which nobody needs any more"
                    ));
                }
                Ok(())
            }
            // It is in nobody's way.
            Err(error @ ClusterError::Forbidden { .. }) => {
                tracing::info!(%error, "shadows are left");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn in_use(left: &[&Part<'_>]) -> Failure {
    let texts: Vec<String> = left
        .iter()
        .map(|part| {
            format!(
                "Service {}/{} is exposed by {} since {}",
                part.service.namespace,
                part.service.name,
                part.owner.name(),
                part.owner.since
            )
        })
        .collect();
    Failure::new(
        CONFLICT,
        format!("{}, and that session lives", texts.join("; ")),
    )
    .hint("ask them to end it, or give --force")
}
