//! The HTTP proxy: CONNECT (RFC 9110 section 9.3.6), requests in absolute form (RFC 9112 section 3.2.2), and the PAC file.

mod headers;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::target::Target;
use super::ways::Unreachable;
use super::{HANDSHAKE_LIMIT, Proxy, carry, pac};

/// Where browsers find the PAC file; no credentials are asked for it, since they could not give any.
pub(crate) const PAC_PATH: &str = "/proxy.pac";
/// The port of URIs that say none.
const HTTP_PORT: u16 = 80;

type Body = BoxBody<Bytes, hyper::Error>;

/// Serves one connection of a program's.
pub(super) async fn serve(proxy: Arc<Proxy>, program: TcpStream) -> anyhow::Result<()> {
    program.set_nodelay(true)?;
    let here = program.local_addr()?;
    let service = service_fn(move |request| {
        let proxy = Arc::clone(&proxy);
        async move { Ok::<_, Infallible>(answer(&proxy, here, request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_LIMIT)
        .serve_connection(TokioIo::new(program), service)
        .with_upgrades()
        .await
        .context("a program's HTTP connection broke")
}

async fn answer(proxy: &Proxy, here: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::CONNECT && request.uri().authority().is_none() {
        return own(proxy, here, request.uri().path());
    }
    if !may_pass(proxy, &request) {
        return unauthorized();
    }
    let answered = if request.method() == Method::CONNECT {
        connect(proxy, request).await
    } else {
        forward(proxy, request).await
    };
    answered.unwrap_or_else(|response| *response)
}

/// What is asked of the proxy itself.
fn own(proxy: &Proxy, here: SocketAddr, path: &str) -> Response<Body> {
    if path != PAC_PATH {
        let about = format!("This is the proxy of kvpn; browsers find its rules at {PAC_PATH}.\n");
        return text(StatusCode::NOT_FOUND, about);
    }
    let mut response = text(StatusCode::OK, pac::file(here, &proxy.names_rx.borrow()));
    let media_type = HeaderValue::from_static(pac::MEDIA_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

fn may_pass(proxy: &Proxy, request: &Request<Incoming>) -> bool {
    let header = request.headers().get(PROXY_AUTHORIZATION);
    (proxy.credentials.as_ref()).is_none_or(|credentials| {
        header.is_some_and(|header| credentials.are_in(header.as_bytes()))
    })
}

fn unauthorized() -> Response<Body> {
    let why = "This proxy wants the user and the password that `kvpn proxy` printed.\n";
    let mut response = text(StatusCode::PROXY_AUTHENTICATION_REQUIRED, why);
    let challenge = HeaderValue::from_static(r#"Basic realm="kvpn", charset="UTF-8""#);
    response.headers_mut().insert(PROXY_AUTHENTICATE, challenge);
    response
}

/// The answer follows when the target has accepted; then bytes go both ways.
async fn connect(
    proxy: &Proxy,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Box<Response<Body>>> {
    let target = target(request.uri(), None)?;
    let connection = proxy.ways.connect(&target).await;
    let connection = connection.map_err(|error| bad_gateway(&target, &error))?;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(program) => carry(TokioIo::new(program), connection).await,
            Err(error) => tracing::debug!(%error, "a program did not wait for its connection"),
        }
    });
    Ok(Response::new(body("")))
}

/// A connection for each request: programs that send many use CONNECT or SOCKS.
async fn forward(
    proxy: &Proxy,
    request: Request<Incoming>,
) -> Result<Response<Body>, Box<Response<Body>>> {
    if request.uri().scheme_str() != Some("http") {
        let why = "This proxy forwards http: only; use CONNECT for everything else.\n";
        return Err(Box::new(text(StatusCode::BAD_REQUEST, why)));
    }
    let target = target(request.uri(), Some(HTTP_PORT))?;
    let connection = proxy.ways.connect(&target).await;
    let connection = connection.map_err(|error| bad_gateway(&target, &error))?;
    let sent = send(connection, request).await;
    let mut response = sent.map_err(|error| {
        let why = format!("kvpn: {target} broke the connection off: {error}\n");
        Box::new(text(StatusCode::BAD_GATEWAY, why))
    })?;
    headers::remove_hop_by_hop(response.headers_mut());
    Ok(response.map(|body| body.boxed()))
}

async fn send(
    connection: impl super::ways::Connection + 'static,
    mut request: Request<Incoming>,
) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
    // It ends with the answer's body.
    tokio::spawn(connection);
    headers::remove_hop_by_hop(request.headers_mut());
    to_origin_form(&mut request);
    sender.send_request(request).await
}

/// As the target expects it (RFC 9112 section 3.2.1); the authority goes into Host.
fn to_origin_form(request: &mut Request<Incoming>) {
    let authority = request.uri().authority().map(|authority| {
        let text = authority.as_str();
        // User and password are for the target's scheme, not for its Host.
        let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
        HeaderValue::from_str(host)
    });
    if let Some(Ok(host)) = authority {
        request.headers_mut().insert(HOST, host);
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
}

fn target(uri: &Uri, usual_port: Option<u16>) -> Result<Target, Box<Response<Body>>> {
    let target = uri
        .authority()
        .and_then(|authority| Target::of(authority, usual_port));
    let why = "There is no host, or no port, in that request.\n";
    target.ok_or_else(|| Box::new(text(StatusCode::BAD_REQUEST, why)))
}

fn bad_gateway(target: &Target, error: &Unreachable) -> Box<Response<Body>> {
    tracing::debug!(%target, %error, "not connected");
    let status = match error {
        Unreachable::Forbidden | Unreachable::Outside => StatusCode::FORBIDDEN,
        Unreachable::NoAnswer => StatusCode::GATEWAY_TIMEOUT,
        Unreachable::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            StatusCode::GATEWAY_TIMEOUT
        }
        Unreachable::NoAddress | Unreachable::Io(_) => StatusCode::BAD_GATEWAY,
    };
    Box::new(text(
        status,
        format!("kvpn: no connection with {target}: {error}\n"),
    ))
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body(text));
    *response.status_mut() = status;
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed()
}
