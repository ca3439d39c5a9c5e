//! The end of a session, said to the gateway through the tunnel, so that its address is free and the gateway idle.

use std::time::Duration;

use ::http::Method;
use kvpn_wire::control::SESSION_PATH;

use crate::agent::driver::Handle;
use crate::agent::session::Peer;
use crate::cluster::http;

/// How long telling the gateway goodbye may take; it forgets the session by itself later.
const LIMIT: Duration = Duration::from_millis(500);

/// Ends the session at the gateway, if that answers.
pub(crate) async fn goodbye(driver: &Handle, peer: &Peer) {
    let Ok(control) = peer.control() else { return };
    let goodbye = tokio::time::timeout(LIMIT, async {
        let stream = driver.dial(control).await?;
        http::ask(stream, Method::DELETE, SESSION_PATH).await
    });
    match goodbye.await {
        Ok(Ok((status, _))) => tracing::debug!(%status, "the gateway forgot the session"),
        Ok(Err(error)) => tracing::debug!(error = format!("{error:#}"), "the gateway was not told"),
        Err(_) => tracing::debug!("the gateway did not answer the goodbye"),
    }
}
