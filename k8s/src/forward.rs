//! A byte stream to a TCP port of a pod, through the API server's WebSocket port-forward.
//!
//! Own way into the WebSocket: kube's sends at most 4 KiB a message, sends no pings, and lets one direction hold up the other. There is no
//! task and no pipe between the stream's user and the socket: what is written is one message, what came is lent as it came.
//! It knows nothing of what the stream carries.

mod message;

use crate::{Cluster, Error, GatewayPod, cluster::call::Call};
use bytes::Bytes;
use futures::{Sink, SinkExt as _, Stream};
use message::{DATA, ERROR, PortsSeen, broken, refused};
use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, protocol::Role, protocol::WebSocketConfig},
};

/// The largest message that we send, its channel byte aside. The kubelet's side takes messages whole.
const MESSAGE: usize = 64 * 1024;
/// Read at once from the connection under the WebSocket; each read begins by clearing that much.
const READ: usize = 32 * 1024;
/// How long the farewell may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// When a stream is kept alive, and when it counts as dead.
#[derive(Debug, Clone, Copy)]
struct Timing {
    /// How often a ping goes out, so that boxes on the way keep the connection, and the other end shows that it lives.
    ping_every: Duration,
    /// How long nothing at all may come, pongs included, while the user reads.
    silence_limit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(5),
            silence_limit: Duration::from_secs(20),
        }
    }
}

/// A WebSocket as a stream uses it.
trait Socket:
    Sink<Message, Error = tungstenite::Error> + Stream<Item = tungstenite::Result<Message>>
{
}

impl<T> Socket for T where
    T: Sink<Message, Error = tungstenite::Error> + Stream<Item = tungstenite::Result<Message>>
{
}

type BoxedSocket = Pin<Box<dyn Socket + Send>>;

/// One stream to a pod's port. Dropping it closes the connection.
///
/// Bytes are on their way as soon as they are written, or with the flush after it where the connection is slow.
/// Shutting the writing side down waits until all that was written is on its
/// way, and no more: the protocol has no half close, so the pod does not learn of it; reading goes on. Whoever reads also keeps the
/// stream alive by pings.
///
/// When the stream breaks, or the pod's side refuses the port, the first read or write after the bytes that
/// came before fails with the reason; an orderly end is an end of file.
pub struct Forward {
    /// There until the stream is dropped.
    socket: Option<BoxedSocket>,
    ports: PortsSeen,
    /// Of the last message, what was not read yet.
    unread: Bytes,
    /// There once the stream has ended: why, if not in order.
    ended: Option<Result<(), (io::ErrorKind, String)>>,
    pings: Interval,
    silence: Pin<Box<Sleep>>,
    timing: Timing,
}

impl Forward {
    /// Takes over a WebSocket. Needs a Tokio runtime, now for its timers and later for its farewell.
    fn over<S>(socket: S, timing: Timing) -> Self
    where
        S: Socket + Send + 'static,
    {
        let mut pings = interval_at(Instant::now() + timing.ping_every, timing.ping_every);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            socket: Some(Box::pin(socket)),
            ports: PortsSeen::default(),
            unread: Bytes::new(),
            ended: None,
            pings,
            silence: Box::pin(sleep(timing.silence_limit)),
            timing,
        }
    }

    /// The next bytes that came, as many as came together; `None` when the stream ended in order.
    ///
    /// # Errors
    /// As reading.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.unread.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.unread))));
        }
        loop {
            match &self.ended {
                Some(Ok(())) => return Poll::Ready(Ok(None)),
                Some(Err((kind, why))) => {
                    return Poll::Ready(Err(io::Error::new(*kind, why.clone())));
                }
                None => {}
            }
            match ready!(self.poll_message(cx)) {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => return Poll::Ready(Ok(Some(bytes))),
                Ok(None) => self.ended = Some(Ok(())),
                Err(error) => drop(self.end(&error)),
            }
        }
    }

    /// The next message's bytes, none for one that carries none; `None` at the end.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(Ok(None));
        };
        let Poll::Ready(next) = socket.as_mut().poll_next(cx) else {
            return self.poll_timers(cx).map(Err);
        };
        self.silence
            .as_mut()
            .reset(Instant::now() + self.timing.silence_limit);
        let payload = match next.transpose().map_err(broken)? {
            Some(Message::Binary(payload)) => payload,
            Some(Message::Close(_)) | None => return Poll::Ready(Ok(None)),
            Some(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
                return Poll::Ready(Ok(Some(Bytes::new())));
            }
        };
        Poll::Ready(match self.ports.strip(payload)? {
            Some((DATA, bytes)) => Ok(Some(bytes)),
            Some((ERROR, text)) => Err(refused(&text)),
            Some(_) | None => Ok(Some(Bytes::new())),
        })
    }

    /// Pings when it is time to; ready with an error when nothing came for too long.
    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.pings.poll_tick(cx).is_ready() {
            // Whoever writes flushes it on if it gets stuck; its error shows with the next read.
            if let Some(socket) = &mut self.socket {
                drop(socket.as_mut().start_send(Message::Ping(Bytes::new())));
            }
        }
        ready!(self.silence.as_mut().poll(cx));
        let text = format!(
            "nothing came for {} s, not even an answer to a ping",
            self.timing.silence_limit.as_secs_f32()
        );
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    /// Ends the stream, and tells what writing to it gives now. The first reason stays: what follows is its consequence.
    fn end(&mut self, error: &io::Error) -> io::Error {
        let why = (error.kind(), error.to_string());
        failure(self.ended.get_or_insert(Err(why)))
    }

    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(socket) = self.socket.as_mut().filter(|_| self.ended.is_none()) else {
            return Poll::Ready(Ok(()));
        };
        let flushed = ready!(socket.as_mut().poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| self.end(&broken(error))))
    }
}

impl AsyncRead for Forward {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(mut bytes) = ready!(self.poll_bytes(cx))? {
            let taken = bytes.split_to(bytes.len().min(buf.remaining()));
            buf.put_slice(&taken);
            self.unread = bytes;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Forward {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(ended) = &self.ended {
            return Poll::Ready(Err(failure(ended)));
        }
        let Some(socket) = self.socket.as_mut().filter(|_| !buf.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let count = buf.len().min(MESSAGE);
        let sent = ready!(socket.as_mut().poll_ready(cx))
            .and_then(|()| socket.as_mut().start_send(message::data(&buf[..count])));
        if let Err(error) = sent {
            let error = self.end(&broken(error));
            return Poll::Ready(Err(error));
        }
        // Where it does not go at once, this wakes the writer when it may go on.
        match self.poll_flushed(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flushed(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Why it ended is for reads and writes to tell.
        let _ = ready!(self.poll_flushed(cx));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Forward {
    /// What was written still goes, and the other side is told, if there is a runtime to do it.
    fn drop(&mut self) {
        if let (Some(mut socket), Ok(runtime)) =
            (self.socket.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move {
                timeout(CLOSE_LIMIT, socket.close()).await.ok();
            });
        }
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// What writing to a stream that has ended gives.
fn failure(ended: &Result<(), (io::ErrorKind, String)>) -> io::Error {
    match ended {
        Ok(()) => io::ErrorKind::BrokenPipe.into(),
        Err((kind, why)) => io::Error::new(*kind, why.clone()),
    }
}

/// How we speak WebSocket: every message goes out as it is written.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(0)
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
            Ok(connection) => {
                let connection = connection.into_stream().into_inner();
                let socket =
                    WebSocketStream::from_raw_socket(connection, Role::Client, Some(config()));
                Ok(Forward::over(socket.await, Timing::default()))
            }
            Err(Error::Api { message, .. } | Error::Rejected { message, .. }) => {
                Err(failed(message))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
