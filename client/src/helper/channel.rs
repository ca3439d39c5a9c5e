//! One Unix stream socket that carries lines of bounded length and, beside a line, one descriptor.
//!
//! Must not know what the lines mean. Receiving and sending may be cancelled at any await without losing bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::protocol::MAX_LINE;

const READ_SIZE: usize = 16 * 1024;

/// What some systems do not have as a flag: there Rust's programs ignore SIGPIPE, and descriptors are marked when they came.
#[cfg(not(target_os = "macos"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(target_os = "macos")]
const NO_SIGNAL: SendFlags = SendFlags::empty();
#[cfg(not(target_os = "macos"))]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(target_os = "macos")]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::empty();

/// An end of the connection between agent and helper.
pub(crate) struct Channel {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    descriptors: Option<VecDeque<OwnedFd>>,
}

impl Channel {
    /// Takes a connected stream socket over. Only with `accept_descriptors` are descriptors taken from the peer.
    pub(crate) fn new(socket: OwnedFd, accept_descriptors: bool) -> io::Result<Self> {
        let stream = StdStream::from(socket);
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            descriptors: accept_descriptors.then(VecDeque::new),
        })
    }

    /// The next line, without its end; `None` when the peer is gone.
    ///
    /// # Errors
    /// A line longer than [`MAX_LINE`], and what the socket reports.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.incoming.iter().position(|&byte| byte == b'\n') {
                let mut line: Vec<u8> = self.incoming.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if self.incoming.len() > MAX_LINE {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the peer sent a line that is too long",
                ));
            }
            if self.read_some().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn read_some(&mut self) -> io::Result<usize> {
        let Self {
            stream,
            incoming,
            descriptors,
            ..
        } = self;
        let stream = &*stream;
        let count = stream
            .async_io(Interest::READABLE, || {
                read_now(stream.as_fd(), incoming, descriptors.as_mut())
            })
            .await;
        match count {
            // The peer died with bytes of ours unread: as good as the end of its stream.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            other => other,
        }
    }

    /// The oldest descriptor that came beside a line.
    pub(crate) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.as_mut()?.pop_front()
    }

    /// Sends a line (without its end), with a descriptor beside it when one is given: this process's closes.
    pub(crate) async fn send(
        &mut self,
        line: &[u8],
        descriptor: Option<OwnedFd>,
    ) -> io::Result<()> {
        if let Some(descriptor) = descriptor {
            self.flush().await?;
            let stream = &self.stream;
            let (first, rest) = line.split_at(1.min(line.len()));
            stream
                .async_io(Interest::WRITABLE, || {
                    send_descriptor(stream.as_fd(), first, descriptor.as_fd())
                })
                .await?;
            self.outgoing.extend_from_slice(rest);
        } else {
            self.outgoing.extend_from_slice(line);
        }
        self.outgoing.push(b'\n');
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn read_now(
    socket: BorrowedFd<'_>,
    incoming: &mut Vec<u8>,
    descriptors: Option<&mut VecDeque<OwnedFd>>,
) -> io::Result<usize> {
    let mut bytes = [0; READ_SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    // Without space the kernel drops what the peer attached.
    let mut control = match descriptors {
        Some(_) => RecvAncillaryBuffer::new(&mut space),
        None => RecvAncillaryBuffer::default(),
    };
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        CLOSE_ON_EXEC,
    )?;
    incoming.extend_from_slice(&bytes[..received.bytes]);
    if let Some(descriptors) = descriptors {
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                for descriptor in rights {
                    fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
                    descriptors.push_back(descriptor);
                }
            }
        }
    }
    Ok(received.bytes)
}

fn send_descriptor(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, NO_SIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::{Channel, MAX_LINE};

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (
            Channel::new(OwnedFd::from(one), false).unwrap(),
            Channel::new(OwnedFd::from(other), true).unwrap(),
        )
    }

    #[tokio::test]
    async fn lines_and_descriptors_arrive_together() {
        let (mut helper, mut agent) = pair();
        let (mut kept, passed) = UnixStream::pair().unwrap();
        helper.send(b"{\"a\":1}", None).await.unwrap();
        helper
            .send(b"{\"b\":2}", Some(passed.into()))
            .await
            .unwrap();
        assert_eq!(agent.receive().await.unwrap().unwrap(), b"{\"a\":1}");
        assert_eq!(agent.receive().await.unwrap().unwrap(), b"{\"b\":2}");
        let mut passed = UnixStream::from(agent.take_descriptor().unwrap());
        kept.write_all(b"x").unwrap();
        let mut byte = [0];
        passed.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
        drop(helper);
        assert!(agent.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_end_that_takes_no_descriptors_gets_none() {
        let (mut helper, mut agent) = pair();
        let (mut kept, passed) = UnixStream::pair().unwrap();
        agent.send(b"line", Some(passed.into())).await.unwrap();
        assert_eq!(helper.receive().await.unwrap().unwrap(), b"line");
        assert!(helper.take_descriptor().is_none());
        assert_eq!(
            kept.read(&mut [0]).unwrap(),
            0,
            "nobody holds the other end"
        );
    }

    #[tokio::test]
    async fn a_line_without_end_is_an_error_and_not_endless_memory() {
        let (mut helper, mut agent) = pair();
        let flood = tokio::spawn(async move { agent.send(&vec![b'x'; MAX_LINE * 4], None).await });
        assert!(helper.receive().await.is_err());
        assert!(helper.incoming.len() < MAX_LINE * 2);
        drop(helper);
        assert!(flood.await.unwrap().is_err());
    }
}
