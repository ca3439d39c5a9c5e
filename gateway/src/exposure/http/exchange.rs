//! One request and its response, from the request's head to the last byte of the response: what is told about it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::super::events::{Counters, Record, RequestRecord, Share, count};
use super::Client;
use super::body::{Error, Progress};
use super::gate::Keeper;
use super::upstream::Lease;

/// A request under way. Its end, whatever it is, is recorded.
pub(super) struct Exchange {
    client: Arc<Client>,
    method: Method,
    path: String,
    began: Instant,
    pub(super) to: Share,
    pub(super) counters: Arc<Counters>,
    pub(super) status: Option<StatusCode>,
    pub(super) complete: bool,
    /// The request's body.
    pub(super) progress: Arc<Progress>,
    /// Shut when the response is over: nobody wants the body any more.
    pub(super) keeper: Option<Keeper>,
    received: u64,
}

impl Exchange {
    pub(super) fn begin(client: &Arc<Client>, head: &Parts, to: Share) -> Self {
        if client.requests.fetch_add(1, Ordering::Relaxed) == 0 {
            client.shared.busy.increase();
        }
        Self {
            client: Arc::clone(client),
            method: head.method.clone(),
            path: head.uri.path().to_owned(),
            began: Instant::now(),
            to,
            counters: Arc::clone(&client.shared.origin),
            status: None,
            complete: false,
            progress: Arc::default(),
            keeper: None,
            received: 0,
        }
    }

    pub(super) fn note_received(&mut self, length: usize) {
        self.received += length as u64;
        self.counters
            .received
            .fetch_add(length as u64, Ordering::Relaxed);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.refuse();
        }
        count(&self.counters.requests);
        if !self.complete {
            count(&self.counters.errors);
        }
        self.client.shared.record(Record::Request(RequestRecord {
            client: self.client.addresses.client,
            method: self.method.clone(),
            path: std::mem::take(&mut self.path),
            status: self.status,
            duration: self.began.elapsed(),
            to: self.to.clone(),
            sent: self.progress.sent.load(Ordering::Relaxed),
            received: self.received,
            complete: self.complete,
        }));
        if self.client.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.client.shared.busy.decrease();
        }
    }
}

/// A response's body on its way to the client.
pub(super) struct ResponseBody {
    source: Source,
    lease: Option<Lease>,
    ended: bool,
    exchange: Exchange,
}

enum Source {
    Upstream(Incoming),
    Text(Full<Bytes>),
}

impl ResponseBody {
    /// What a laptop or the origin says.
    pub(super) fn upstream(incoming: Incoming, lease: Option<Lease>, exchange: Exchange) -> Self {
        Self {
            source: Source::Upstream(incoming),
            lease,
            ended: false,
            exchange,
        }
    }

    /// What the gateway says.
    pub(super) fn text(text: String, exchange: Exchange) -> Self {
        Self {
            source: Source::Text(Full::from(text)),
            lease: None,
            ended: false,
            exchange,
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let ended = self.ended || self.is_end_stream();
        let is_own = matches!(self.source, Source::Text(_));
        self.exchange.complete = ended && !is_own;
        if let Some(lease) = self.lease.take()
            && ended
            && self.exchange.progress.done.load(Ordering::Relaxed)
        {
            lease.give_back();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match &mut self.source {
            Source::Upstream(incoming) => {
                ready!(Pin::new(incoming).poll_frame(cx)).map(|frame| frame.map_err(Error::from))
            }
            Source::Text(text) => {
                ready!(Pin::new(text).poll_frame(cx)).map(|frame| frame.map_err(Error::from))
            }
        };
        match &frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.exchange.note_received(length);
                // Nothing follows them, and hyper does not ask.
                self.ended |= frame.is_trailers();
            }
            Some(Err(_)) => {}
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Upstream(incoming) => incoming.is_end_stream(),
            Source::Text(text) => text.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Upstream(incoming) => incoming.size_hint(),
            Source::Text(text) => text.size_hint(),
        }
    }
}
