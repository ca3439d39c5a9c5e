//! One HTTP/1.1 request over a connection that is there already: to the gateway's control API inside the tunnel,
//! to its metrics through a port-forward.

use anyhow::{Context as _, ensure};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

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
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "gateway")
        .body(Empty::<Bytes>::new())?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body
            .map_err(|error| anyhow::anyhow!(error))
            .context("the answer was cut off or too long")?;
        anyhow::Ok((status, body.to_bytes()))
    };
    let answer = answer.await;
    connection.abort();
    answer
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
