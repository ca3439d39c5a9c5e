//! Prints lines on a thread of its own: a terminal that is held (Ctrl-S) or a pipe that nobody reads must not hold up the
//! session, whose traffic would go to the origin. What finds no room is counted and left out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;

use crate::cli::output;

/// Lines that wait.
const ROOM: usize = 1024;
/// How long the last lines may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Lines on their way to stdout or stderr.
pub(super) struct Printer {
    line_tx: SyncSender<String>,
    lost: AtomicU64,
    /// What is said of lines that were left out.
    gap: fn(u64) -> String,
    done_rx: oneshot::Receiver<()>,
}

impl Printer {
    /// A printer to stdout, or to stderr; none when nothing is to be said.
    ///
    /// # Errors
    ///
    /// The system has no more threads.
    pub(super) fn start(
        quiet: bool,
        to_stdout: bool,
        gap: fn(u64) -> String,
    ) -> anyhow::Result<Option<Self>> {
        if quiet {
            return Ok(None);
        }
        let print = if to_stdout {
            output::print
        } else {
            output::tell
        };
        Self::to(print, gap).map(Some)
    }

    fn to(print: impl Fn(&str) + Send + 'static, gap: fn(u64) -> String) -> anyhow::Result<Self> {
        let (line_tx, line_rx): (_, Receiver<String>) = sync_channel(ROOM);
        let (done_tx, done_rx) = oneshot::channel();
        thread::Builder::new()
            .name("printer".to_owned())
            .spawn(move || {
                line_rx.iter().for_each(|line| print(&line));
                // Nobody may wait for it any more.
                let _ = done_tx.send(());
            })
            .context("no thread for what is shown")?;
        Ok(Self {
            line_tx,
            lost: AtomicU64::new(0),
            gap,
            done_rx,
        })
    }

    /// Prints a line when there is room for it, and how many were left out before.
    pub(super) fn print(&self, line: String) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && self.line_tx.try_send((self.gap)(lost)).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
            return;
        }
        if self.line_tx.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits a moment for what was said last.
    pub(super) async fn finish(self) {
        drop(self.line_tx);
        let _ = tokio::time::timeout(LAST_WORDS, self.done_rx).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    #[tokio::test]
    async fn who_reads_slowly_is_told_what_is_missing() {
        let (go_tx, go_rx) = mpsc::channel::<()>();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&printed);
        let print = move |line: &str| {
            let _ = go_rx.recv();
            seen.lock().unwrap().push(line.to_owned());
        };
        let printer = Printer::to(print, |lost| format!("{lost} lost")).unwrap();
        for number in 0..ROOM + 10 {
            printer.print(number.to_string());
        }
        // At least the room was used, and one line may be in the printer's hand.
        let lost = printer.lost.load(Ordering::Relaxed);
        assert!((9..=10).contains(&lost), "{lost}");
        drop(go_tx);
        while printed.lock().unwrap().len() < ROOM {
            tokio::task::yield_now().await;
        }
        printer.print("last".to_owned());
        printer.finish().await;
        let printed = printed.lock().unwrap();
        let [.., told, last] = printed.as_slice() else {
            panic!("{printed:?}")
        };
        assert_eq!(
            (told.as_str(), last.as_str()),
            (format!("{lost} lost").as_str(), "last")
        );
    }
}
