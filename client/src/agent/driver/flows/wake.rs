//! Which flows' sockets have news. tokio wakes a task; here each socket has a waker that says which flow it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use kvpn_netstack::FlowId;
use tokio::sync::mpsc;

/// The flows that woke, in order. One that woke stands in the queue once, so the queue is as long as there are flows.
pub(super) struct Wakes {
    /// sockets' wakers --flows with news--> driver
    woken_tx: mpsc::UnboundedSender<Arc<FlowWaker>>,
    woken_rx: mpsc::UnboundedReceiver<Arc<FlowWaker>>,
}

/// Wakes for one flow.
struct FlowWaker {
    flow: FlowId,
    /// It stands in the queue.
    queued: AtomicBool,
    woken_tx: mpsc::UnboundedSender<Arc<Self>>,
}

impl Wakes {
    pub(super) fn new() -> Self {
        let (woken_tx, woken_rx) = mpsc::unbounded_channel();
        Self { woken_tx, woken_rx }
    }

    /// A waker for the sockets of `flow`.
    pub(super) fn of(&self, flow: FlowId) -> Waker {
        Waker::from(Arc::new(FlowWaker {
            flow,
            queued: AtomicBool::new(false),
            woken_tx: self.woken_tx.clone(),
        }))
    }

    /// The next flow that woke. It wakes again from now on.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<FlowId> {
        self.woken_rx.poll_recv(cx).map(|waker| {
            let waker = waker.expect("this end holds a sender too");
            waker.queued.store(false, Ordering::Release);
            waker.flow
        })
    }
}

impl Wake for FlowWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            // The driver is gone when this fails.
            let _ = self.woken_tx.send(Arc::clone(&self));
        }
    }
}
