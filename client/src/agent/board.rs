//! What the tasks of an agent tell each other about the session as a whole: how it is, what happens, that it ends.
//!
//! Not in the packets' way: nothing here is touched for a packet.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{broadcast, watch};

use crate::agent::guests::Guests;
use crate::agent::message::Reply;
use crate::agent::report::{SessionReport, State};

/// Steps and notes that a slow follower may lag behind.
const BACKLOG: usize = 64;

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Somebody wanted it: a request, a signal, the command that it belonged to.
    Wanted,
    /// It cannot go on.
    Trouble(String),
}

/// The session as a whole. Shared by all tasks.
#[derive(Debug)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
    /// Sessions whose names are asked for here.
    pub(crate) guests: Guests,
    /// any task --steps, notes, outcomes--> followers
    reply_tx: broadcast::Sender<Reply>,
    /// any task --the wish to end--> the agent's main task
    end_tx: watch::Sender<Option<End>>,
}

#[derive(Debug)]
struct Inner {
    report: SessionReport,
    connected_at: Option<Instant>,
    /// What a follower who comes late is told at once.
    outcome: Option<Reply>,
}

impl Board {
    /// The board of a session that is about to connect.
    pub(crate) fn new(report: SessionReport) -> Self {
        let inner = Inner {
            report,
            connected_at: None,
            outcome: None,
        };
        Self {
            inner: Mutex::new(inner),
            guests: Guests::default(),
            reply_tx: broadcast::Sender::new(BACKLOG),
            end_tx: watch::Sender::new(None),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session as it is at `now`, without the driver's figures.
    pub(crate) fn report(&self, now: Instant) -> SessionReport {
        let inner = self.inner();
        let connected_seconds = inner
            .connected_at
            .map(|at| now.saturating_duration_since(at).as_secs());
        SessionReport {
            connected_seconds,
            ..inner.report.clone()
        }
    }

    /// Changes what is reported.
    pub(crate) fn update(&self, change: impl FnOnce(&mut SessionReport)) {
        change(&mut self.inner().report);
    }

    /// The agent does this now.
    pub(crate) fn step(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::info!("{text}");
        let _ = self.reply_tx.send(Reply::Step { text });
    }

    /// Something that the user should know; stays in the report.
    pub(crate) fn note(&self, text: impl Into<String>) {
        let text = text.into();
        let mut inner = self.inner();
        if inner.report.notes.contains(&text) {
            return;
        }
        tracing::warn!("{text}");
        inner.report.notes.push(text.clone());
        let _ = self.reply_tx.send(Reply::Note { text });
    }

    /// What a note said is so no more.
    pub(crate) fn withdraw(&self, text: &str) {
        self.inner().report.notes.retain(|note| note != text);
    }

    /// Traffic and names work.
    pub(crate) fn connected(&self, now: Instant) {
        let mut inner = self.inner();
        inner.connected_at.get_or_insert(now);
        inner.report.state = State::Connected;
        inner.report.trouble = None;
        let reply = Reply::Connected(Box::new(inner.report.clone()));
        inner.outcome = Some(reply.clone());
        let _ = self.reply_tx.send(reply);
    }

    /// Whether it ever came to that.
    pub(crate) fn is_connected(&self) -> bool {
        self.inner().connected_at.is_some()
    }

    /// The session lost its way and looks for another.
    pub(crate) fn trouble(&self, why: String) {
        let mut inner = self.inner();
        if inner.connected_at.is_some() && inner.report.state != State::Ending {
            inner.report.state = State::Recovering;
        }
        inner.report.trouble = Some(why);
    }

    /// The session found its way back.
    pub(crate) fn recovered(&self) {
        let mut inner = self.inner();
        if inner.report.state == State::Recovering {
            inner.report.state = State::Connected;
        }
        inner.report.trouble = None;
    }

    /// The last word: all is undone.
    pub(crate) fn finish(&self, reply: Reply) {
        let mut inner = self.inner();
        inner.outcome = Some(reply.clone());
        let _ = self.reply_tx.send(reply);
    }

    /// What has come of the session so far, if anything, and all that happens from now on.
    pub(crate) fn follow(&self) -> (Option<Reply>, broadcast::Receiver<Reply>) {
        let inner = self.inner();
        (inner.outcome.clone(), self.reply_tx.subscribe())
    }

    /// Asks for the end; the first one's reason stands.
    pub(crate) fn end(&self, end: End) {
        self.end_tx.send_if_modified(|wish| {
            let first = wish.is_none();
            wish.get_or_insert(end);
            first
        });
    }

    /// Waits until somebody asks for the end.
    pub(crate) async fn end_wanted(&self) -> End {
        let mut end_rx = self.end_tx.subscribe();
        match end_rx.wait_for(Option::is_some).await {
            Ok(wish) => wish.clone().unwrap_or(End::Wanted),
            Err(_) => End::Wanted,
        }
    }
}

#[cfg(test)]
mod tests;
