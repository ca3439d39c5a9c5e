//! A request's body on its way to laptop or origin: counted, copied for mirrors, and given back whole when nothing of it
//! was read. Never holds more than one frame.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::channel::oneshot;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::super::events::Counters;
use super::gate::Gate;
use super::mirror::{Copier, CopyBody};

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

/// What is sent to laptops and the origin.
pub(super) enum UpstreamBody {
    Request(RequestBody),
    Copy(CopyBody),
}

/// A body of which nothing has been read yet.
pub(super) struct Whole {
    incoming: Incoming,
    gate: Option<Gate>,
    copies: Vec<Copier>,
    progress: Arc<Progress>,
    /// There is none.
    pub(super) empty: bool,
}

/// How far a body has come; outlives it.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) sent: AtomicU64,
    pub(super) done: AtomicBool,
}

/// A body that is being sent.
pub(super) struct RequestBody {
    /// None once given back.
    whole: Option<Whole>,
    read: bool,
    /// The body --back to who wanted it sent--> another attempt
    whole_tx: Option<oneshot::Sender<Whole>>,
    counters: Arc<Counters>,
}

impl Whole {
    pub(super) fn new(incoming: Incoming, gate: Option<Gate>, mut copies: Vec<Copier>) -> Self {
        let empty = incoming.is_end_stream();
        let progress = Arc::new(Progress::default());
        if empty {
            progress.done.store(true, Ordering::Relaxed);
            copies.iter_mut().for_each(Copier::finish);
        }
        Self {
            incoming,
            gate,
            copies,
            progress,
            empty,
        }
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    pub(super) fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// For one attempt to send it. The receiver has it back if the attempt ends before any of it was read.
    pub(super) fn into_body(
        self,
        counters: &Arc<Counters>,
    ) -> (UpstreamBody, oneshot::Receiver<Self>) {
        let (whole_tx, whole_rx) = oneshot::channel();
        let body = RequestBody {
            whole: Some(self),
            read: false,
            whole_tx: Some(whole_tx),
            counters: Arc::clone(counters),
        };
        (UpstreamBody::Request(body), whole_rx)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll(cx))?;
            self.gate = None;
        }
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => {
                self.finish();
                return Poll::Ready(None);
            }
        };
        self.copies.iter_mut().for_each(|copy| copy.push(&frame));
        if self.incoming.is_end_stream() {
            self.finish();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn finish(&mut self) {
        self.progress.done.store(true, Ordering::Relaxed);
        self.copies.iter_mut().for_each(Copier::finish);
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let (false, Some(whole), Some(whole_tx)) =
            (self.read, self.whole.take(), self.whole_tx.take())
        {
            // Nobody waits for it when there has been a response.
            drop(whole_tx.send(whole));
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(whole) = &mut self.whole else {
            return Poll::Ready(None);
        };
        let frame = ready!(whole.poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            whole.progress.sent.fetch_add(length, Ordering::Relaxed);
            self.read = true;
            self.counters.sent.fetch_add(length, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.whole
            .as_ref()
            .is_none_or(|whole| whole.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.whole
            .as_ref()
            .map_or_else(SizeHint::new, |whole| whole.incoming.size_hint())
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Request(body) => Pin::new(body).poll_frame(cx),
            Self::Copy(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Request(body) => body.is_end_stream(),
            Self::Copy(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Request(body) => body.size_hint(),
            Self::Copy(body) => body.size_hint(),
        }
    }
}
