//! Copies of requests for laptops that only watch. A copy is read as fast as the origin reads the request, waits in
//! bounded room for its laptop, and is given up when that is full: nothing here ever holds the request up.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::choice::Claim;
use super::super::events::{Counted, Share, count};
use super::Client;
use super::body::{Error, UpstreamBody};
use super::exchange::Exchange;
use super::upstream::To;

/// Where a request's frames are copied to.
pub(super) struct Copier {
    /// the request's body --frames--> the copy's. None: complete, or given up.
    piece_tx: Option<mpsc::UnboundedSender<Piece>>,
    room: Arc<Room>,
    /// Starts the time that the laptop has for its answer.
    _ended: DropGuard,
}

/// The body of a copy.
pub(super) struct CopyBody {
    piece_rx: mpsc::UnboundedReceiver<Piece>,
    room: Arc<Room>,
    size: SizeHint,
    done: bool,
}

enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// The bytes that wait between the two, and those of all copies.
struct Room {
    limit: usize,
    waiting: AtomicUsize,
    limit_all: usize,
    waiting_all: Arc<AtomicUsize>,
    /// There was no more.
    overflow: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
#[error("the copy is incomplete")]
struct Incomplete;

/// Begins a copy of a request for `claim`; None when too many are under way.
pub(super) fn begin(
    client: &Arc<Client>,
    claim: &Arc<Claim>,
    head: &Parts,
    incoming: &Incoming,
) -> Option<Copier> {
    let limits = client.shared.settings.limits;
    let Some(counted) = client.shared.mirrors.enter_below(limits.mirrors_begun) else {
        count(&claim.counters.copies_dropped);
        return None;
    };
    let ended = CancellationToken::new();
    let room = Room {
        limit: limits.mirror_bytes,
        waiting: AtomicUsize::new(0),
        limit_all: limits.mirror_bytes_all,
        waiting_all: Arc::clone(&client.shared.mirror_bytes),
        overflow: CancellationToken::new(),
    };
    let (copier, body) = channel(room, incoming, ended.clone().drop_guard());
    let mut head = head.clone();
    head.headers.remove(EXPECT);
    let copy = Copy {
        client: Arc::clone(client),
        claim: Arc::clone(claim),
        room: Arc::clone(&copier.room),
    };
    client.shared.spawn(copy.run(head, body, ended, counted));
    Some(copier)
}

fn channel(room: Room, incoming: &Incoming, ended: DropGuard) -> (Copier, CopyBody) {
    let (piece_tx, piece_rx) = mpsc::unbounded_channel();
    let room = Arc::new(room);
    let body = CopyBody {
        piece_rx,
        room: Arc::clone(&room),
        size: incoming.size_hint(),
        done: incoming.is_end_stream(),
    };
    (
        Copier {
            piece_tx: Some(piece_tx),
            room,
            _ended: ended,
        },
        body,
    )
}

impl Copier {
    pub(super) fn push(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.send(data.len(), Piece::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.send(0, Piece::Trailers(trailers.clone()));
        }
    }

    /// The body has come to its end.
    pub(super) fn finish(&mut self) {
        self.send(0, Piece::End);
        self.piece_tx = None;
    }

    fn send(&mut self, length: usize, piece: Piece) {
        let Some(piece_tx) = &self.piece_tx else {
            return;
        };
        if !self.room.enter(length + PIECE) {
            self.room.overflow.cancel();
            self.piece_tx = None;
        } else if piece_tx.send(piece).is_err() {
            // The laptop has had enough.
            self.piece_tx = None;
        }
    }
}

impl Room {
    /// Whether there is room for so much; it is taken in any case.
    fn enter(&self, length: usize) -> bool {
        let waiting = self.waiting.fetch_add(length, Ordering::Relaxed) + length;
        let waiting_all = self.waiting_all.fetch_add(length, Ordering::Relaxed) + length;
        waiting <= self.limit && waiting_all <= self.limit_all
    }

    fn leave(&self, length: usize) {
        self.waiting.fetch_sub(length, Ordering::Relaxed);
        self.waiting_all.fetch_sub(length, Ordering::Relaxed);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.leave(self.waiting.load(Ordering::Relaxed));
    }
}

impl Body for CopyBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let Some(piece) = ready!(self.piece_rx.poll_recv(cx)) else {
            return Poll::Ready(Some(Err(Incomplete.into())));
        };
        let frame = match piece {
            Piece::Data(data) => {
                self.room.leave(data.len() + PIECE);
                Frame::data(data)
            }
            Piece::Trailers(trailers) => Frame::trailers(trailers),
            Piece::End => {
                self.done = true;
                return Poll::Ready(None);
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

struct Copy {
    client: Arc<Client>,
    claim: Arc<Claim>,
    room: Arc<Room>,
}

impl Copy {
    /// Sends the copy and reads the answer away, within its time after the request's end.
    async fn run(self, head: Parts, body: CopyBody, ended: CancellationToken, counted: Counted) {
        let mut exchange =
            Exchange::begin(&self.client, &head, Share::Copy(self.claim.owner.clone()));
        exchange.counters = Arc::clone(&self.claim.counters);
        let patience = async {
            ended.cancelled().await;
            tokio::time::sleep(self.client.shared.settings.limits.mirror_answer).await;
        };
        let sent = tokio::select! {
            sent = self.send(head, body, &mut exchange) => sent,
            () = self.room.overflow.cancelled() => Err(Incomplete.into()),
            () = patience => Err("the laptop does not answer to a copy".into()),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, owner = %self.claim.owner, "a copy failed");
        } else {
            exchange.complete = true;
        }
        if self.room.overflow.is_cancelled() {
            count(&self.claim.counters.copies_dropped);
        }
        drop(counted);
    }

    async fn send(
        &self,
        head: Parts,
        body: CopyBody,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        // A laptop slower than the origin gets them later, a few at a time.
        let turns = &self.client.shared.mirror_turns;
        let _turn = turns.acquire().await.expect("it is never closed");
        let request = Request::from_parts(head, UpstreamBody::Copy(body));
        let to = To::Laptop(Arc::clone(&self.claim));
        let answer = self.client.mirrors.send(&to, request, false).await?;
        let (response, mut body) = answer.response.into_parts();
        exchange.status = Some(response.status);
        while let Some(frame) = body.frame().await {
            exchange.note_received(frame?.data_ref().map_or(0, Bytes::len));
        }
        if let Some(lease) = answer.lease {
            lease.give_back();
        }
        Ok(())
    }
}

/// What a piece takes besides its data.
const PIECE: usize = 64;
