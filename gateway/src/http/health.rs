//! Health and Prometheus metrics. Reachable from the whole cluster, so they tell counts and no names.

use std::fmt::{Display, Write as _};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use kvpn_gateway_core::Snapshot;
use tokio::net::TcpListener;

use crate::commands::{Commands, Report};
use crate::neighbours::HandedOver;

/// Serves until the listener breaks.
///
/// # Errors
/// What broke.
pub(crate) async fn serve(listener: TcpListener, commands: Commands) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(health))
        .route("/metrics", get(metrics))
        .with_state(commands);
    Ok(axum::serve(listener, router).await?)
}

/// Alive and ready are one thing: all sockets are open before HTTP is served, and the drivers answer.
async fn health(State(commands): State<Commands>) -> impl IntoResponse {
    match commands.reports().await {
        Ok(_) => (StatusCode::OK, "ok\n"),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the driver does not answer\n",
        ),
    }
}

async fn metrics(State(commands): State<Commands>) -> impl IntoResponse {
    let text = match commands.reports().await {
        Ok(reports) => exposition(&reports),
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Prometheus' text format, version 0.0.4: sums over all drivers.
fn exposition(reports: &[Report]) -> String {
    let mut text = String::new();
    let mut sum = Snapshot::default();
    reports.iter().for_each(|report| sum.add(&report.snapshot));
    let snapshot = &sum;
    let offload = reports.first().map_or("", |report| &report.offload);
    let label = format!("{{does=\"{offload}\"}}");
    let help = "What the kernel does for the data path.";
    family(&mut text, "kvpn_offload_info", "gauge", help, [(label, 1)]);
    sessions(&mut text, snapshot);
    shards(&mut text, reports);
    flows(&mut text, snapshot);
    traffic(&mut text, snapshot);
    drops(&mut text, snapshot);
    text
}

fn sessions(text: &mut String, snapshot: &Snapshot) {
    let (now, ever) = (snapshot.sessions, snapshot.sessions_created);
    family(
        text,
        "kvpn_sessions",
        "gauge",
        "Sessions there are.",
        [("", now)],
    );
    let name = "kvpn_sessions_created_total";
    family(text, name, "counter", "Sessions created.", [("", ever)]);
}

fn shards(text: &mut String, reports: &[Report]) {
    let sessions = reports.iter().map(|report| report.snapshot.sessions);
    let samples = (0..).zip(sessions);
    let samples = samples.map(|(shard, count)| (format!("{{shard=\"{shard}\"}}"), count));
    let help = "Sessions of each shard.";
    family(text, "kvpn_shard_sessions", "gauge", help, samples);
    let mut sum = HandedOver::default();
    reports.iter().for_each(|report| sum += report.handed_over);
    let kinds = [
        ("datagrams", sum.datagrams),
        ("initiation", sum.initiations),
        ("stream", sum.streams),
        ("dropped", sum.dropped),
    ];
    let samples = kinds.map(|(kind, count)| (format!("{{what=\"{kind}\"}}"), count));
    let name = "kvpn_handed_over_total";
    let help = "What one shard handed to another.";
    family(text, name, "counter", help, samples);
}

fn flows(text: &mut String, snapshot: &Snapshot) {
    let flows = snapshot.flows;
    let kinds = [("tcp", flows.tcp), ("udp", flows.udp), ("echo", flows.echo)];
    let samples = kinds.map(|(kind, count)| (format!("{{kind=\"{kind}\"}}"), count));
    family(
        text,
        "kvpn_flows",
        "gauge",
        "Flows of the userspace datapath.",
        samples,
    );
}

fn traffic(text: &mut String, snapshot: &Snapshot) {
    let (sent, received) = (snapshot.sent, snapshot.received);
    let both = |sent, received| {
        [
            ("{direction=\"sent\"}", sent),
            ("{direction=\"received\"}", received),
        ]
    };
    let packets = both(sent.0, received.0);
    let help = "Inner packets to and from clients.";
    family(text, "kvpn_packets_total", "counter", help, packets);
    let help = "Bytes of inner packets to and from clients.";
    family(
        text,
        "kvpn_bytes_total",
        "counter",
        help,
        both(sent.1, received.1),
    );
}

fn drops(text: &mut String, snapshot: &Snapshot) {
    let label = |reason| format!("{{reason=\"{reason}\"}}");
    let drops = snapshot.drops.iter();
    let samples = drops.map(|(reason, count)| (label(reason.name()), count));
    family(
        text,
        "kvpn_dropped_total",
        "counter",
        "Packets dropped.",
        samples,
    );
    let userspace = snapshot.userspace_drops.iter();
    let samples = userspace.map(|(reason, count)| (label(*reason), *count));
    let name = "kvpn_userspace_dropped_total";
    family(
        text,
        name,
        "counter",
        "Packets dropped by the userspace datapath.",
        samples,
    );
}

fn family<L: Display, V: Display>(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, V)>,
) {
    let write = || {
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        samples
            .into_iter()
            .try_for_each(|(labels, value)| writeln!(text, "{name}{labels} {value}"))
    };
    write().expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_in_prometheus_text_format() {
        let report = |sessions, streams| Report {
            snapshot: Snapshot {
                sessions,
                sent: (3, 400),
                ..Snapshot::default()
            },
            offload: "TUN TSO, UDP GSO+GRO".to_owned(),
            handed_over: HandedOver {
                streams,
                ..HandedOver::default()
            },
        };
        let text = exposition(&[report(2, 1), report(1, 3)]);
        let info = "kvpn_offload_info{does=\"TUN TSO, UDP GSO+GRO\"} 1\n";
        assert!(text.contains(info), "{text}");
        assert!(
            text.contains("# TYPE kvpn_sessions gauge\nkvpn_sessions 3\n"),
            "{text}"
        );
        for sample in [
            "kvpn_bytes_total{direction=\"sent\"} 800\n",
            "kvpn_shard_sessions{shard=\"1\"} 1\n",
            "kvpn_handed_over_total{what=\"stream\"} 4\n",
        ] {
            assert!(text.contains(sample), "{sample}: {text}");
        }
    }
}
