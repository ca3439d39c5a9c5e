//! `kvpn list`: what is exposed in a namespace, by whom, and how it does.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use kvpn_k8s::Cluster;
use kvpn_wire::control::{ACTIVE_STATE, ExposedPort};
use kvpn_wire::exposure::{Protocol, Traffic};
use serde::Serialize;

use crate::agent::places::Places;
use crate::agent::wall_clock;
use crate::cli::Situation;
use crate::cli::expose::bytes;
use crate::cli::exposures::{Exposures, Own, Part, own};
use crate::cli::kube::kube;
use crate::cli::output::{self, Format, OutputArgs};

/// Show what is exposed in a namespace (-n): whose, since when, and how it does
///
/// Figures come from the gateway; without it, what stands in the Services themselves is shown.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// The JSON document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    namespace: String,
    gateway_answers: bool,
    exposures: Vec<Exposure>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Exposure {
    service: String,
    owner: String,
    /// A process of this user, which `kvpn unexpose` ends.
    mine: bool,
    pid: Option<u32>,
    session: String,
    gateway: String,
    /// The Service is kvpn's, and goes with the exposure.
    created: bool,
    traffic: Traffic,
    ports: Vec<ExposedPort>,
    since: String,
    age_seconds: Option<u64>,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    figures: Option<Figures>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Figures {
    connections: u32,
    to_laptop: u64,
    to_origin: u64,
    fallbacks: u64,
    errors: u64,
    received_bytes: u64,
    sent_bytes: u64,
}

/// `kvpn list`
pub(crate) async fn run(situation: Situation, args: ListArgs) -> anyhow::Result<ExitCode> {
    let interactive = std::io::IsTerminal::is_terminal(&std::io::stdin());
    let cluster = Cluster::load(&kube(&situation).options(interactive))?;
    let places = Places::of(&situation.environment, &situation.user).of_exposures();
    let exposures = Exposures::look(&cluster).await?;
    let document = document(&cluster, &exposures, &own(&places)?, wall_clock());
    match args.output.format {
        Format::Json => output::print_json(&document)?,
        Format::Table => output::print(&table(&document)),
    }
    Ok(ExitCode::SUCCESS)
}

fn document(cluster: &Cluster, exposures: &Exposures, own: &[Own], now: SystemTime) -> Document {
    let parts = exposures.parts();
    Document {
        namespace: cluster.namespace().to_owned(),
        gateway_answers: exposures.gateway_answers,
        exposures: parts
            .map(|part| exposure(&part, exposures.gateway_answers, own, now))
            .collect(),
    }
}

fn exposure(part: &Part<'_>, gateway_answers: bool, own: &[Own], now: SystemTime) -> Exposure {
    let Part {
        service,
        owner,
        status,
    } = part;
    let own = own.iter().find(|own| own.alive && own.has(owner));
    Exposure {
        service: service.name.clone(),
        owner: owner.name().to_owned(),
        mine: own.is_some(),
        pid: own.map(|own| own.holder.process.pid),
        session: owner.session.clone(),
        gateway: service.annotation.gateway.clone(),
        created: service.annotation.created,
        traffic: owner.expose.traffic.clone(),
        ports: owner.expose.ports.clone(),
        since: owner.since.clone(),
        age_seconds: owner.age(now).map(|age| age.as_secs()),
        state: state(part, gateway_answers),
        figures: status.map(|status| Figures {
            connections: status.connections,
            to_laptop: status.to_laptop,
            to_origin: status.to_origin,
            fallbacks: status.fallbacks,
            errors: status.errors,
            received_bytes: status.received_bytes,
            sent_bytes: status.sent_bytes,
        }),
    }
}

fn state(part: &Part<'_>, gateway_answers: bool) -> String {
    let text = match part.status {
        _ if !part.service.swapped => "not in effect",
        Some(status) if !status.state.is_empty() => &status.state,
        Some(_) => ACTIVE_STATE,
        None if gateway_answers => "the gateway does not know it",
        None => "the gateway does not answer",
    };
    text.to_owned()
}

fn table(document: &Document) -> String {
    if document.exposures.is_empty() {
        return format!("no Service is exposed in namespace {}", document.namespace);
    }
    let heads = [
        "SERVICE", "OWNER", "PORTS", "TRAFFIC", "AGE", "LAPTOP", "ORIGIN", "ERRORS", "BYTES",
        "STATE",
    ];
    output::table(&heads, document.exposures.iter().map(row))
}

fn row(exposure: &Exposure) -> Vec<String> {
    let figure =
        |of: fn(&Figures) -> String| exposure.figures.as_ref().map_or_else(|| "-".to_owned(), of);
    let mine = if exposure.mine { " (you)" } else { "" };
    vec![
        exposure.service.clone(),
        format!("{}{mine}", exposure.owner),
        ports(&exposure.ports),
        exposure.traffic.to_string(),
        exposure.age_seconds.map_or_else(|| "-".to_owned(), age),
        figure(|figures| figures.to_laptop.to_string()),
        figure(|figures| figures.to_origin.to_string()),
        figure(|figures| figures.errors.to_string()),
        figure(|figures| bytes(figures.received_bytes + figures.sent_bytes)),
        exposure.state.clone(),
    ]
}

/// `80->8080 53/udp->5353`; ports that nobody exposes are left out.
fn ports(ports: &[ExposedPort]) -> String {
    let exposed = ports.iter().filter_map(|port| {
        let udp = if port.protocol == Protocol::Udp {
            "/udp"
        } else {
            ""
        };
        Some(format!("{}{udp}->{}", port.port, port.laptop_port?))
    });
    exposed.collect::<Vec<_>>().join(" ")
}

/// `45s`, `12m`, `3h`, `2d`, as kubectl has it.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use kvpn_k8s::{Annotation, ExposedService};
    use kvpn_wire::control::ExposureStatus;

    use super::*;

    fn exposures(state: Option<&str>, swapped: bool) -> Exposures {
        let annotation: Annotation = serde_json::from_str(
            r#"{"version":1,"gateway":"kvpn-gateway-0","original":{},"owners":[{"session":"f1","since":"2026-11-21T17:00:00Z",
            "expose":{"owner":"ana@laptop","origin":"web-kvpn-origin","ports":[{"port":80,"laptopPort":8080},{"port":443}]}}]}"#,
        )
        .unwrap();
        let status = |state: &str| ExposureStatus {
            namespace: "shop".into(),
            service: "web".into(),
            owner: "ana@laptop".into(),
            state: state.into(),
            to_laptop: 7,
            received_bytes: 1500,
            ..ExposureStatus::default()
        };
        let service: ExposedService = ExposedService {
            namespace: "shop".into(),
            name: "web".into(),
            annotation,
            swapped,
            ports: Vec::new(),
            complete: swapped,
        };
        Exposures {
            services: vec![service],
            gateway_answers: state.is_some(),
            statuses: state.map(status).into_iter().collect(),
        }
    }

    fn one(exposures: &Exposures) -> Exposure {
        let part = exposures.parts().next().unwrap();
        let now = SystemTime::UNIX_EPOCH;
        exposure(&part, exposures.gateway_answers, &[], now)
    }

    #[test]
    fn figures_are_the_gateways() {
        let exposures = exposures(Some(""), true);
        assert!(exposures.parts().next().unwrap().is_alive());
        let row = row(&one(&exposures));
        let expected = [
            "web",
            "ana@laptop",
            "80->8080",
            "everything",
            "0s",
            "7",
            "0",
            "0",
            "1.5 kB",
            "active",
        ];
        assert_eq!(row, expected);
    }

    #[test]
    fn without_the_gateway_the_annotation_tells_what_it_knows() {
        let exposures = exposures(None, true);
        let one = one(&exposures);
        assert_eq!(one.state, "the gateway does not answer");
        assert_eq!(row(&one)[5], "-");
        assert!(!exposures.parts().next().unwrap().is_alive());
    }

    #[test]
    fn a_silent_session_is_not_alive_and_a_claim_is_not_in_effect() {
        let silent = exposures(Some("origin: the laptop is silent"), true);
        assert!(!silent.parts().next().unwrap().is_alive());
        assert_eq!(one(&silent).state, "origin: the laptop is silent");
        assert_eq!(one(&exposures(Some(""), false)).state, "not in effect");
    }

    #[test]
    fn ages_are_short() {
        assert_eq!(
            [90, 600, 10_000, 200_000].map(age),
            ["90s", "10m", "2h", "2d"]
        );
    }
}
