//! An exposure in words: what goes where, and each request in a line. Pure.

use kvpn_wire::control::{ConnectionEvent, Destination, ExposedPort, LiveEvent, RequestEvent};
use kvpn_wire::exposure::{Protocol, Traffic};

use crate::agent::report::{ExposureReport, SessionReport};

/// What is exposed, and what of it cannot be.
pub(crate) fn summary(report: &SessionReport, exposure: &ExposureReport) -> String {
    let through = report
        .gateway
        .as_ref()
        .map_or_else(String::new, |gateway| format!(" through {}", gateway.pod));
    let what = match &exposure.traffic {
        Traffic::All => String::new(),
        traffic => format!(", {traffic}"),
    };
    let mut lines = vec![format!(
        "exposed: Service {}/{}{what}{through}",
        report.namespace, exposure.service
    )];
    lines.extend(exposure.ports.iter().map(|port| format!("  {}", way(port))));
    lines.extend(unmatched(exposure).map(|text| format!("  {text}")));
    if exposure.takeover {
        lines.push(
            "  connections that callers have open stay with the Service's own pods until they end"
                .to_owned(),
        );
    } else {
        lines.push("  the Service is new, and goes with the exposure".to_owned());
    }
    lines.join("\n")
}

/// `port 80 (http) -> 127.0.0.1:8080`.
fn way(port: &ExposedPort) -> String {
    let udp = if port.protocol == Protocol::Udp {
        "/udp"
    } else {
        ""
    };
    let name = if port.name.is_empty() {
        String::new()
    } else {
        format!(" ({})", port.name)
    };
    let to = match port.laptop_port {
        Some(laptop) => format!("127.0.0.1:{laptop}"),
        None => "the Service's own pods".to_owned(),
    };
    format!("port {}{udp}{name} -> {to}", port.port)
}

/// What requests are chosen from is HTTP; what becomes of the rest is said before it surprises.
fn unmatched(exposure: &ExposureReport) -> Option<String> {
    if !exposure.traffic.needs_requests() {
        return None;
    }
    let encrypted: Vec<String> = exposure
        .ports
        .iter()
        .filter(|port| port.laptop_port.is_some() && is_encrypted(port))
        .map(|port| port.port.to_string())
        .collect();
    let rest =
        "what cannot be matched (TLS, other protocols than HTTP) goes to the Service's own pods";
    Some(if encrypted.is_empty() {
        rest.to_owned()
    } else {
        format!("{rest}: port {} looks like TLS", encrypted.join(", "))
    })
}

fn is_encrypted(port: &ExposedPort) -> bool {
    let names = [&port.app_protocol, &port.name];
    port.port == 443
        || names
            .into_iter()
            .any(|name| matches!(name.as_str(), "https" | "tls" | "wss" | "kubernetes.io/wss"))
}

/// One line of the live view.
pub(super) fn line(event: &LiveEvent) -> String {
    match event {
        LiveEvent::Request(request) => request_line(request),
        LiveEvent::Connection(connection) => connection_line(connection),
        LiveEvent::State(state) => {
            format!("{}/{}: {}", state.namespace, state.service, state.state)
        }
        LiveEvent::Lost(lost) => format!("({} not shown)", lost.events),
    }
}

fn request_line(request: &RequestEvent) -> String {
    let status = request
        .status
        .map_or_else(|| "-".to_owned(), |status| status.to_string());
    let copy = if request.mirrored {
        ", copy to laptop"
    } else {
        ""
    };
    let error = request
        .error
        .as_ref()
        .map_or_else(String::new, |error| format!(": {error}"));
    plain(&format!(
        "{} {} {status} {} {}{copy}{error}",
        request.method,
        request.path,
        duration(request.millis),
        to(request.to, request.fallback)
    ))
}

fn connection_line(connection: &ConnectionEvent) -> String {
    let caller = connection
        .caller
        .map_or_else(String::new, |caller| format!(" from {caller}"));
    let note = connection
        .note
        .as_ref()
        .map_or_else(String::new, |note| format!(": {note}"));
    plain(&format!(
        "{} port {}{caller} {} in, {} out {} {}{note}",
        connection.protocol,
        connection.port,
        bytes(connection.received_bytes),
        bytes(connection.sent_bytes),
        duration(connection.millis),
        to(connection.to, connection.fallback)
    ))
}

fn to(destination: Destination, fallback: bool) -> &'static str {
    match (destination, fallback) {
        (Destination::Laptop, _) => "laptop",
        (Destination::Origin, false) => "origin",
        (Destination::Origin, true) => "origin (laptop did not answer)",
    }
}

fn duration(millis: f64) -> String {
    if millis < 10.0 {
        format!("{millis:.1} ms")
    } else if millis < 10_000.0 {
        format!("{millis:.0} ms")
    } else {
        format!("{:.0} s", millis / 1e3)
    }
}

/// Bytes as people read them.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.95 {
            break;
        }
        (value, unit) = (value / 1e3, next);
    }
    format!("{value:.1} {unit}")
}

/// Callers choose paths: nothing in them may command the terminal.
fn plain(line: &str) -> String {
    line.replace(|c: char| c.is_control(), "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(extra: &str) -> LiveEvent {
        let text = format!(
            r#"{{"namespace":"shop","service":"web","port":80,"method":"GET","path":"/a\u001b[2J","status":200,"millis":1.25,"to":"laptop"{extra}}}"#
        );
        LiveEvent::Request(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_request_is_a_line_that_cannot_command_the_terminal() {
        assert_eq!(line(&request("")), "GET /a?[2J 200 1.2 ms laptop");
        let fallback = line(&request(r#","fallback":true,"error":"refused""#));
        assert!(fallback.ends_with("laptop: refused"), "{fallback}");
    }

    #[test]
    fn a_connection_tells_why_it_went_to_the_origin() {
        let text = r#"{"namespace":"shop","service":"web","port":443,"caller":"10.244.0.9","receivedBytes":517,
            "sentBytes":1234567,"millis":12345,"to":"origin","note":"TLS"}"#;
        let event = LiveEvent::Connection(serde_json::from_str(text).unwrap());
        assert_eq!(
            line(&event),
            "tcp port 443 from 10.244.0.9 517 B in, 1.2 MB out 12 s origin: TLS"
        );
    }

    #[test]
    fn the_summary_says_what_goes_where_and_what_cannot_be_matched() {
        let report: SessionReport = serde_json::from_str(
            r#"{"name":"a","state":"connected","context":"c","namespace":"shop","server":"s","pid":1,"log":"/l",
            "exposure":{"service":"web","takeover":true,"session":"f","traffic":{"match":{"methods":["GET"]}},
            "ports":[{"port":80,"name":"http","laptopPort":8080},{"port":443,"laptopPort":8443},{"port":53,"protocol":"udp"}]}}"#,
        )
        .unwrap();
        let text = summary(&report, report.exposure.as_ref().unwrap());
        for expected in [
            "exposed: Service shop/web, GET",
            "port 80 (http) -> 127.0.0.1:8080",
            "port 53/udp -> the Service's own pods",
            "port 443 looks like TLS",
            "connections that callers have open stay",
        ] {
            assert!(text.contains(expected), "{text}");
        }
        assert!(!text.contains("is new"), "{text}");
        let mut made = report.exposure.unwrap();
        made.takeover = false;
        let text = summary(
            &SessionReport {
                exposure: None,
                ..report
            },
            &made,
        );
        assert!(
            text.contains("is new, and goes with the exposure"),
            "{text}"
        );
    }

    #[test]
    fn sizes_are_read_at_a_glance() {
        let texts = [0, 999, 1000, 999_940, 999_999, 5_000_000_000].map(bytes);
        assert_eq!(
            texts,
            ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "5.0 GB"]
        );
    }
}
