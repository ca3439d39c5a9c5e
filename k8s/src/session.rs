//! Opening a session: one HTTP request to the gateway's control API through a port-forward.

use crate::{Cluster, Error, Forward, GatewayPod};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kvpn_wire::{
    CONTROL_PORT,
    control::{CreateSession, ErrorBody, SESSIONS_PATH, SessionGrant},
};
use std::{error::Error as StdError, pin::pin, time::Duration};
use tokio::time::timeout;

/// How long the gateway may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// No answer of the control API is longer.
const ANSWER_SIZE: usize = 1 << 20;

impl Cluster {
    /// Opens a session, or renews it when the gateway knows the public key already (`POST /v1/sessions`, control port 6180).
    ///
    /// # Errors
    /// As [`Cluster::forward`]; [`Error::Gateway`] when the gateway refuses (409 version, 429 full).
    pub async fn create_session(
        &self,
        gateway: &GatewayPod,
        request: &CreateSession,
    ) -> Result<SessionGrant, Error> {
        let stream = self.forward(gateway, CONTROL_PORT).await?;
        let body = serde_json::to_vec(request).expect("the request has only plain fields");
        let failed = |why: String| Error::Forward {
            pod: gateway.full_name(),
            port: CONTROL_PORT,
            why,
        };
        let answer = timeout(ANSWER_LIMIT, post(stream, body)).await;
        let answer = answer.map_err(|_| {
            failed(format!(
                "the gateway did not answer within {} s",
                ANSWER_LIMIT.as_secs()
            ))
        })?;
        let (status, body) =
            answer.map_err(|error| failed(crate::error::classify::innermost(&*error)))?;
        read(gateway, status, &body)
    }
}

type Failure = Box<dyn StdError + Send + Sync>;

/// Sends the request and reads the whole answer.
async fn post(stream: Forward, body: Vec<u8>) -> Result<(StatusCode, Bytes), Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post(SESSIONS_PATH)
        .header(header::HOST, "kvpn-gateway")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_SIZE)
            .collect()
            .await?
            .to_bytes();
        Ok((status, body))
    };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    let (mut ended, mut cause) = (false, None);
    loop {
        tokio::select! {
            biased;
            // The connection's own error says more than that the request was cancelled by it.
            answer = &mut exchange => return answer.map_err(|error: Failure| cause.unwrap_or(error)),
            // The answer may be there already when the connection ends.
            result = &mut connection, if !ended => {
                ended = true;
                cause = result.err().map(Into::into);
            }
        }
    }
}

/// What the gateway's answer means.
fn read(gateway: &GatewayPod, status: StatusCode, body: &[u8]) -> Result<SessionGrant, Error> {
    let refused = |message: String, hint: Option<String>| Error::Gateway {
        pod: gateway.full_name(),
        status: status.as_u16(),
        message,
        hint,
    };
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|error| {
            let hint = "client and gateway may be more than one minor version apart: `kvpn connect --upgrade`";
            refused(format!("its answer cannot be read: {error}"), Some(hint.to_owned()))
        });
    }
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(answer) => Err(refused(answer.error, answer.hint)),
        Err(_) => Err(refused(format!("it answered {status}"), None)),
    }
}

#[cfg(test)]
mod tests;
