//! Notices that the machine's network changed or that the machine slept, and has every path tried at once; and that other interfaces
//! have other ranges than before, such as a VPN's.
//!
//! Decides only what counts as a change: not what kvpn itself does, nor what leaves addresses and routes as they were (renewed leases,
//! containers that start).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::agent::driver::{Command, Handle};
use crate::agent::laptop::{self, Occupied, Outline};
use crate::os::platform::{self, time_asleep};

/// Changes come in bursts: this long nothing must come before one is looked at, unless it has lasted too long.
const CALM: Duration = Duration::from_millis(150);
const LONGEST_BURST: Duration = Duration::from_secs(1);
/// How often it is asked whether the machine slept. The clock of this pause stands still meanwhile.
const LOOK: Duration = Duration::from_secs(2);
/// A sleep that leaves connections as they were.
const NAP: Duration = Duration::from_secs(1);

/// Who wants to know of changes, besides the driver.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// What carriers depend on changed, or the machine slept.
    pub(crate) moved: Vec<Arc<Notify>>,
    /// Others' ranges changed, or may have before the watch began.
    pub(crate) ranges: Option<Arc<Notify>>,
}

/// Tells of changes until it is cancelled.
pub(crate) async fn watch(driver: Handle, listeners: Listeners) {
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
    let ranges = listeners.ranges.iter();
    ranges.for_each(|ranges| ranges.notify_one());
    while let Some(Change { moved, ranges }) = watch.next().await {
        if let Some(why) = moved {
            tracing::info!(why, "every carrier is tried again");
            driver.tell(Command::NetworkChanged).await;
            listeners.moved.iter().for_each(|moved| moved.notify_one());
        }
        if ranges {
            let ranges = listeners.ranges.iter();
            ranges.for_each(|ranges| ranges.notify_one());
        }
    }
}

/// What changed.
#[derive(Debug, Default)]
struct Change {
    /// What carriers depend on: in words.
    moved: Option<&'static str>,
    /// Others' ranges.
    ranges: bool,
}

struct Watch {
    changes: platform::Changes,
    outline: Outline,
    occupied: BTreeSet<Occupied>,
    asleep: Duration,
}

impl Watch {
    async fn begin() -> anyhow::Result<Self> {
        let changes = platform::Changes::open()?;
        let (outline, occupied) = laptop::outline().await?;
        Ok(Self {
            changes,
            outline,
            occupied,
            asleep: time_asleep(),
        })
    }

    /// The next change that matters; `None` when none will be told any more.
    async fn next(&mut self) -> Option<Change> {
        loop {
            tokio::select! {
                change = self.changes.next() => {
                    change?;
                    let change = self.look().await;
                    if change.moved.is_some() || change.ranges {
                        return Some(change);
                    }
                }
                () = tokio::time::sleep(LOOK) => {
                    let before = std::mem::replace(&mut self.asleep, time_asleep());
                    if self.asleep.saturating_sub(before) > NAP {
                        let moved = Some("the machine slept");
                        return Some(Change { moved, ranges: false });
                    }
                }
            }
        }
    }

    /// Waits for the end of a burst, then compares.
    async fn look(&mut self) -> Change {
        let end = Instant::now() + LONGEST_BURST;
        while Instant::now() < end
            && let Ok(Some(())) = tokio::time::timeout(CALM, self.changes.next()).await
        {}
        match laptop::outline().await {
            Ok((outline, occupied)) => {
                let moved = std::mem::replace(&mut self.outline, outline) != self.outline;
                let ranges = std::mem::replace(&mut self.occupied, occupied) != self.occupied;
                let moved = moved.then_some("the network changed");
                Change { moved, ranges }
            }
            Err(error) => {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "the network cannot be looked at"
                );
                Change::default()
            }
        }
    }
}
