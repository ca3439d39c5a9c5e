//! What the gateway itself answers: that the laptop or the origin is not there, in words for the developer who reads it.

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};

use super::super::events::Share;
use super::super::shared::Shared;
use super::exchange::{Exchange, ResponseBody};
use super::upstream::Failure;

/// 502, or what gRPC clients understand as it (its status code 14, UNAVAILABLE).
pub(super) fn bad_gateway(
    shared: &Shared,
    failure: &Failure,
    head: &Parts,
    exchange: Exchange,
) -> Response<ResponseBody> {
    let text = describe(shared, failure, &exchange.to);
    let is_grpc = head
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        unavailable(&text, exchange)
    } else {
        plain(StatusCode::BAD_GATEWAY, text, exchange)
    }
}

/// 501 for CONNECT over HTTP/2.
pub(super) fn not_implemented(exchange: Exchange) -> Response<ResponseBody> {
    let text = "kvpn: an exposure takes CONNECT over HTTP/1.1 only\n".to_owned();
    plain(StatusCode::NOT_IMPLEMENTED, text, exchange)
}

fn describe(shared: &Shared, failure: &Failure, to: &Share) -> String {
    let name = &shared.settings.name;
    match to {
        Share::Laptop(owner) | Share::Copy(owner) => format!(
            "kvpn: {name} is exposed to the laptop of {owner}, which failed: {failure}. \
             Check that the program there is running and listens on the exposed port\n"
        ),
        Share::Origin | Share::Fallback(_) => format!(
            "kvpn: {name} is taken over, and the pods that served it before failed: {failure}. \
             Check that they are ready\n"
        ),
    }
}

fn plain(status: StatusCode, text: String, mut exchange: Exchange) -> Response<ResponseBody> {
    exchange.status = Some(status);
    let mut response = Response::new(ResponseBody::text(text, exchange));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A response of trailers only, as gRPC over HTTP/2 has it.
fn unavailable(text: &str, mut exchange: Exchange) -> Response<ResponseBody> {
    exchange.status = Some(StatusCode::OK);
    let mut response = Response::new(ResponseBody::text(String::new(), exchange));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("14"));
    if let Ok(message) = HeaderValue::from_str(text.trim_end()) {
        headers.insert("grpc-message", message);
    }
    response
}
