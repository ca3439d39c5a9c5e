//! Stands for the API server and the kubelet where there is no Kubernetes: answers every request with a WebSocket port-forward to
//! one port of this namespace's 127.0.0.1.
//!
//! One process where a cluster has two, without TLS, so it costs less than theirs; benches/cluster.sh measures with the real ones.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::say;

/// What kubectl asks for, and kube.
const PROTOCOL: &str = "v4.channel.k8s.io";
/// The channel that carries the bytes.
const DATA: u8 = 0;
/// Read at once, as the kubelet does.
const READ: usize = 32 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where requests come in
    listen: SocketAddr,
    /// The port that is forwarded to
    #[arg(long, default_value_t = 6181)]
    port: u16,
}

/// Says `ready` and forwards, until killed.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("listening on {}", options.listen))?;
        say("ready");
        loop {
            let (stream, _) = listener.accept().await?;
            let port = options.port;
            tokio::spawn(async move {
                if let Err(error) = forward(stream, port).await {
                    tracing::warn!(%error, "a port-forward ended");
                }
            });
        }
    })
}

async fn forward(stream: TcpStream, port: u16) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let socket = tokio_tungstenite::accept_hdr_async(stream, accept).await?;
    let (read, write) = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await?
        .into_split();
    write.as_ref().set_nodelay(true)?;
    pump(socket, read, write, port).await
}

#[expect(
    clippy::result_large_err,
    clippy::unnecessary_wraps,
    reason = "the signature that tungstenite wants"
)]
fn accept(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let protocol = http_value(PROTOCOL);
    response
        .headers_mut()
        .insert("sec-websocket-protocol", protocol);
    Ok(response)
}

fn http_value(text: &'static str) -> tokio_tungstenite::tungstenite::http::HeaderValue {
    tokio_tungstenite::tungstenite::http::HeaderValue::from_static(text)
}

async fn pump(
    socket: WebSocketStream<TcpStream>,
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
    port: u16,
) -> anyhow::Result<()> {
    let (mut sink, mut source) = socket.split();
    for channel in [DATA, 1] {
        let [low, high] = port.to_le_bytes();
        let greeting = Message::Binary(vec![channel, low, high].into());
        sink.send(greeting).await?;
    }
    let to_laptop = async {
        loop {
            let mut message = vec![DATA; 1 + READ];
            let count = read.read(&mut message[1..]).await?;
            if count == 0 {
                return anyhow::Ok(());
            }
            message.truncate(1 + count);
            sink.send(Message::Binary(message.into())).await?;
        }
    };
    let to_pod = async {
        while let Some(message) = source.next().await {
            if let Message::Binary(bytes) = message?
                && let [DATA, payload @ ..] = &*bytes
            {
                write.write_all(payload).await?;
            }
        }
        anyhow::Ok(())
    };
    tokio::select! { done = to_laptop => done, done = to_pod => done }
}
