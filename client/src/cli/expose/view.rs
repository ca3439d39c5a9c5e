//! The foreground of an exposure: steps, then requests as they come, the command beside it, and the user's signals.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use kvpn_wire::control::{LiveEvent, LostEvents};
use serde::Serialize;
use tokio::process::Child;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent::board::{Board, End};
use crate::agent::message::Reply;
use crate::agent::report::{ExposureReport, SessionReport};
use crate::cli::expose::printer::Printer;
use crate::cli::expose::{ViewFormat, command, text};
use crate::cli::output;
use crate::cli::progress::Display;
use crate::os::signals::{Signal, SignalKind, signal};

/// What the user sees, and what the user's keys do.
pub(super) struct View {
    board: Arc<Board>,
    reply_rx: broadcast::Receiver<Reply>,
    display: Arc<Display>,
    /// Has the end not wait for connections.
    hurry: CancellationToken,
    format: ViewFormat,
    command: Vec<OsString>,
    /// Lines of the view; the command's own output has stdout for itself.
    printer: Option<Printer>,
    child: Option<Child>,
    signals: Signals,
    /// Whether the end was wanted once already.
    ending: bool,
    code: u8,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }
}

/// What frames the events, with `-o json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "camelCase")]
enum Frame<'a> {
    Exposed {
        namespace: &'a str,
        #[serde(flatten)]
        exposure: &'a ExposureReport,
    },
    Ended {
        reason: Option<&'a str>,
        notes: &'a [String],
    },
}

impl View {
    /// A view of an exposure that is about to begin.
    ///
    /// # Errors
    ///
    /// Signals cannot be caught.
    pub(super) fn new(
        board: Arc<Board>,
        display: Arc<Display>,
        hurry: CancellationToken,
        format: ViewFormat,
        command: Vec<OsString>,
    ) -> anyhow::Result<Self> {
        let (_, reply_rx) = board.follow();
        let gap = match format {
            ViewFormat::Text => |events| text::line(&LiveEvent::Lost(LostEvents { events })),
            ViewFormat::Json => |events| json(&LiveEvent::Lost(LostEvents { events })),
        };
        Ok(Self {
            board,
            reply_rx,
            printer: Printer::start(display.is_quiet(), command.is_empty(), gap)?,
            display,
            hurry,
            format,
            command,
            child: None,
            signals: Signals::new()?,
            ending: false,
            code: 0,
        })
    }

    /// Shows what happens until all is over; the exit code.
    pub(super) async fn show(mut self, mut live_rx: mpsc::Receiver<LiveEvent>) -> ExitCode {
        loop {
            tokio::select! {
                reply = self.reply_rx.recv() => match reply {
                    Ok(reply) => if self.hear(&reply) { break },
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                Some(event) = live_rx.recv() => self.show_event(&event),
                status = wait(&mut self.child) => self.command_ended(status),
                kind = self.signals.next() => self.caught(kind),
            }
        }
        self.display.clear();
        if let Some(printer) = self.printer.take() {
            printer.finish().await;
        }
        if let Some(child) = self.child.take() {
            command::end(child).await;
        }
        ExitCode::from(self.code)
    }

    /// Tells what happened; whether that was the last word.
    fn hear(&mut self, reply: &Reply) -> bool {
        match reply {
            Reply::Step { text } => self.display.step(text),
            Reply::Note { text } => self.display.note(&format!("note: {text}")),
            Reply::Connected(report) => self.begun(report),
            Reply::Failed(_) => return true,
            Reply::Ended { reason, notes } => {
                self.display.clear();
                for note in notes {
                    output::tell(&format!("note: {note}"));
                }
                self.frame(&Frame::Ended {
                    reason: reason.as_deref(),
                    notes,
                });
                return true;
            }
            Reply::Occupied | Reply::Report(_) => {}
        }
        false
    }

    fn begun(&mut self, report: &SessionReport) {
        self.display.clear();
        let Some(exposure) = &report.exposure else {
            return;
        };
        if self.format == ViewFormat::Text {
            self.say(text::summary(report, exposure));
        }
        self.frame(&Frame::Exposed {
            namespace: &report.namespace,
            exposure,
        });
        if self.command.is_empty() {
            return;
        }
        match command::start(&self.command, report) {
            Ok(child) => self.child = Some(child),
            Err(failure) => {
                output::complain(&failure);
                self.code = failure.code;
                self.end();
            }
        }
    }

    fn say(&self, line: String) {
        if let Some(printer) = &self.printer {
            printer.print(line);
        }
    }

    fn frame(&self, frame: &Frame<'_>) {
        if self.format == ViewFormat::Json {
            self.say(json(frame));
        }
    }

    fn show_event(&self, event: &LiveEvent) {
        self.say(match self.format {
            ViewFormat::Text => text::line(event),
            ViewFormat::Json => json(event),
        });
    }

    fn command_ended(&mut self, status: std::io::Result<std::process::ExitStatus>) {
        self.child = None;
        self.code = status.map_or(crate::cli::failure::FAILED, command::code);
        self.end();
    }

    /// A command gets the terminal's Ctrl-C itself, and decides; other signals are passed on to it.
    fn caught(&mut self, kind: SignalKind) {
        match &self.child {
            Some(_) if kind == SignalKind::interrupt() => {}
            Some(child) => command::signal(child, kind),
            None => self.end(),
        }
    }

    /// Wants the end; the second time at once.
    fn end(&mut self) {
        if self.ending {
            self.hurry.cancel();
        }
        self.ending = true;
        self.board.end(End::Wanted);
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain fields have a JSON form")
}

/// The end of the command, if there is one.
async fn wait(child: &mut Option<Child>) -> std::io::Result<std::process::ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}
