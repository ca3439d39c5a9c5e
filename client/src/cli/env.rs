//! `kvpn env`: a pod's environment for a program on the laptop. Reads the cluster as the user and needs no session.
//!
//! Values may be secrets: they go to stdout and nowhere else.

mod quote;

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use kvpn_k8s::{Cluster, Denied, Environment, Error};
use serde::Serialize;

use crate::cli::Situation;
use crate::cli::failure::{Failure, NOT_PERMITTED};
use crate::cli::kube::kube;
use crate::cli::output;

/// Print the environment of a workload's container
///
/// The variables are those that the kubelet gives: literal values, ConfigMaps, Secrets, fields of the pod, resources, and
/// the addresses of Services. They are read with your own rights. What only the node knows is left out; each such name is
/// told on stderr.
///
/// For example `kvpn env web > .env`, or in a shell `eval "$(kvpn env deployment/web -o export)"`.
#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    /// Whose: deployment/NAME, statefulset/NAME, daemonset/NAME or pod/NAME (or kubectl's short forms), or a NAME that is
    /// looked for in this order
    #[arg(value_name = "WORKLOAD")]
    workload: String,
    #[command(flatten)]
    choice: Choice,
    /// How to write it
    #[arg(
        short,
        long,
        value_enum,
        default_value = "dotenv",
        value_name = "FORMAT"
    )]
    output: EnvFormat,
}

/// Which part of a workload's environment.
#[derive(Debug, Clone, Args)]
pub(crate) struct Choice {
    /// The workload's container; without it the pod's default one, or its first
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Leave out what comes from ConfigMaps and Secrets that you may not read; without it they make the command fail
    #[arg(long)]
    ignore_denied: bool,
}

/// `-o`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EnvFormat {
    /// NAME=value, as dotenv libraries and POSIX shells read it
    Dotenv,
    /// One JSON document whose fields stay
    Json,
    /// `export NAME='value'` for a POSIX shell
    Export,
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    namespace: &'a str,
    pod: &'a str,
    container: &'a str,
    variables: &'a BTreeMap<String, String>,
    notes: &'a [String],
}

/// `kvpn env`
pub(crate) async fn run(situation: Situation, args: EnvArgs) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::load(&kube(&situation).options(std::io::stdin().is_terminal()))?;
    let environment = read(&cluster, &args.workload, &args.choice).await?;
    let mut notes = environment.notes.clone();
    match args.output {
        EnvFormat::Json => output::print_json(&Document {
            namespace: cluster.namespace(),
            pod: &environment.pod,
            container: &environment.container,
            variables: &environment.variables,
            notes: &environment.notes,
        })?,
        EnvFormat::Dotenv => print_lines(&environment, quote::dotenv, &mut notes),
        EnvFormat::Export => print_lines(&environment, quote::export, &mut notes),
    }
    if !situation.globals.quiet {
        for note in notes {
            output::tell(&format!("note: {note}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The environment of a workload of the chosen namespace.
///
/// # Errors
///
/// The cluster's; what may not be read is told with the way to do without it.
pub(crate) async fn read(
    cluster: &Cluster,
    workload: &str,
    choice: &Choice,
) -> anyhow::Result<Environment> {
    let denied = if choice.ignore_denied {
        Denied::LeaveOut
    } else {
        Denied::Refuse
    };
    let container = choice.container.as_deref();
    let found = cluster
        .environment(cluster.namespace(), workload, container, denied)
        .await;
    found.map_err(|error| match &error {
        Error::Forbidden {
            verb,
            resource,
            namespace: Some(namespace),
            ..
        } if ["configmaps", "secrets"].contains(&resource.as_str()) => {
            let message = format!("the environment of {workload} cannot be read: {error}");
            let hint = format!(
                "check with `kubectl auth can-i {verb} {resource} -n {namespace}`; \
                 --ignore-denied gives the rest of the environment"
            );
            Failure::new(NOT_PERMITTED, message).hint(hint).into()
        }
        _ => error.into(),
    })
}

fn print_lines(
    environment: &Environment,
    line: fn(&str, &str) -> Option<String>,
    notes: &mut Vec<String>,
) {
    let mut text = String::new();
    for (name, value) in &environment.variables {
        match line(name, value) {
            Some(line) => text.push_str(&line),
            None => notes.push(format!(
                "{} is left out: this format cannot say it, `-o json` can",
                name.escape_debug()
            )),
        }
    }
    if !text.is_empty() {
        output::print(&text);
    }
}
