//! Connections to the control API that come through the tunnel: socket pairs, each with the session it belongs to.
//!
//! Who is calling is known by the WireGuard key and by nothing else; no header or address is looked at.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use kvpn_gateway_core::SessionIndex;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Connections that may wait to be served.
const WAITING: usize = 64;

/// The driver's end: control connections --> HTTP. The stream must be non-blocking.
pub(crate) type ControlConnectionsTx = mpsc::Sender<(std::os::unix::net::UnixStream, SessionIndex)>;

/// HTTP's end, which axum listens on.
#[derive(Debug)]
pub(crate) struct ControlConnections(
    mpsc::Receiver<(std::os::unix::net::UnixStream, SessionIndex)>,
);

/// Both ends.
pub(crate) fn control_connections() -> (ControlConnectionsTx, ControlConnections) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (sender, ControlConnections(receiver))
}

impl Listener for ControlConnections {
    type Io = UnixStream;
    type Addr = SessionIndex;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Some((stream, session)) = self.0.recv().await else {
                // The driver is gone; whoever serves is about to stop.
                return std::future::pending().await;
            };
            match UnixStream::from_std(stream) {
                Ok(stream) => return (stream, session),
                Err(error) => tracing::warn!(%error, "control connection lost"),
            }
        }
    }

    /// There is no session to tell.
    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// Whose request it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller(pub(crate) SessionIndex);

impl Connected<IncomingStream<'_, ControlConnections>> for Caller {
    fn connect_info(stream: IncomingStream<'_, ControlConnections>) -> Self {
        Self(*stream.remote_addr())
    }
}
