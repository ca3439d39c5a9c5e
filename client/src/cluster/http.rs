//! One HTTP/1.1 request over a connection that is there already: to the gateway's control API inside the tunnel,
//! to its metrics through a port-forward.

use anyhow::{Context as _, ensure};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

/// The longest answer, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Sends a request without a body and gives the answer's status and body.
///
/// # Errors
///
/// The connection broke, or the answer is no HTTP or longer than 1 MiB.
pub(crate) async fn ask<T>(
    stream: T,
    method: Method,
    path: &str,
) -> anyhow::Result<(StatusCode, Bytes)>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    ask_with(stream, method, path, Bytes::new()).await
}

/// As [`ask`], with a body of JSON.
///
/// # Errors
///
/// As [`ask`].
pub(crate) async fn ask_with<T>(
    stream: T,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<(StatusCode, Bytes)>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Answer {
        status,
        body,
        _connection,
    } = send(stream, method, path, body).await?;
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body
        .map_err(|error| anyhow::anyhow!(error))
        .context("the answer was cut off or too long")?;
    Ok((status, body.to_bytes()))
}

/// An answer whose body has not come yet.
pub(crate) struct Answer {
    /// The answer's status.
    pub(crate) status: StatusCode,
    /// What comes of it, for as long as this value lives.
    pub(crate) body: Incoming,
    /// Moves the bytes; ends with the answer.
    _connection: AbortOnDropHandle<()>,
}

/// Sends a request and gives the answer as soon as it begins.
///
/// # Errors
///
/// The connection broke, or the answer is no HTTP.
pub(crate) async fn send<T>(
    stream: T,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<Answer>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "gateway");
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    let request = request.body(Full::new(body))?;
    // What becomes of the connection is seen in the answer.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let (status, body) = {
        let response = sender.send_request(request).await?;
        (response.status(), response.into_body())
    };
    Ok(Answer {
        status,
        body,
        _connection: connection,
    })
}

/// As [`ask`] with `GET`, for answers that are useful only when they succeed.
///
/// # Errors
///
/// As [`ask`], and a status that is no success.
pub(crate) async fn get<T>(stream: T, path: &str) -> anyhow::Result<Bytes>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (status, body) = ask(stream, Method::GET, path).await?;
    ensure!(
        status.is_success(),
        "the gateway answered {status} to GET {path}"
    );
    Ok(body)
}
