//! `kvpn status`: what the sessions' agents say about themselves.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::agent::contact::Contact;
use crate::agent::first_report;
use crate::agent::lock::{self, Held};
use crate::agent::places::{Places, SessionName};
use crate::agent::report::{
    CarrierReport, GatewayReport, NetworkReport, OverlapReport, SessionReport, State,
    TrafficReport, VirtualRange,
};
use crate::cli::Situation;
use crate::cli::failure::{Failure, NOT_CONNECTED};
use crate::cli::output::{self, Format, OutputArgs};
use crate::helper;

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its top left corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show the sessions
///
/// Exit code 3 when there is none.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// Show it again every second, until Ctrl-C; in JSON one document a line
    #[arg(short, long)]
    watch: bool,
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document {
    sessions: Vec<SessionReport>,
}

/// `kvpn status`
pub(crate) async fn run(situation: Situation, args: StatusArgs) -> anyhow::Result<ExitCode> {
    let places = Places::of(&situation.environment, &situation.user);
    loop {
        let sessions = sessions(&places).await?;
        let any = sessions.iter().any(|session| session.state != State::Dead);
        show(sessions, &args)?;
        if args.watch {
            tokio::time::sleep(LOOK).await;
        } else if any {
            return Ok(ExitCode::SUCCESS);
        } else {
            return Err(not_connected().into());
        }
    }
}

fn not_connected() -> Failure {
    let failure = Failure::new(NOT_CONNECTED, "not connected");
    match helper::visible_leftovers() {
        Some(left) => failure.hint(format!("{left}; `kvpn disconnect` puts it back")),
        None => failure.hint("`kvpn connect` connects"),
    }
}

fn show(sessions: Vec<SessionReport>, args: &StatusArgs) -> anyhow::Result<()> {
    match (args.output.format, args.watch) {
        (Format::Json, false) => return output::print_json(&Document { sessions }),
        (Format::Json, true) => output::print(&serde_json::to_string(&Document { sessions })?),
        (Format::Table, watch) => {
            if watch && std::io::stdout().is_terminal() {
                output::print(CLEAR);
            }
            if !sessions.is_empty() {
                output::print(&table(&sessions));
            }
        }
    }
    Ok(())
}

/// Every session of the user.
///
/// # Errors
///
/// The sessions' directory cannot be read.
pub(crate) async fn sessions(places: &Places) -> anyhow::Result<Vec<SessionReport>> {
    let mut reports = Vec::new();
    for name in places.sessions()? {
        let report = match Contact::open(places, &name).await? {
            Some(mut contact) => contact.status().await.ok(),
            None => None,
        };
        let report =
            report.or_else(|| without_agent(places, &name, lock::look(&places.lock(&name))));
        reports.extend(report);
    }
    Ok(reports)
}

/// What can be said of a session whose agent says nothing.
fn without_agent(places: &Places, name: &SessionName, held: Held) -> Option<SessionReport> {
    let (state, trouble, holder) = match held {
        Held::Absent => return None,
        Held::Alive(holder) => (State::Connecting, "the agent does not answer", holder?),
        Held::Dead(holder) => (
            State::Dead,
            "the agent died; `kvpn disconnect` tidies up after it",
            holder?,
        ),
    };
    Some(SessionReport {
        state,
        trouble: Some(trouble.to_owned()),
        ..first_report(places, name, &holder)
    })
}

fn table(sessions: &[SessionReport]) -> String {
    let blocks: Vec<String> = sessions
        .iter()
        .map(|session| output::rows(rows(session)))
        .collect();
    blocks.join("\n\n")
}

/// What a person wants to know first, first.
fn rows(session: &SessionReport) -> Vec<Row> {
    let SessionReport {
        context,
        server,
        namespace,
        ..
    } = session;
    let mut rows = vec![
        ("session", session.name.to_string()),
        ("state", state(session)),
    ];
    rows.push((
        "cluster",
        format!("{context} ({server}), namespace {namespace}"),
    ));
    rows.extend(session.gateway.as_ref().map(gateway_row));
    rows.extend(
        session
            .carriers
            .iter()
            .map(|carrier| carrier_row(session, carrier)),
    );
    rows.extend(offload_rows(session));
    rows.extend(session.network.iter().flat_map(network_rows));
    if session.state != State::Dead {
        rows.extend(traffic_rows(&session.traffic));
    }
    rows.extend(session.notes.iter().map(|note| ("note", note.clone())));
    rows.push(("log", session.log.display().to_string()));
    rows
}

/// A label and what belongs to it.
type Row = (&'static str, String);

fn gateway_row(gateway: &GatewayReport) -> Row {
    let GatewayReport {
        namespace,
        pod,
        version,
        datapath,
        ..
    } = gateway;
    let note = gateway
        .datapath_note
        .as_ref()
        .map_or_else(String::new, |note| format!(": {note}"));
    (
        "gateway",
        format!("{namespace}/{pod}, {version}, datapath {datapath}{note}"),
    )
}

fn carrier_row(session: &SessionReport, report: &CarrierReport) -> Row {
    let CarrierReport {
        carrier,
        state,
        rtt_millis,
    } = report;
    let rtt = rtt_millis.map_or_else(String::new, |rtt| format!(", {rtt:.2} ms"));
    let used = if session.carrier.as_ref() == Some(carrier) {
        let mtu = session.traffic.mtu;
        mtu.map_or_else(
            || ", in use".to_owned(),
            |mtu| format!(", MTU {mtu}, in use"),
        )
    } else {
        String::new()
    };
    ("carrier", format!("{carrier}: {state}{rtt}{used}"))
}

fn offload_rows(session: &SessionReport) -> impl Iterator<Item = Row> {
    let here = session.offload.as_ref().map(|offload| {
        let udp = offload.udp.as_ref();
        let udp = udp.map_or_else(String::new, |udp| format!(", UDP {udp}"));
        format!("here TUN {}{udp}", offload.tun)
    });
    let gateway = session.gateway.as_ref();
    let there = gateway.and_then(|gateway| gateway.offload.as_ref());
    let both = [here, there.map(|offload| format!("gateway {offload}"))];
    let text = both.into_iter().flatten().collect::<Vec<_>>().join("; ");
    (!text.is_empty()).then_some(("offload", text)).into_iter()
}

fn network_rows(network: &NetworkReport) -> Vec<Row> {
    let (servers, search) = (join(&network.dns_servers), network.search.join(" "));
    let mut rows = vec![
        (
            "interface",
            format!("{} {}", network.interface, join(&network.addresses)),
        ),
        ("routes", join(&network.routes)),
        (
            "names",
            format!("{servers} ({}); search {search}", network.dns_backend),
        ),
        ("domains", network.routing_domains.join(" ")),
    ];
    if !network.host_routes.is_empty() {
        rows.insert(2, ("host routes", join(&network.host_routes)));
    }
    let shown = network.virtual_ranges.iter();
    rows.extend(shown.map(|VirtualRange { range, appears_as }| {
        ("virtual range", format!("{range} appears as {appears_as}"))
    }));
    let overlaps = network.overlaps.iter();
    rows.extend(overlaps.map(|overlap| {
        let OverlapReport {
            range,
            with,
            interface,
        } = overlap;
        ("overlap", format!("{range} with {with} of {interface}"))
    }));
    rows
}

fn traffic_rows(traffic: &TrafficReport) -> Vec<Row> {
    let (sent, received) = (bytes(traffic.sent_bytes), bytes(traffic.received_bytes));
    let mut rows = vec![(
        "traffic",
        format!("{sent} sent, {received} received, {} flows", traffic.flows),
    )];
    if !traffic.dropped.is_empty() {
        let dropped = traffic
            .dropped
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"));
        rows.push(("dropped", dropped.collect::<Vec<_>>().join(", ")));
    }
    rows
}

fn state(session: &SessionReport) -> String {
    let since = session
        .connected_seconds
        .map_or_else(String::new, |seconds| {
            format!(", for {}", duration(seconds))
        });
    let trouble = session
        .trouble
        .as_ref()
        .map_or_else(String::new, |why| format!(": {why}"));
    format!("{}{since}{trouble}", session.state.as_str())
}

fn join<T: ToString>(values: &[T]) -> String {
    values
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = count;
    while rest >= 10 * 1024 && unit + 1 < UNITS.len() {
        rest /= 1024;
        unit += 1;
    }
    format!("{rest} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!(bytes(9_999), "9999 B");
        assert_eq!(bytes(20 << 20), "20 MiB");
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(3 * 3600 + 120), "3 h 2 min");
    }

    #[test]
    fn both_ends_offload_is_shown() {
        let text = r#"{"name":"a","state":"connected","context":"c","namespace":"n","server":"s","pid":1,"log":"/l",
            "gateway":{"namespace":"n","pod":"p","image":"i","version":"1","datapath":"kernel","sessionId":"s1",
                       "offload":"TUN TSO, UDP GRO"},
            "offload":{"tun":"TSO+USO","udp":"GSO+GRO"}}"#;
        let table = table(&[serde_json::from_str(text).unwrap()]);
        let row = "here TUN TSO+USO, UDP GSO+GRO; gateway TUN TSO, UDP GRO";
        assert!(table.contains(row), "{table}");
    }

    #[test]
    fn the_mtu_is_that_of_the_carrier_in_use() {
        let text = r#"{"name":"a","state":"connected","context":"c","namespace":"n","server":"s","pid":1,"log":"/l",
            "carrier":"api","carriers":[{"carrier":"api","state":"answering"},{"carrier":"udp 192.0.2.1:1","state":"silent"}],
            "traffic":{"mtu":1440}}"#;
        let table = table(&[serde_json::from_str(text).unwrap()]);
        assert!(
            table.contains("api: answering, MTU 1440, in use"),
            "{table}"
        );
        assert_eq!(table.matches("MTU").count(), 1, "{table}");
    }

    #[test]
    fn a_dead_session_is_shown_as_such() {
        let text = r#"{"name":"a","state":"dead","trouble":"the agent died","context":"c","namespace":"n","server":"s","pid":1,"log":"/l"}"#;
        let table = table(&[serde_json::from_str(text).unwrap()]);
        assert!(table.contains("dead: the agent died"), "{table}");
        assert!(!table.contains("traffic"), "{table}");
    }
}
