//! Moves bytes between a pipe and the WebSocket of a port-forward (subprotocols v4 and v5.channel.k8s.io).
//!
//! Every message is binary and begins with a channel number: 0 carries the bytes, 1 the kubelet's error text.
//! The first message of each channel holds the port as a little-endian u16 (k8s.io/kubelet,
//! pkg/cri/streaming/portforward/websocket.go). The two directions share nothing but the socket.

use bytes::{Bytes, BytesMut};
use futures::{
    Sink, SinkExt as _, Stream, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

/// The largest message that we send, its channel byte aside.
const MESSAGE: usize = 64 * 1024;
/// How long the farewell may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

const DATA: u8 = 0;
const ERROR: u8 = 1;

/// When a stream is kept alive, and when it counts as dead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// How often a ping goes out, so that boxes on the way keep the connection, and the other end shows that it lives.
    pub(super) ping_every: Duration,
    /// How long nothing at all may come, pongs included, while the user reads.
    pub(super) silence_limit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(5),
            silence_limit: Duration::from_secs(20),
        }
    }
}

/// A WebSocket as the pump uses it.
pub(super) trait Socket:
    Sink<Message, Error = tungstenite::Error> + Stream<Item = tungstenite::Result<Message>>
{
}

impl<T> Socket for T where
    T: Sink<Message, Error = tungstenite::Error> + Stream<Item = tungstenite::Result<Message>>
{
}

/// Why a stream ended, once it did; shared with its user.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble {
    told: Arc<OnceLock<(io::ErrorKind, String)>>,
}

impl Trouble {
    /// The reason as an error, if there is one.
    pub(super) fn error(&self) -> Option<io::Error> {
        self.told
            .get()
            .map(|(kind, text)| io::Error::new(*kind, text.clone()))
    }

    /// The first reason stays: what follows is its consequence.
    fn tell(&self, kind: io::ErrorKind, text: String) {
        self.told.set((kind, text)).ok();
    }
}

/// One stream's pump.
pub(super) struct Pump {
    from_user: ReadHalf<DuplexStream>,
    to_user: WriteHalf<DuplexStream>,
    trouble: Trouble,
    gone: CancellationToken,
    timing: Timing,
}

impl Pump {
    /// A pump at one end of a pipe; `gone` is cancelled when the user has dropped the other end.
    pub(super) fn new(
        pipe: DuplexStream,
        trouble: Trouble,
        gone: CancellationToken,
        timing: Timing,
    ) -> Self {
        let (from_user, to_user) = tokio::io::split(pipe);
        Self {
            from_user,
            to_user,
            trouble,
            gone,
            timing,
        }
    }

    /// Pumps until either end is done. `sent` is told when the user has finished writing and all of it went out.
    pub(super) async fn run<S: Socket + Unpin>(self, socket: S, sent: oneshot::Sender<()>) {
        let Self {
            from_user,
            mut to_user,
            trouble,
            gone,
            timing,
        } = self;
        let (mut sink, stream) = socket.split();
        let ended = tokio::select! {
            ended = upload(from_user, &mut sink, (&gone, sent), timing.ping_every) => ended,
            ended = download(stream, &mut to_user, timing.silence_limit) => ended,
        };
        if let Err(error) = ended {
            trouble.tell(error.kind(), error.to_string());
        }
        // The end of file that this makes must come after the reason was told.
        to_user.shutdown().await.ok();
        timeout(CLOSE_LIMIT, sink.close()).await.ok();
    }
}

/// Sends what the user writes, and pings in between; ends when the user is gone.
async fn upload<S: Socket>(
    mut from_user: ReadHalf<DuplexStream>,
    sink: &mut SplitSink<S, Message>,
    (gone, sent): (&CancellationToken, oneshot::Sender<()>),
    ping_every: Duration,
) -> io::Result<()> {
    let mut pings = interval_at(Instant::now() + ping_every, ping_every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = BytesMut::new();
    // There while the user may still write.
    let mut open = Some(sent);
    loop {
        prepare(&mut buffer);
        let message = tokio::select! {
            // Pings first, they are rare and a busy user must not keep them back; what was written before the user left, before the leave.
            biased;
            _ = pings.tick() => Message::Ping(Bytes::new()),
            read = from_user.read_buf(&mut buffer), if open.is_some() => {
                if read? == 0 {
                    // Whoever waits for it may be gone.
                    open.take().map(|sent| sent.send(()));
                    continue;
                }
                Message::Binary(buffer.split().freeze())
            }
            () = gone.cancelled() => return Ok(()),
        };
        sink.send(message).await.map_err(broken)?;
    }
}

/// Room for one message, its channel byte in place.
fn prepare(buffer: &mut BytesMut) {
    if buffer.is_empty() {
        buffer.reserve(1 + MESSAGE);
        buffer.extend_from_slice(&[DATA]);
    }
}

/// Gives the user what comes; ends when the other side is done.
async fn download<S: Socket>(
    mut stream: SplitStream<S>,
    to_user: &mut WriteHalf<DuplexStream>,
    silence_limit: Duration,
) -> io::Result<()> {
    let mut ports = PortsSeen::default();
    loop {
        let Ok(next) = timeout(silence_limit, stream.next()).await else {
            let text = format!(
                "nothing came for {} s, not even an answer to a ping",
                silence_limit.as_secs_f32()
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        };
        let message = match next {
            Some(message) => message.map_err(broken)?,
            None => return Ok(()),
        };
        let payload = match message {
            Message::Binary(payload) => payload,
            Message::Close(_) => return Ok(()),
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        match ports.strip(payload)? {
            Some((DATA, bytes)) => to_user.write_all(&bytes).await?,
            Some((ERROR, text)) => return Err(refused(&text)),
            Some(_) | None => {}
        }
    }
}

/// Which channels have told their port yet.
#[derive(Debug, Default)]
struct PortsSeen {
    data: bool,
    error: bool,
}

impl PortsSeen {
    /// A message's channel and bytes; `None` for the one that only tells the port.
    fn strip(&mut self, mut payload: Bytes) -> io::Result<Option<(u8, Bytes)>> {
        if payload.is_empty() {
            return Ok(None);
        }
        let channel = payload.split_to(1)[0];
        let seen = match channel {
            DATA => &mut self.data,
            ERROR => &mut self.error,
            _ => return Ok(None),
        };
        if !std::mem::replace(seen, true) {
            if payload.len() < 2 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the port-forward began without its port",
                ));
            }
            payload = payload.slice(2..);
        }
        Ok((!payload.is_empty()).then_some((channel, payload)))
    }
}

/// The kubelet's words for a connection that it could not make or keep.
fn refused(text: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(text).trim().to_owned();
    let kind = if text.contains("connection refused") {
        io::ErrorKind::ConnectionRefused
    } else {
        io::ErrorKind::ConnectionAborted
    };
    io::Error::new(kind, text)
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::Error::new(io::ErrorKind::BrokenPipe, "the port-forward was closed")
        }
        other => io::Error::new(io::ErrorKind::ConnectionReset, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_of_each_channel_tells_its_port() {
        let mut ports = PortsSeen::default();
        let mut strip = |bytes: &'static [u8]| ports.strip(Bytes::from_static(bytes)).unwrap();
        assert_eq!(strip(&[0, 0x90, 0x1f]), None);
        assert_eq!(strip(&[1, 0x90, 0x1f]), None);
        assert_eq!(strip(b"\0abc"), Some((DATA, Bytes::from_static(b"abc"))));
        assert_eq!(strip(b"\x01no"), Some((ERROR, Bytes::from_static(b"no"))));
        assert_eq!(strip(&[7, 1, 2]), None, "a channel that we do not know");
        assert_eq!(strip(&[]), None);
        assert_eq!(strip(&[0]), None);
    }

    #[test]
    fn bytes_right_behind_the_port_are_data() {
        let mut ports = PortsSeen::default();
        let stripped = ports
            .strip(Bytes::from_static(&[0, 0x90, 0x1f, b'x']))
            .unwrap();
        assert_eq!(stripped, Some((DATA, Bytes::from_static(b"x"))));
        assert!(
            PortsSeen::default()
                .strip(Bytes::from_static(&[0, 1]))
                .is_err()
        );
    }

    #[test]
    fn a_refused_connection_is_told_as_such() {
        let error = refused(
            b"error forwarding port 1 to pod x: dial tcp4 127.0.0.1:1: connect: connection refused",
        );
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(refused(b"gone").kind(), io::ErrorKind::ConnectionAborted);
    }
}
