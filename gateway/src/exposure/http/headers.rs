//! Header fields that belong to one connection and are not passed on (RFC 9110 section 7.6.1), and X-Forwarded-For. Host
//! and everything else stays as it is. No Via: servers take it as a reason not to compress. `Forwarded` (RFC 7239)
//! is left as it comes.

use std::net::IpAddr;

use http::header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};

use super::Version;

/// Makes a client's header section that of the request to laptop or origin. `upgrade`: the request may leave HTTP.
pub(super) fn prepare_request(
    headers: &mut HeaderMap,
    client: IpAddr,
    version: Version,
    upgrade: bool,
) {
    let wants_trailers = wants_trailers(headers);
    let protocol = headers.get(UPGRADE).filter(|_| upgrade).cloned();
    strip_hop_by_hop(headers);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if version == Version::Http1 {
        match protocol {
            Some(protocol) => {
                headers.insert(UPGRADE, protocol);
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            }
            None if wants_trailers => {
                headers.insert(CONNECTION, HeaderValue::from_static("te"));
            }
            None => {}
        }
    }
    append_forwarded_for(headers, client);
}

/// Makes a laptop's or the origin's header section that of the response to the client.
pub(super) fn prepare_response(headers: &mut HeaderMap, status: StatusCode) {
    let protocol = headers
        .get(UPGRADE)
        .filter(|_| status == StatusCode::SWITCHING_PROTOCOLS)
        .cloned();
    strip_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Whether a request asks to leave HTTP/1.1. Not for h2c: its streams could not be told apart any more, and a server
/// that is not asked stays with HTTP/1.1.
pub(super) fn asks_for_upgrade<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let named = headers
        .get(UPGRADE)
        .is_some_and(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"));
    request.method() == Method::CONNECT
        || named && connection_options(headers).any(|option| option == "upgrade")
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_options(headers)
        .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ] {
        headers.remove(name);
    }
    headers.remove(HTTP2_SETTINGS);
}

/// The options of all Connection lines, in lower case.
fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = String> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|option| option.trim().to_ascii_lowercase())
}

/// One line, because not every program reads several.
fn append_forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    let client = client.to_canonical().to_string();
    let mut line = Vec::new();
    for earlier in headers.get_all(FORWARDED_FOR) {
        line.extend_from_slice(earlier.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(client.as_bytes());
    let line = HeaderValue::from_bytes(&line).expect("made of header values and an address");
    headers.insert(FORWARDED_FOR, line);
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn prepared(lines: &[(&'static str, &'static str)], upgrade: bool) -> HeaderMap {
        let mut headers = headers(lines);
        prepare_request(&mut headers, [10, 0, 0, 7].into(), Version::Http1, upgrade);
        headers
    }

    #[test]
    fn what_belongs_to_the_connection_stays_there() {
        let lines = [
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AA"),
            ("te", "gzip"),
            ("host", "web.shop"),
            ("trailer", "x-sum"),
            ("proxy-authorization", "secret"),
        ];
        let expected = headers(&[
            ("host", "web.shop"),
            ("trailer", "x-sum"),
            ("proxy-authorization", "secret"),
            ("x-forwarded-for", "10.0.0.7"),
        ]);
        assert_eq!(prepared(&lines, false), expected);
    }

    #[test]
    fn trailers_are_asked_for_hop_by_hop() {
        let headers = prepared(&[("te", "gzip, Trailers;q=1"), ("te", "trailers")], false);
        assert_eq!(
            (&headers[TE], &headers[CONNECTION]),
            (&"trailers".parse().unwrap(), &"te".parse().unwrap())
        );
    }

    #[test]
    fn addresses_are_appended_to_one_line() {
        let lines = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2, 3.3.3.3"),
        ];
        let headers = prepared(&lines, false);
        let all: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(all, ["1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.7"]);
    }

    #[test]
    fn upgrades_are_passed_on_and_h2c_is_not() {
        let request = |protocol| {
            Request::get("/")
                .header("connection", "keep-alive, Upgrade")
                .header("upgrade", protocol)
                .body(())
                .unwrap()
        };
        assert!(asks_for_upgrade(&request("websocket")));
        assert!(!asks_for_upgrade(&request("h2c")));
        let headers = prepared(&[("connection", "Upgrade"), ("upgrade", "websocket")], true);
        assert_eq!(
            (&headers[CONNECTION], &headers[UPGRADE]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }
}
