//! The connection between agent and helper where they are parts of one process: lines of bounded length and, beside a line, a TUN.
//!
//! Must not know what the lines mean. Receiving and sending may be cancelled at any await without losing lines.

use std::collections::VecDeque;
use std::io;

use tokio::sync::mpsc;

use super::protocol::MAX_LINE;
use crate::os::platform::TunHandle;

/// Lines on their way.
const QUEUE: usize = 16;

/// What is sent.
type Parcel = (Vec<u8>, Option<TunHandle>);

/// An end of the connection between agent and helper.
pub(crate) struct Channel {
    parcel_tx: mpsc::Sender<Parcel>,
    parcel_rx: mpsc::Receiver<Parcel>,
    tuns: VecDeque<TunHandle>,
}

/// Both ends.
pub(crate) fn pair() -> (Channel, Channel) {
    let (ours_tx, theirs_rx) = mpsc::channel(QUEUE);
    let (theirs_tx, ours_rx) = mpsc::channel(QUEUE);
    let end = |parcel_tx, parcel_rx| Channel {
        parcel_tx,
        parcel_rx,
        tuns: VecDeque::new(),
    };
    (end(ours_tx, ours_rx), end(theirs_tx, theirs_rx))
}

impl Channel {
    /// The next line; `None` when the other end is gone.
    ///
    /// # Errors
    /// A line longer than [`MAX_LINE`].
    pub(crate) async fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some((line, tun)) = self.parcel_rx.recv().await else {
            return Ok(None);
        };
        if line.len() > MAX_LINE {
            let message = "the peer sent a line that is too long";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        self.tuns.extend(tun);
        Ok(Some(line))
    }

    /// The oldest TUN that came beside a line.
    pub(crate) fn take_descriptor(&mut self) -> Option<TunHandle> {
        self.tuns.pop_front()
    }

    /// Sends a line, with a TUN beside it when one is given.
    ///
    /// # Errors
    /// The other end is gone.
    pub(crate) async fn send(&mut self, line: &[u8], tun: Option<TunHandle>) -> io::Result<()> {
        let sent = self.parcel_tx.send((line.to_owned(), tun)).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
