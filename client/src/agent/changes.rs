//! Notices that the machine's network changed or that the machine slept, and has every path tried at once.
//!
//! Decides only what counts as a change: not what kvpn itself does, nor what leaves addresses and default routes as
//! they were (renewed leases, containers that start).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::agent::driver::{Command, Handle};
use crate::agent::laptop::{self, Outline};
use crate::os::platform::{self, time_asleep};

/// Changes come in bursts: this long nothing must come before one is looked at, unless it has lasted too long.
const CALM: Duration = Duration::from_millis(150);
const LONGEST_BURST: Duration = Duration::from_secs(1);
/// How often it is asked whether the machine slept. The clock of this pause stands still meanwhile.
const LOOK: Duration = Duration::from_secs(2);
/// A sleep that leaves connections as they were.
const NAP: Duration = Duration::from_secs(1);

/// Tells the driver, and whoever else wants to know, of changes until it is cancelled.
pub(crate) async fn watch(driver: Handle, changed: Vec<Arc<Notify>>) {
    let mut watch = match Watch::begin().await {
        Ok(watch) => watch,
        Err(error) => {
            tracing::info!(
                error = format!("{error:#}"),
                "changes of the network are not noticed at once"
            );
            return;
        }
    };
    while let Some(why) = watch.next().await {
        tracing::info!(why, "every carrier is tried again");
        driver.tell(Command::NetworkChanged).await;
        for changed in &changed {
            changed.notify_one();
        }
    }
}

struct Watch {
    changes: platform::Changes,
    outline: Outline,
    asleep: Duration,
}

impl Watch {
    async fn begin() -> anyhow::Result<Self> {
        Ok(Self {
            changes: platform::Changes::open()?,
            outline: laptop::outline().await?,
            asleep: time_asleep(),
        })
    }

    /// The next change that matters, in words; `None` when none will be told any more.
    async fn next(&mut self) -> Option<&'static str> {
        loop {
            tokio::select! {
                change = self.changes.next() => {
                    change?;
                    if self.is_another_network().await {
                        return Some("the network changed");
                    }
                }
                () = tokio::time::sleep(LOOK) => {
                    let before = std::mem::replace(&mut self.asleep, time_asleep());
                    if self.asleep.saturating_sub(before) > NAP {
                        return Some("the machine slept");
                    }
                }
            }
        }
    }

    /// Waits for the end of a burst, then compares.
    async fn is_another_network(&mut self) -> bool {
        let end = Instant::now() + LONGEST_BURST;
        while Instant::now() < end
            && let Ok(Some(())) = tokio::time::timeout(CALM, self.changes.next()).await
        {}
        match laptop::outline().await {
            Ok(outline) => std::mem::replace(&mut self.outline, outline) != self.outline,
            Err(error) => {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "the network cannot be looked at"
                );
                false
            }
        }
    }
}
