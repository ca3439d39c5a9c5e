//! Word that the machine's network changes (rtnetlink's multicast groups, no privilege needed), and how long it slept.
//!
//! Says only that something changed; what, the one who is told looks up. Must not judge.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::stream::BoxStream;
use rtnetlink::MulticastGroup;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinHandle;

/// Changes of interfaces, addresses and routes, one item each.
pub(crate) struct Changes {
    messages: BoxStream<'static, ()>,
    reader: JoinHandle<()>,
}

impl Changes {
    /// Listens in this process's network namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system has no netlink socket for us.
    pub(crate) fn open() -> Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)
            .context("changes of the network cannot be listened to")?;
        Ok(Self {
            messages: messages.map(drop).boxed(),
            reader: tokio::spawn(connection),
        })
    }

    /// Waits for the next change; `None` when no more will be told. May be cancelled.
    pub(crate) async fn next(&mut self) -> Option<()> {
        self.messages.next().await
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// How long the machine has slept since it was booted: the clock that goes on while it does, less the one that stands.
pub(crate) fn time_asleep() -> Duration {
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic))
}
