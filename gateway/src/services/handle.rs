//! The way to the task that serves exposures: what HTTP asks of it, over a bounded channel, with an answer each.

use kvpn_gateway_core::{ExposureRefused, ServiceKey, SessionIndex};
use kvpn_wire::control::{Expose, Exposed, ExposureList, LiveEvent};
use tokio::sync::{mpsc, oneshot};

use crate::commands::Unanswered;

/// Requests that wait, and views of one watcher.
const QUEUE: usize = 1024;

/// What HTTP asks for.
#[derive(Debug)]
pub(super) enum Request {
    Expose(Box<Wish>, oneshot::Sender<Result<Exposed, ExposureRefused>>),
    Unexpose(ServiceKey, String, oneshot::Sender<bool>),
    List(Option<String>, oneshot::Sender<ExposureList>),
    Watch(String, mpsc::Sender<LiveEvent>),
    Leave(oneshot::Sender<()>),
}

/// One session's wish.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) key: ServiceKey,
    pub(crate) session: SessionIndex,
    /// The session's, by its key.
    pub(crate) fingerprint: String,
    pub(crate) expose: Expose,
    /// The sessions that the Service's annotation names; `None` when this gateway may not read it.
    pub(crate) named: Option<Vec<String>>,
}

/// The way to the task.
#[derive(Debug, Clone)]
pub(crate) struct ServicesHandle {
    requests: mpsc::Sender<Request>,
}

impl ServicesHandle {
    /// The way, and where its requests come out.
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(QUEUE);
        (Self { requests }, receiver)
    }

    /// Listens for a session's Service, or changes what it wants.
    pub(crate) async fn expose(
        &self,
        wish: Wish,
    ) -> Result<Result<Exposed, ExposureRefused>, Unanswered> {
        self.ask(|answer| Request::Expose(Box::new(wish), answer))
            .await
    }

    /// Ends a session's part; whether there was one.
    pub(crate) async fn unexpose(
        &self,
        key: ServiceKey,
        fingerprint: String,
    ) -> Result<bool, Unanswered> {
        self.ask(|answer| Request::Unexpose(key, fingerprint, answer))
            .await
    }

    /// All exposures, as the session of this fingerprint sees them.
    pub(crate) async fn list(
        &self,
        fingerprint: Option<String>,
    ) -> Result<ExposureList, Unanswered> {
        self.ask(|answer| Request::List(fingerprint, answer)).await
    }

    /// What is served of a session's Services from now on; ends with the gateway.
    pub(crate) async fn watch(
        &self,
        fingerprint: String,
    ) -> Result<mpsc::Receiver<LiveEvent>, Unanswered> {
        let (views_tx, views) = mpsc::channel(QUEUE);
        let request = Request::Watch(fingerprint, views_tx);
        self.requests.send(request).await.map_err(|_| Unanswered)?;
        Ok(views)
    }

    /// Gives all Services back to their origins, because the gateway is about to end.
    pub(crate) async fn leave(&self) {
        // It ends all the same.
        drop(self.ask(Request::Leave).await);
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Unanswered> {
        let (sender, receiver) = oneshot::channel();
        let request = request(sender);
        self.requests.send(request).await.map_err(|_| Unanswered)?;
        receiver.await.map_err(|_| Unanswered)
    }
}
