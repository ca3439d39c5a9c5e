//! A byte stream to a TCP port of a pod, through the API server's WebSocket port-forward.
//!
//! Own pump: kube's sends at most 4 KiB a message, sends no pings, and lets one direction hold up the other.
//! It knows nothing of what the stream carries.

mod pump;

use crate::{Cluster, Error, GatewayPod, cluster::call::Call};
use pump::{Pump, Timing, Trouble};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::oneshot,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Bytes that may wait in each direction between the user of a stream and its pump.
const PIPE: usize = 128 * 1024;

/// One stream to a pod's port. Dropping it closes the connection.
///
/// Bytes are sent without a flush. Shutting the writing side down waits until all that was written is on its
/// way, and no more: the protocol has no half close, so the pod does not learn of it; reading goes on.
///
/// When the stream breaks, or the pod's side refuses the port, the first read or write after the bytes that
/// came before fails with the reason; an orderly end is an end of file.
#[derive(Debug)]
pub struct Forward {
    pipe: DuplexStream,
    trouble: Trouble,
    /// Resolves when the pump has sent everything up to the end of what was written, or has ended.
    sent: oneshot::Receiver<()>,
    _closes_pump: DropGuard,
}

impl Forward {
    /// Starts a pump on the current Tokio runtime.
    fn over<S>(socket: S, timing: Timing) -> Self
    where
        S: pump::Socket + Send + Unpin + 'static,
    {
        let (pipe, other_end) = tokio::io::duplex(PIPE);
        let trouble = Trouble::default();
        let gone = CancellationToken::new();
        let (sent_tx, sent) = oneshot::channel();
        tokio::spawn(
            Pump::new(other_end, trouble.clone(), gone.clone(), timing).run(socket, sent_tx),
        );
        Self {
            pipe,
            trouble,
            sent,
            _closes_pump: gone.drop_guard(),
        }
    }
}

impl AsyncRead for Forward {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        match self.trouble.error() {
            Some(error) if room > 0 && buf.remaining() == room => Poll::Ready(Err(error)),
            Some(_) | None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Forward {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.pipe).poll_write(cx, buf));
        Poll::Ready(written.map_err(|error| self.trouble.error().unwrap_or(error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.pipe).poll_shutdown(cx))?;
        if !self.sent.is_terminated() {
            // Its error says that the pump has ended, which is no news here.
            let _ = ready!(Pin::new(&mut self.sent).poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl Cluster {
    /// Opens a stream to `port` of the gateway pod (the pod's 127.0.0.1).
    ///
    /// # Errors
    /// [`Error::Forbidden`] (verbs `get` and, from Kubernetes 1.35 on, `create` on `pods/portforward`), [`Error::NotFound`] when
    /// the pod is gone, [`Error::Forward`]. A port that nobody listens on shows as an I/O error of the first read.
    pub async fn forward(&self, gateway: &GatewayPod, port: u16) -> Result<Forward, Error> {
        let request =
            kube::core::Request::new(format!("/api/v1/namespaces/{}/pods", gateway.namespace));
        let failed = |why: String| Error::Forward {
            pod: gateway.full_name(),
            port,
            why,
        };
        let request = request
            .portforward(&gateway.name, &[port])
            .map_err(|error| failed(error.to_string()))?;
        let call =
            Call::namespaced("create", "pods/portforward", &gateway.namespace).named(&gateway.name);
        let client = self.stream_client().await?;
        match self.run(&call, client.connect(request)).await {
            Ok(connection) => Ok(Forward::over(connection.into_stream(), Timing::default())),
            Err(Error::Api { message, .. } | Error::Rejected { message, .. }) => {
                Err(failed(message))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
