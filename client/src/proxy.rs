//! The cluster for programs that know a proxy: SOCKS5 and HTTP on this machine, a session without a TUN behind them.
//!
//! Names and private addresses lead through the tunnel, everything else goes as it would without a proxy. Must not know how the
//! session is kept.

mod credentials;
mod http;
mod pac;
mod socks;
mod target;
mod ways;

use std::sync::Arc;
use std::time::Duration;

use kvpn_client_core::Names;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::agent::driver::Handle;
use ways::Ways;

pub(crate) use credentials::Credentials;
pub(crate) use http::PAC_PATH;

/// Connections of programs at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// How long a program may take to say what it wants.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// The pause after an accept that failed, as when there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection to the proxy is served with.
pub(crate) struct Proxy {
    ways: Ways,
    /// What programs have to know; `None` lets everybody in.
    credentials: Option<Credentials>,
    /// Which names are the cluster's, as it is now.
    names_rx: watch::Receiver<Names>,
}

impl Proxy {
    /// A proxy over a session.
    pub(crate) fn new(
        driver: Handle,
        credentials: Option<Credentials>,
        names_rx: watch::Receiver<Names>,
    ) -> Arc<Self> {
        Arc::new(Self {
            ways: Ways::new(driver),
            credentials,
            names_rx,
        })
    }

    /// Serves SOCKS5 until this is cancelled.
    pub(crate) async fn serve_socks(self: Arc<Self>, listener: TcpListener) {
        self.serve(listener, socks::serve).await;
    }

    /// Serves HTTP until this is cancelled.
    pub(crate) async fn serve_http(self: Arc<Self>, listener: TcpListener) {
        self.serve(listener, http::serve).await;
    }

    async fn serve<F>(
        self: Arc<Self>,
        listener: TcpListener,
        serve: impl Fn(Arc<Self>, TcpStream) -> F,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let served = serve(Arc::clone(&self), stream);
                    tokio::spawn(async move {
                        if let Err(error) = served.await {
                            tracing::debug!(error = format!("{error:#}"), "a connection failed");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Bytes both ways, until both ends have finished or one has failed.
async fn carry(
    mut program: impl AsyncRead + AsyncWrite + Unpin,
    mut target: impl AsyncRead + AsyncWrite + Unpin,
) {
    if let Err(error) = copy_bidirectional(&mut program, &mut target).await {
        tracing::debug!(%error, "a connection broke");
    }
}

#[cfg(test)]
mod tests;
