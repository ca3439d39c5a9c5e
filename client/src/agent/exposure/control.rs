//! What an exposure asks of its gateway, over connections through the tunnel: the WireGuard key says who asks.

use std::time::Duration;

use ::http::{Method, StatusCode};
use anyhow::Context as _;
use hyper::body::Bytes;
use kvpn_wire::control::{
    EVENTS_PATH, ErrorBody, Expose, Exposed, ExposureConflict, exposure_path,
};

use crate::agent::driver::Handle;
use crate::agent::session::Peer;
use crate::agent::transport::Pipe;
use crate::cli::failure::{CONFLICT, FAILED, Failure};
use crate::cluster::http;

/// How long the gateway may take to answer; it asks the API server meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The gateway's control API, as the session sees it.
#[derive(Clone)]
pub(super) struct Control {
    pub(super) driver: Handle,
    pub(super) peer: Peer,
}

/// Why the gateway does not serve an exposure.
#[derive(Debug)]
pub(super) enum Refused {
    /// The Service's annotation does not name the session (any more).
    NotNamed(String),
    /// It did not answer, or not now: worth another attempt.
    NotNow(anyhow::Error),
    /// It never will.
    Never(Failure),
}

impl Control {
    /// Has the gateway listen for a Service, or changes what it does there.
    pub(super) async fn put(
        &self,
        namespace: &str,
        service: &str,
        expose: &Expose,
    ) -> Result<Exposed, Refused> {
        let body = serde_json::to_vec(expose).expect("plain fields have a JSON form");
        let path = exposure_path(namespace, service);
        let (status, answer) = self
            .ask(Method::PUT, &path, body.into())
            .await
            .map_err(Refused::NotNow)?;
        if !status.is_success() {
            return Err(refused(status, &answer));
        }
        serde_json::from_slice(&answer)
            .context("the gateway's answer cannot be read: client and gateway may be more than one minor version apart")
            .map_err(Refused::NotNow)
    }

    /// Ends the exposure at the gateway, which goes on serving callers from the origin for a while.
    pub(super) async fn delete(&self, namespace: &str, service: &str) -> anyhow::Result<()> {
        let path = exposure_path(namespace, service);
        let (status, answer) = self.ask(Method::DELETE, &path, Bytes::new()).await?;
        // Not there is as good as removed.
        if status.is_success() || status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        anyhow::bail!("the gateway answered {status}: {}", words(&answer).error)
    }

    /// The live view, from now on.
    pub(super) async fn events(&self) -> anyhow::Result<http::Answer> {
        let stream = self.dial().await?;
        let answer = http::send(stream, Method::GET, EVENTS_PATH, Bytes::new()).await?;
        anyhow::ensure!(
            answer.status.is_success(),
            "the gateway answered {} to GET {EVENTS_PATH}",
            answer.status
        );
        Ok(answer)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let exchange = async {
            let stream = self.dial().await?;
            http::ask_with(stream, method, path, body).await
        };
        tokio::time::timeout(ANSWER_LIMIT, exchange)
            .await
            .context("the gateway does not answer")?
    }

    async fn dial(&self) -> anyhow::Result<Pipe> {
        let stream = self.driver.dial(self.peer.control()?).await;
        stream.context("the gateway's control port cannot be reached through the tunnel")
    }
}

fn refused(status: StatusCode, answer: &[u8]) -> Refused {
    let ErrorBody { error, hint } = words(answer);
    let failure = |code: u8| Failure {
        hint: hint.clone(),
        ..Failure::new(code, format!("the gateway refused: {error}"))
    };
    let not_now = anyhow::anyhow!("the gateway refused: {error}");
    match status {
        StatusCode::FORBIDDEN => Refused::NotNamed(error),
        StatusCode::CONFLICT => {
            let conflict: ExposureConflict = serde_json::from_slice(answer).unwrap_or_default();
            // Without an owner it is a port that the gateway needs for something else.
            if conflict.owner.is_empty() {
                Refused::NotNow(not_now)
            } else {
                Refused::Never(failure(CONFLICT))
            }
        }
        StatusCode::NOT_FOUND => Refused::Never(failure(FAILED).hint(
            "the gateway may be too old for exposures: `kvpn connect --upgrade`, or the Service was deleted",
        )),
        status if status.is_client_error() => Refused::Never(failure(FAILED)),
        _ => Refused::NotNow(not_now),
    }
}

fn words(answer: &[u8]) -> ErrorBody {
    serde_json::from_slice(answer).unwrap_or_else(|_| ErrorBody {
        error: "it does not say why".to_owned(),
        hint: None,
    })
}

impl Refused {
    /// What it means to the user when no further attempt is made.
    pub(super) fn into_error(self) -> anyhow::Error {
        match self {
            Self::NotNamed(error) => anyhow::anyhow!("the gateway refused: {error}"),
            Self::NotNow(error) => error,
            Self::Never(failure) => failure.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_it_is_is_a_conflict_and_a_port_is_not() {
        let taken = br#"{"error": "bo has it", "hint": "--match", "owner": "bo@desk"}"#;
        let Refused::Never(failure) = refused(StatusCode::CONFLICT, taken) else {
            panic!("a conflict ends it")
        };
        assert_eq!(
            (failure.code, failure.hint.as_deref()),
            (CONFLICT, Some("--match"))
        );
        assert!(failure.message.contains("bo has it"));
        let port = refused(
            StatusCode::CONFLICT,
            br#"{"error": "port 20000 is in use"}"#,
        );
        assert!(matches!(port, Refused::NotNow(_)));
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY] {
            assert!(
                matches!(refused(status, b""), Refused::NotNow(_)),
                "{status}"
            );
        }
        for status in [
            StatusCode::BAD_REQUEST,
            StatusCode::NOT_FOUND,
            StatusCode::TOO_MANY_REQUESTS,
        ] {
            assert!(
                matches!(refused(status, b""), Refused::Never(_)),
                "{status}"
            );
        }
        assert!(matches!(
            refused(StatusCode::FORBIDDEN, b""),
            Refused::NotNamed(_)
        ));
    }
}
