//! A command's side of a control connection.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{SinkExt as _, StreamExt as _};

use crate::agent::control::{Lines, lines};
use crate::agent::message::{Reply, Request};
use crate::agent::places::{Places, SessionName};
use crate::agent::report::SessionReport;
use crate::agent::transport::{self, Stream};

/// How long a living agent may take to say how its session is.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// A connection to an agent.
#[derive(Debug)]
pub(crate) struct Contact {
    lines: Lines,
}

impl Contact {
    /// Finds the session's agent; `None` when nobody answers at its socket.
    ///
    /// # Errors
    ///
    /// There is a socket that cannot be used: somebody else's.
    pub(crate) async fn open(places: &Places, name: &SessionName) -> anyhow::Result<Option<Self>> {
        let path = places.socket(name);
        match transport::connect(&path).await {
            Ok(stream) => Ok(Some(Self {
                lines: lines(stream),
            })),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error)
                .with_context(|| format!("the control socket {} cannot be used", path.display())),
        }
    }

    /// Takes over the launcher's end of a connection with the agent that it started.
    pub(crate) fn with_child(stream: Stream) -> Self {
        Self {
            lines: lines(stream),
        }
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// The agent is gone.
    pub(crate) async fn ask(&mut self, request: &Request) -> anyhow::Result<()> {
        let line = serde_json::to_string(request)?;
        self.lines
            .send(line)
            .await
            .context("the agent does not listen")
    }

    /// The next answer; `None` when the agent is gone. May be cancelled.
    ///
    /// # Errors
    ///
    /// It is not an answer: agent and command are of different versions.
    pub(crate) async fn answer(&mut self) -> anyhow::Result<Option<Reply>> {
        match self.lines.next().await {
            Some(Ok(line)) => Ok(Some(
                serde_json::from_str(&line).context("the agent is of another version")?,
            )),
            Some(Err(_)) | None => Ok(None),
        }
    }

    /// How the session is.
    ///
    /// # Errors
    ///
    /// The agent does not say so within 5 s.
    pub(crate) async fn status(&mut self) -> anyhow::Result<SessionReport> {
        self.ask(&Request::Status).await?;
        let answer = tokio::time::timeout(STATUS_LIMIT, self.answer())
            .await
            .context("the agent does not answer")?;
        match answer? {
            Some(Reply::Report(report)) => Ok(*report),
            Some(_) | None => bail!("the agent did not say how its session is"),
        }
    }
}
