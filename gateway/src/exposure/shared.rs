//! What all connections of one exposure's port share. The choice is read once a request, everything else is a counter.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dial::Silence;
use super::events::{Counted, Counters, Gauge, Gauges, Record};
use super::{Choice, Settings};

pub(super) struct Shared {
    pub(super) settings: Settings,
    choice: watch::Sender<Arc<Choice>>,
    pub(super) origin: Arc<Counters>,
    pub(super) silence: Silence,
    /// Open client connections, UDP clients included.
    pub(super) connections: Gauge,
    /// Of them, those that speak HTTP.
    pub(super) http: Gauge,
    /// Of those, the ones with a request under way.
    pub(super) busy: Gauge,
    /// Copies that were begun and have not ended.
    pub(super) mirrors: Gauge,
    /// Which of them are at their laptops.
    pub(super) mirror_turns: Semaphore,
    /// Bytes of all of them that wait.
    pub(super) mirror_bytes: Arc<AtomicUsize>,
    /// Connections and clients beyond the limit.
    refused: AtomicUsize,
    /// Records that found the channel full.
    records_dropped: AtomicUsize,
    /// Whether connections end when they can.
    drain: watch::Sender<bool>,
    /// Nothing new is accepted.
    pub(super) close: CancellationToken,
    /// Everything ends.
    pub(super) kill: CancellationToken,
    tasks: TaskTracker,
}

impl Shared {
    pub(super) fn new(settings: Settings, choice: Choice) -> Arc<Self> {
        Arc::new(Self {
            choice: watch::Sender::new(Arc::new(choice)),
            origin: Arc::default(),
            silence: Silence::default(),
            connections: Gauge::default(),
            http: Gauge::default(),
            busy: Gauge::default(),
            mirrors: Gauge::default(),
            mirror_turns: Semaphore::new(settings.limits.mirrors),
            mirror_bytes: Arc::default(),
            refused: AtomicUsize::new(0),
            records_dropped: AtomicUsize::new(0),
            drain: watch::Sender::new(false),
            close: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
            settings,
        })
    }

    pub(super) fn choice(&self) -> Arc<Choice> {
        Arc::clone(&self.choice.borrow())
    }

    pub(super) fn choose(&self, choice: Choice) {
        self.choice.send_replace(Arc::new(choice));
    }

    /// A place for one more connection or UDP client, if there is room below `limit` here, and anywhere.
    pub(super) fn enter(&self, limit: usize) -> Option<(Counted, Counted)> {
        let entered = self
            .connections
            .enter_below(limit)
            .zip(self.settings.room.take());
        if entered.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    pub(super) fn drain(&self, drains: bool) {
        self.drain.send_replace(drains);
    }

    pub(super) fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// Waits until connections are to end.
    pub(super) async fn drained(&self) {
        // The sender is here, so that the wait ends with it only.
        drop(self.drain.subscribe().wait_for(|drains| *drains).await);
    }

    /// Runs `task` until it ends or the exposure does.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        self.tasks.spawn(async move {
            kill.run_until_cancelled(task).await;
        });
    }

    pub(super) fn dice(&self) -> u32 {
        (self.settings.dice)()
    }

    pub(super) fn record(&self, record: Record) {
        if !(self.settings.records)(record) {
            self.records_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn gauges(&self) -> Gauges {
        let http = self.http.value();
        Gauges {
            connections: self.connections.value(),
            idle: http.saturating_sub(self.busy.value()),
            refused: self.refused.load(Ordering::Relaxed),
            records_dropped: self.records_dropped.load(Ordering::Relaxed),
        }
    }

    pub(super) async fn stop(&self, limit: Duration) -> usize {
        self.close.cancel();
        self.drain(true);
        self.tasks.close();
        // What is still open at the limit is what is counted and reset.
        drop(tokio::time::timeout(limit, self.tasks.wait()).await);
        let left = self.connections.value();
        self.kill.cancel();
        self.tasks.wait().await;
        left
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.settings.name)
            .field("gauges", &self.gauges())
            .finish_non_exhaustive()
    }
}
