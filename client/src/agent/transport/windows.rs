//! What agent and commands speak over, and how parts of one process hand a connection to each other: named pipes, and
//! connections over loopback.
//!
//! Names of pipes are everybody's, so those here are random, and stand in a file that only the user can read: nobody else can be
//! there first, and nobody else finds them. The pipe itself takes this user and administrators only. Must not know what is said.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::TryRng as _;
use rand::rngs::SysRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::windows::named_pipe::{
    ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions,
};
use tokio::sync::Mutex;
use windows_sys::Win32::Foundation::ERROR_PIPE_BUSY;

use crate::os::platform::security;

/// How long all of a pipe's ends may be taken, and how often that is looked at.
const TRIES: u32 = 100;
const LOOK: Duration = Duration::from_millis(20);

/// One end of a connection within this process.
pub(crate) type Pipe = TcpStream;

/// Both ends of a connection within this process. Needs a tokio runtime.
///
/// # Errors
///
/// Loopback does not work, or another program was faster than this one.
pub(crate) fn pair() -> io::Result<(Pipe, Pipe)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (theirs, from) = listener.accept()?;
    if from != ours.local_addr()? {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let watch = |stream: std::net::TcpStream| {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        TcpStream::from_std(stream)
    };
    Ok((watch(ours)?, watch(theirs)?))
}

/// Takes connections of this user's processes.
#[derive(Debug)]
pub(crate) struct Listener {
    name: String,
    /// The end that the next one gets.
    next: Mutex<NamedPipeServer>,
}

impl Listener {
    /// One whose name nobody knows yet. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// The pipe cannot be made.
    pub(crate) fn open() -> io::Result<Self> {
        let mut random = [0; 16];
        SysRng
            .try_fill_bytes(&mut random)
            .map_err(io::Error::other)?;
        let name = format!(r"\\.\pipe\kvpn-{:032x}", u128::from_ne_bytes(random));
        let next = security::own_pipe(ServerOptions::new().first_pipe_instance(true), &name)?;
        Ok(Self {
            name,
            next: Mutex::new(next),
        })
    }

    /// How it is found.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits for the next connection. May be cancelled.
    ///
    /// # Errors
    ///
    /// One was lost.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, ())> {
        let mut next = self.next.lock().await;
        next.connect().await?;
        let further = security::own_pipe(&mut ServerOptions::new(), &self.name)?;
        Ok((Stream::Server(std::mem::replace(&mut next, further)), ()))
    }
}

/// Waits for connections of this user's processes; a file at this path says where.
///
/// # Errors
///
/// The pipe or the file cannot be made.
pub(crate) fn listen(path: &Path) -> io::Result<Listener> {
    let listener = Listener::open()?;
    let unfinished = path.with_added_extension("new");
    std::fs::write(&unfinished, &listener.name)?;
    std::fs::rename(&unfinished, path)?;
    Ok(listener)
}

/// Connects with who listens where the file at this path says.
///
/// # Errors
///
/// `NotFound`: nobody does.
pub(crate) async fn connect(path: &Path) -> io::Result<Stream> {
    connect_with(&std::fs::read_to_string(path)?).await
}

/// Connects with a [`Listener`] of this name.
///
/// # Errors
///
/// `NotFound`: nobody has it.
pub(crate) async fn connect_with(name: &str) -> io::Result<Stream> {
    for _ in 1..TRIES {
        match ClientOptions::new().open(name) {
            Err(error) if is_busy(&error) => tokio::time::sleep(LOOK).await,
            opened => return opened.map(Stream::Client),
        }
    }
    ClientOptions::new().open(name).map(Stream::Client)
}

fn is_busy(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .and_then(|code| u32::try_from(code).ok())
        == Some(ERROR_PIPE_BUSY)
}

/// One end of a connection between processes.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Of who listens.
    Server(NamedPipeServer),
    /// Of who connected.
    Client(NamedPipeClient),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match self.get_mut() {
            Self::Server(pipe) => Pin::new(pipe).poll_read(cx, buffer),
            Self::Client(pipe) => Pin::new(pipe).poll_read(cx, buffer),
        };
        match read {
            // The other end is closed: the end of the stream, as sockets have it.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Server(pipe) => Pin::new(pipe).poll_write(cx, bytes),
            Self::Client(pipe) => Pin::new(pipe).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Server(pipe) => Pin::new(pipe).poll_flush(cx),
            Self::Client(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Server(pipe) => Pin::new(pipe).poll_shutdown(cx),
            Self::Client(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}
