//! What kvpn changes of the operating system: a TUN, its routes, the machine's DNS. Only the helper changes; the agent
//! only looks ([`Routes::snapshot`]).
//!
//! One folder a system, one file a backend; the traits here are all that the rest knows of them. Must not decide
//! what may be changed: that is [`crate::helper`]'s, before it calls.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, pending};
use ipnetwork::IpNetwork;
use kvpn_io::tun::TunOffload;
use kvpn_wire::range::is_tunnel;
use serde::{Deserialize, Serialize};

mod durable;
#[cfg_attr(windows, path = "os/windows/hold.rs")]
pub(crate) mod hold;
#[cfg(unix)]
mod installing;
#[cfg(target_os = "linux")]
pub(crate) mod linux;
#[cfg_attr(windows, path = "os/windows/private.rs")]
pub(crate) mod private;
#[cfg_attr(windows, path = "os/windows/signals.rs")]
pub(crate) mod signals;
#[cfg(target_os = "linux")]
pub(crate) use linux as platform;
#[cfg(target_os = "macos")]
pub(crate) mod macos;
#[cfg(target_os = "macos")]
pub(crate) use macos as platform;
#[cfg(windows)]
pub(crate) mod windows;
#[cfg(windows)]
pub(crate) use windows as platform;

// What only reads text and writes files is tested here too.
#[cfg(all(test, target_os = "linux"))]
#[path = "os/macos/job.rs"]
mod macos_job;
#[cfg(all(test, target_os = "linux"))]
#[path = "os/macos/netstat.rs"]
mod macos_netstat;
#[cfg(all(test, target_os = "linux"))]
#[path = "os/macos/resolver.rs"]
mod macos_resolver;
#[cfg(all(test, not(windows)))]
#[path = "os/windows/rule.rs"]
mod windows_rule;

/// Which names go to which servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DnsConfig {
    /// Addresses of the stub, on port 53, reached through the TUN.
    pub(crate) servers: Vec<IpAddr>,
    /// Domains that short names are completed with, in order. Names under them go to the stub too.
    pub(crate) search: Vec<String>,
    /// Further domains whose names go to the stub, reverse zones among them; without `~`.
    pub(crate) routing: Vec<String>,
}

/// A TUN interface that vanishes when nobody has it open any more.
pub(crate) trait Tun: Sized {
    /// Opens a new interface of this name: down, without addresses. With `offload` the system joins packets for us, as
    /// far as it can.
    ///
    /// # Errors
    /// The name is taken, or the system has no TUN for us.
    fn create(name: &str, offload: bool) -> Result<Self, TunError>;
    /// The name it got.
    fn name(&self) -> &str;
    /// The interface's index.
    fn index(&self) -> Result<u32>;
    /// What the system does for us.
    fn offload(&self) -> TunOffload;
    /// What its packets, as [`Self::offload`] has them, come from and go to: a non-blocking descriptor where there are such. The
    /// interface lives as long as it.
    fn into_handle(self) -> platform::TunHandle;
}

/// Why there is no TUN.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunError {
    /// Another interface has the name.
    #[error("an interface named {0} exists already")]
    #[cfg_attr(windows, expect(dead_code, reason = "wintun does not tell"))]
    Occupied(String),
    /// The system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried, on which object, and what to check.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Only one session at a time can have it, and another one has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Taken(pub(crate) String);

/// Addresses and routes.
pub(crate) trait Routes {
    /// What there is now.
    async fn snapshot(&self) -> Result<Snapshot>;
    /// Brings an interface up with this MTU and these addresses; the block that an address stands in is routed to it.
    /// Returns the addresses that stand: not those of a family that is switched off.
    async fn bring_up(
        &self,
        link: u32,
        addresses: &[IpNetwork],
        mtu: u16,
    ) -> Result<Vec<IpNetwork>>;
    /// Gives an interface other addresses, with their blocks' routes; those that it keeps are never missing. Returns the
    /// addresses that stand.
    async fn readdress(
        &self,
        link: u32,
        former: &[IpNetwork],
        addresses: &[IpNetwork],
    ) -> Result<Vec<IpNetwork>>;
    /// Sends a range to an interface; nothing happens when it is there already.
    async fn add(&self, link: u32, range: IpNetwork) -> Result<()>;
    /// Takes a range away from an interface; nothing happens when it is not there.
    async fn remove(&self, link: u32, range: IpNetwork) -> Result<()>;
    /// Removes an interface with all that is on it; nothing happens when it is gone.
    async fn delete_link(&self, link: u32) -> Result<()>;
}

/// What the names of sessions' interfaces start with, where the system lets kvpn choose.
const SESSION_INTERFACE: &str = "kvpn";

/// The machine's interfaces, addresses and routes at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Names by index.
    pub(crate) links: BTreeMap<u32, String>,
    /// Addresses with the prefix of their subnet.
    pub(crate) addresses: Vec<Address>,
    /// Unicast routes of every table.
    pub(crate) routes: Vec<Route>,
    /// Addresses on links that the machine exchanged packets with lately, or that were set by hand.
    pub(crate) neighbours: Vec<IpAddr>,
}

impl Snapshot {
    /// Whether an interface is a session's. Its name tells where kvpn chooses it, else its tunnel address does.
    pub(crate) fn is_sessions(&self, link: u32) -> bool {
        let name = self.links.get(&link);
        let mut addresses = self.addresses.iter();
        name.is_some_and(|name| name.starts_with(SESSION_INTERFACE))
            || addresses.any(|address| address.link == link && is_tunnel(address.address.ip()))
    }
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    /// Index of the interface.
    pub(crate) link: u32,
    /// The address, with its subnet's prefix.
    pub(crate) address: IpNetwork,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// Where to.
    pub(crate) destination: IpNetwork,
    /// Index of the interface, when it has just one.
    pub(crate) link: Option<u32>,
    /// The next hop.
    pub(crate) gateway: Option<IpAddr>,
    /// Whether it is in the table that kvpn's own routes go to.
    pub(crate) in_main_table: bool,
}

/// One way of getting the cluster's names to the stub.
pub(crate) trait Dns {
    /// Its name in `kvpn status`.
    fn backend(&self) -> &'static str;
    /// Whether only the cluster's names reach the stub.
    fn splits(&self) -> bool;
    /// The servers that the machine would ask without us.
    fn upstreams(&self) -> Vec<SocketAddr>;
    /// Sets or replaces. What is needed to undo it after a crash is given to `record` before anything changes.
    /// Returns what the user should know.
    fn set<'a>(
        &'a mut self,
        dns: &'a DnsConfig,
        record: Record<'a>,
    ) -> LocalBoxFuture<'a, Result<Vec<String>>>;
    /// Waits until what was set may no longer stand: another program wrote where it is, the resolver was started again. Never
    /// ends where that cannot be seen. May be cancelled.
    fn disturbed(&mut self) -> LocalBoxFuture<'_, ()> {
        pending().boxed_local()
    }
    /// Looks whether what was set last still stands, and sets it again if not; what others made of it meanwhile is what
    /// [`Self::upstreams`] and [`Self::revert`] go by from then on. Whether it had to.
    fn mend<'a>(&'a mut self, _: Record<'a>) -> LocalBoxFuture<'a, Result<bool>> {
        async { Ok(false) }.boxed_local()
    }
    /// Puts back what was before the first `set`. Returns what the user should know.
    fn revert(&mut self) -> LocalBoxFuture<'_, Result<Vec<String>>>;
}

/// Keeps, durably, what is needed to undo a DNS change.
pub(crate) struct Record<'a>(pub(crate) &'a mut dyn FnMut(&platform::DnsUndo) -> Result<()>);
