//! The two ends of a flow that the gateway opens to a laptop: the driver's, which it joins with the flow, and the one that an exposure
//! reads and writes. A pair of sockets between them, and what sockets of a pair cannot tell: that the flow was reset.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixDatagram, UnixStream};
use tokio::sync::oneshot;

use crate::exposure::{Datagrams, Stream};

/// Who reset the connection.
#[derive(Debug, Default)]
struct Resets {
    by_laptop: AtomicBool,
    by_gateway: AtomicBool,
}

/// The driver's end of a connection.
#[derive(Debug)]
pub(crate) struct DialledStream {
    /// The driver's socket, which does not block.
    pub(crate) socket: Option<std::os::unix::net::UnixStream>,
    resets: Arc<Resets>,
    /// Taken once the laptop has answered.
    opened: Option<oneshot::Sender<io::Result<()>>>,
}

/// The exposure's end of a connection.
#[derive(Debug)]
pub(crate) struct LaptopStream {
    socket: UnixStream,
    resets: Arc<Resets>,
}

/// Tells the exposure's end once the laptop has answered.
pub(crate) type Opened = oneshot::Receiver<io::Result<()>>;

/// Both ends of a connection.
///
/// # Errors
/// When there is no file left.
pub(crate) fn stream() -> io::Result<(DialledStream, LaptopStream, Opened)> {
    let (drivers, ours) = std::os::unix::net::UnixStream::pair()?;
    drivers.set_nonblocking(true)?;
    ours.set_nonblocking(true)?;
    let (opened, opening) = oneshot::channel();
    let resets = Arc::<Resets>::default();
    let driver = DialledStream {
        socket: Some(drivers),
        resets: Arc::clone(&resets),
        opened: Some(opened),
    };
    let socket = UnixStream::from_std(ours)?;
    Ok((driver, LaptopStream { socket, resets }, opening))
}

impl DialledStream {
    /// The laptop has accepted the connection, or not; of several answers the first counts.
    pub(crate) fn answer(&mut self, answer: io::Result<()>) {
        if let Some(opened) = self.opened.take() {
            // Whoever asked may have given up.
            let _ = opened.send(answer);
        }
    }

    /// Whether whoever asked for the connection no longer waits for it.
    pub(crate) fn is_given_up(&self) -> bool {
        self.opened.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    /// The laptop reset the connection: said before the socket is closed.
    pub(crate) fn reset(&mut self) {
        self.resets.by_laptop.store(true, Ordering::Release);
        self.answer(Err(io::ErrorKind::ConnectionRefused.into()));
    }

    /// Whether the end of what was read is a reset.
    pub(crate) fn was_reset(&self) -> bool {
        self.resets.by_gateway.load(Ordering::Acquire)
    }
}

impl Stream for LaptopStream {
    fn reset(self: Box<Self>) {
        self.resets.by_gateway.store(true, Ordering::Release);
    }
}

impl AsyncRead for LaptopStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == before && buf.remaining() > 0;
        if is_end && self.resets.by_laptop.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LaptopStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Whether a UDP flow is over, and who wants to know.
#[derive(Debug, Default)]
struct Over {
    refused: AtomicBool,
    reader: AtomicWaker,
}

/// The driver's end of a UDP flow.
#[derive(Debug)]
pub(crate) struct DialledDatagrams {
    /// The driver's socket, which does not block.
    pub(crate) socket: Option<std::os::unix::net::UnixDatagram>,
    over: Arc<Over>,
}

/// The exposure's end of a UDP flow.
#[derive(Debug)]
pub(crate) struct LaptopDatagrams {
    socket: UnixDatagram,
    over: Arc<Over>,
}

/// Both ends of a UDP flow.
///
/// # Errors
/// When there is no file left.
pub(crate) fn datagrams() -> io::Result<(DialledDatagrams, LaptopDatagrams)> {
    let (drivers, ours) = std::os::unix::net::UnixDatagram::pair()?;
    drivers.set_nonblocking(true)?;
    ours.set_nonblocking(true)?;
    let over = Arc::<Over>::default();
    let driver = DialledDatagrams {
        socket: Some(drivers),
        over: Arc::clone(&over),
    };
    let socket = UnixDatagram::from_std(ours)?;
    Ok((driver, LaptopDatagrams { socket, over }))
}

/// However the flow ends, the exposure's end hears of it.
impl Drop for DialledDatagrams {
    fn drop(&mut self) {
        self.over.refused.store(true, Ordering::Release);
        self.over.reader.wake();
    }
}

impl Datagrams for LaptopDatagrams {
    fn poll_send(&self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_send_ready(cx))?;
            match self.socket.try_send(datagram) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.over.reader.register(cx.waker());
        let received = self.socket.poll_recv(cx, buffer);
        if received.is_pending() && self.over.refused.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        received
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn an_end_is_an_end_and_a_reset_is_a_reset() {
        for is_reset in [false, true] {
            let (mut driver, mut laptop, opened) = stream().unwrap();
            driver.answer(Ok(()));
            opened.await.unwrap().unwrap();
            driver.socket.as_mut().unwrap().write_all(b"half").unwrap();
            if is_reset {
                driver.reset();
            }
            drop(driver);
            let mut read = Vec::new();
            let end = laptop.read_to_end(&mut read).await;
            assert_eq!((read.as_slice(), end.is_err()), (&b"half"[..], is_reset));
        }
    }

    #[tokio::test]
    async fn the_driver_hears_of_a_reset_and_of_one_who_gave_up() {
        let (driver, mut laptop, opened) = stream().unwrap();
        laptop.write_all(b"x").await.unwrap();
        assert!(!driver.was_reset() && !driver.is_given_up());
        drop(opened);
        assert!(driver.is_given_up());
        Box::new(laptop).reset();
        assert!(driver.was_reset());
    }

    #[tokio::test]
    async fn a_refused_flow_tells_its_reader_after_the_last_datagram() {
        let (driver, laptop) = datagrams().unwrap();
        driver.socket.as_ref().unwrap().send(b"last").unwrap();
        let mut storage = [0; 16];
        let mut read = async || {
            let mut buffer = ReadBuf::new(&mut storage);
            let read = std::future::poll_fn(|cx| laptop.poll_recv(cx, &mut buffer)).await;
            read.map(|()| buffer.filled().to_vec())
        };
        assert_eq!(read().await.unwrap(), b"last");
        drop(driver);
        assert_eq!(read().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
