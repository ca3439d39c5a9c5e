//! `Expect: 100-continue` (RFC 9110 section 10.1.1): the body is asked for only when the server at the other end asks.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Sleep;

/// Before a body that is not to be read yet.
pub(super) struct Gate {
    keeper: Keeper,
    /// A server that says nothing within it gets the body anyway, as the RFC wants.
    patience: Pin<Box<Sleep>>,
}

/// Who opens a gate, or shuts it for good.
#[derive(Clone, Default)]
pub(super) struct Keeper(Arc<State>);

#[derive(Default)]
struct State {
    position: AtomicU8,
    waker: AtomicWaker,
}

/// The server answered without wanting the body.
#[derive(Debug, thiserror::Error)]
#[error("the body was not asked for")]
pub(super) struct Unwanted;

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            keeper: Keeper::default(),
            patience: Box::pin(tokio::time::sleep(PATIENCE)),
        }
    }

    pub(super) fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unwanted>> {
        let state = &self.keeper.0;
        state.waker.register(cx.waker());
        match state.position.load(Ordering::Acquire) {
            OPEN => Poll::Ready(Ok(())),
            UNWANTED => Poll::Ready(Err(Unwanted)),
            _ => self.patience.as_mut().poll(cx).map(Ok),
        }
    }
}

impl Keeper {
    /// The server wants the body.
    pub(super) fn open(&self) {
        self.turn(OPEN);
    }

    /// The server has answered without it.
    pub(super) fn refuse(&self) {
        self.turn(UNWANTED);
    }

    fn turn(&self, position: u8) {
        self.0.position.store(position, Ordering::Release);
        self.0.waker.wake();
    }
}

const SHUT: u8 = 0;
const OPEN: u8 = SHUT + 1;
const UNWANTED: u8 = OPEN + 1;

const PATIENCE: Duration = Duration::from_secs(1);
