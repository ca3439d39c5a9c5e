//! The drivers' threads: started, watched, joined. It does not know what they do.

use std::thread::JoinHandle;

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::driver::Driver;

/// The drivers' threads.
#[derive(Debug)]
pub(crate) struct Drivers {
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    ended: mpsc::Receiver<()>,
    ending: mpsc::Sender<()>,
}

impl Default for Drivers {
    fn default() -> Self {
        let (ending, ended) = mpsc::channel(1);
        Self {
            threads: Vec::new(),
            ended,
            ending,
        }
    }
}

impl Drivers {
    /// Starts a driver in a thread of its own.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub(crate) fn start(&mut self, driver: Driver) -> anyhow::Result<()> {
        let ending = Ending(self.ending.clone());
        let thread = std::thread::Builder::new()
            .name(format!("driver-{}", self.threads.len()))
            .spawn(move || {
                let _ending = ending;
                driver.run()
            })
            .context("starting a driver's thread")?;
        self.threads.push(thread);
        Ok(())
    }

    /// Waits until one ends, which none does unless it is told to or dies.
    pub(crate) async fn ended(&mut self) {
        self.ended.recv().await;
    }

    /// Waits for all.
    ///
    /// # Errors
    /// What the first of those died of that died.
    pub(crate) fn join(self) -> anyhow::Result<()> {
        let results: Vec<_> = self.threads.into_iter().map(join).collect();
        results.into_iter().collect()
    }
}

fn join(thread: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    let result = thread.join();
    result.unwrap_or_else(|_| Err(anyhow::anyhow!("a driver panicked")))
}

/// Tells of a thread's end, also when it panics.
struct Ending(mpsc::Sender<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        // Full: somebody else's end is told already.
        let _ = self.0.try_send(());
    }
}
