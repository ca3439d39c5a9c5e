//! The agent's side of control connections: who follows, who asks for the status, who ends the session.
//!
//! Decides nothing about the session; passes wishes on to the [`Board`].

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinSet;
use tokio_util::codec::{Framed, LinesCodec};

use crate::agent::board::{Board, End};
use crate::agent::driver::{self, Figures};
use crate::agent::message::{MAX_LINE, Reply, Request};
use crate::agent::places::SessionName;
use crate::agent::report::SessionReport;
use crate::agent::seat::{Seat, Usurped};
use crate::agent::transport::Stream;

/// Connections at a time; a further one waits.
const MAX_CONNECTIONS: usize = 32;
/// How long last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A control connection: lines of JSON.
pub(crate) type Lines = Framed<Stream, LinesCodec>;

/// Makes lines of a stream.
pub(crate) fn lines(stream: Stream) -> Lines {
    Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE))
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The command that started the agent; the session is not kept without it before it is connected, nor
    /// afterwards when `foreground`.
    Launcher {
        /// Whether the session ends with the command.
        foreground: bool,
    },
    /// Any other command.
    Anybody,
}

/// Serves control connections.
#[derive(Debug)]
pub(crate) struct Control {
    board: Arc<Board>,
    figures: Figures,
    connections: JoinSet<()>,
}

impl Control {
    /// Nobody is connected yet.
    pub(crate) fn new(board: Arc<Board>, figures: Figures) -> Self {
        Self {
            board,
            figures,
            connections: JoinSet::new(),
        }
    }

    /// Serves a connection that is there already.
    pub(crate) fn attend(&mut self, lines: Lines, caller: Caller) {
        let (following, reply_rx) = match caller {
            Caller::Launcher { .. } => (true, self.board.follow().1),
            Caller::Anybody => (false, self.board.follow().1),
        };
        let board = Arc::clone(&self.board);
        let connection = Connection {
            lines,
            caller,
            board,
            figures: self.figures.clone(),
            following,
            reply_rx,
            guest: None,
        };
        self.connections.spawn(connection.serve());
    }

    /// Takes connections in, as long as the session has its place.
    pub(crate) async fn serve(&mut self, seat: &mut Seat) -> Usurped {
        loop {
            while self.connections.try_join_next().is_some() {}
            if self.connections.len() >= MAX_CONNECTIONS {
                let _ = self.connections.join_next().await;
            }
            match seat.accept().await {
                Ok(Ok(stream)) => self.attend(lines(stream), Caller::Anybody),
                Err(usurped) => return usurped,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a control connection was lost");
                    tokio::time::sleep(LAST_WORDS).await;
                }
            }
        }
    }

    /// Lets the followers hear what was said last.
    pub(crate) async fn finish(mut self) {
        let _ = tokio::time::timeout(LAST_WORDS, async {
            while self.connections.join_next().await.is_some() {}
        })
        .await;
    }
}

struct Connection {
    lines: Lines,
    caller: Caller,
    board: Arc<Board>,
    figures: Figures,
    following: bool,
    reply_rx: broadcast::Receiver<Reply>,
    /// The session at the other end, if it is a guest.
    guest: Option<SessionName>,
}

impl Connection {
    async fn serve(mut self) {
        loop {
            let keep = tokio::select! {
                line = self.lines.next() => match line {
                    Some(Ok(line)) => self.request(&line).await,
                    Some(Err(_)) | None => {
                        self.caller_left();
                        false
                    }
                },
                reply = self.reply_rx.recv(), if self.following => match reply {
                    Ok(reply) => self.pass_on(reply).await,
                    Err(RecvError::Lagged(_)) => true,
                    Err(RecvError::Closed) => false,
                },
            };
            if !keep {
                break;
            }
        }
        if let Some(guest) = &self.guest {
            self.board.guests.dismiss(guest);
        }
    }

    /// Carries a request out; `false` when the connection is done.
    async fn request(&mut self, line: &str) -> bool {
        match serde_json::from_str(line) {
            Ok(Request::Status) => {
                let report = report(&self.board, &self.figures).await;
                self.say(&Reply::Report(Box::new(report))).await
            }
            Ok(Request::Follow) => self.follow().await,
            Ok(Request::Disconnect) => {
                self.board.end(End::Wanted);
                self.follow_to_the_end()
            }
            Ok(Request::Guest(guest)) => {
                self.guest = Some(guest.session.clone());
                self.board.guests.admit(guest);
                // The end of this connection is its sign that the file is free: it must not wait for others.
                self.follow_to_the_end()
            }
            Ok(Request::Start(_) | Request::Expose(_)) | Err(_) => {
                tracing::warn!("a control connection said something that is not in the protocol");
                false
            }
        }
    }

    async fn follow(&mut self) -> bool {
        let (outcome, reply_rx) = self.board.follow();
        (self.following, self.reply_rx) = (true, reply_rx);
        match outcome {
            Some(reply) => self.pass_on(reply).await,
            None => true,
        }
    }

    fn follow_to_the_end(&mut self) -> bool {
        // The launcher follows already; a second subscription would lose what was said in between.
        if !self.following {
            (self.following, self.reply_rx) = (true, self.board.follow().1);
        }
        true
    }

    /// Passes on what happened; `false` after the last word.
    async fn pass_on(&mut self, reply: Reply) -> bool {
        let last = matches!(reply, Reply::Failed(_) | Reply::Ended { .. });
        self.say(&reply).await && !last
    }

    async fn say(&mut self, reply: &Reply) -> bool {
        match serde_json::to_string(reply) {
            Ok(line) => self.lines.send(line).await.is_ok(),
            Err(_) => false,
        }
    }

    fn caller_left(&self) {
        let Caller::Launcher { foreground } = self.caller else {
            return;
        };
        let connected = matches!(self.board.follow().0, Some(Reply::Connected(_)));
        if foreground || !connected {
            self.board.end(End::Wanted);
        }
    }
}

/// The session with the driver's figures.
async fn report(board: &Board, figures: &Figures) -> SessionReport {
    let mut report = board.report(crate::agent::now());
    if let Some(reading) = figures.ask().await {
        driver::fill(&mut report, &reading);
    }
    report
}

#[cfg(test)]
mod tests;
