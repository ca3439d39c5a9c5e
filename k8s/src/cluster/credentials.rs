//! The client and its credentials: built on first use, rebuilt when a plugin's credential is about to expire or was refused.

use super::exec::{Credential, Plugin};
use super::stream;
use crate::Error;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::client::{ClientBuilder, retry::RetryPolicy};
use std::{fmt, time::Duration};
use tokio::sync::Mutex;
use tower::{buffer::BufferLayer, retry::RetryLayer};

/// A credential that ends sooner than this is renewed before use.
const RENEWED_BEFORE: SignedDuration = SignedDuration::from_secs(60);
/// An overloaded API server is asked again this often, well within a request's time limit.
const RETRIES: u32 = 3;
/// Requests that may wait for the connection pool.
const QUEUE: usize = 64;

/// Credentials and the client built with them.
pub(super) struct Credentials {
    config: kube::Config,
    plugin: Option<Plugin>,
    /// Held while a plugin runs: it runs once, however many requests wait for it.
    current: Mutex<Option<Current>>,
}

#[derive(Clone)]
struct Current {
    client: kube::Client,
    /// For port-forwards.
    stream: kube::Client,
    expires: Option<Timestamp>,
}

impl Credentials {
    pub(super) fn new(config: kube::Config, plugin: Option<Plugin>) -> Self {
        Self {
            config,
            plugin,
            current: Mutex::new(None),
        }
    }

    /// The client, with credentials good for the next minute.
    pub(super) async fn client(&self) -> Result<kube::Client, Error> {
        Ok(self.current().await?.client)
    }

    /// The client for streams, with credentials good for the next minute.
    pub(super) async fn stream_client(&self) -> Result<kube::Client, Error> {
        Ok(self.current().await?.stream)
    }

    async fn current(&self) -> Result<Current, Error> {
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_ref().filter(|current| !current.is_ending()) {
            return Ok(current.clone());
        }
        let credential = match &self.plugin {
            Some(plugin) => Some(plugin.run().await?),
            None => None,
        };
        let expires = credential
            .as_ref()
            .and_then(|credential| credential.expires);
        let (client, stream) = build(self.config.clone(), credential)?;
        Ok(current
            .insert(Current {
                client,
                stream,
                expires,
            })
            .clone())
    }

    /// Refused credentials are not used again.
    pub(super) async fn forget(&self) {
        *self.current.lock().await = None;
    }
}

impl Current {
    fn is_ending(&self) -> bool {
        self.expires
            .is_some_and(|end| end <= Timestamp::now() + RENEWED_BEFORE)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

fn build(
    mut config: kube::Config,
    credential: Option<Credential>,
) -> Result<(kube::Client, kube::Client), Error> {
    if let Some(credential) = credential {
        config.auth_info.token = credential.token.map(Into::into);
        if let Some((certificate, key)) = credential.certificate {
            config.auth_info.client_certificate_data = Some(STANDARD.encode(certificate));
            config.auth_info.client_key_data = Some(STANDARD.encode(key).into());
        }
    }
    let unusable = |error: kube::Error| Error::Config {
        why: crate::error::classify::innermost(&error),
        hint: Some(
            "check the certificates, keys and tokens of this context's cluster and user".to_owned(),
        ),
    };
    let stream = stream::client(&config).map_err(unusable)?;
    let builder = ClientBuilder::try_from(config).map_err(unusable)?;
    // The buffer is there because a retry needs a service that can be cloned.
    let client = builder
        .with_layer(&BufferLayer::new(QUEUE))
        .with_layer(&RetryLayer::new(retry()))
        .build();
    let stream = stream.unwrap_or_else(|| client.clone());
    Ok((client, stream))
}

fn retry() -> RetryPolicy {
    let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(1));
    RetryPolicy::new(shortest, longest, RETRIES, false).expect("the delays are in order")
}
