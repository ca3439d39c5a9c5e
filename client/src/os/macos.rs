//! macOS: utun, ifconfig(8), route(8) and netstat(1), `/etc/resolver`.
//!
//! Type-checked on Linux, and what reads other programs' output is tested there; nobody has run it. Must not hold a change
//! itself: only names what the rest needs.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::{Dns, DnsConfig, Record, durable};
use crate::helper::protocol::DnsBackend;

mod job;
pub(crate) mod login;
pub(super) mod netstat;
mod process;
pub(super) mod resolver;
mod routes;
pub(crate) mod service;
mod tun;
mod watch;

pub(crate) use durable::{forget, is_unfinished, keep, remove};
pub(crate) use process::{Process, end_with_parent, network_namespace};
pub(crate) use routes::SystemRoutes;
pub(crate) use tun::Utun as SystemTun;
pub(crate) use watch::{Changes, time_asleep};

/// What a TUN is to who moves its packets.
pub(crate) type TunHandle = std::os::fd::OwnedFd;

/// Where the user sees why names do not resolve as they should.
pub(crate) const NAMES_HINT: &str = "look at `scutil --dns`";

/// What the names of TUN interfaces start with; the system allows no others.
pub(crate) const INTERFACE: &str = "utun";

const STATE_FOLDER: &str = "/var/db/kvpn";
const RESOLVERS: &str = "/etc/resolver";
/// The system keeps it for programs that do not ask it; it names the servers of the primary interface.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What undoes a DNS change after a crash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum DnsUndo {
    /// Files under `/etc/resolver`.
    Resolver(resolver::Files),
}

impl DnsUndo {
    /// Undoes, as far as nobody else changed it since. Returns what the user should know.
    pub(crate) fn undo(&self) -> Result<Vec<String>> {
        match self {
            Self::Resolver(files) => files.remove(),
        }
    }
}

/// What the administrator allows the helper; root's, and readable by everybody.
pub(crate) fn exceptions_file() -> PathBuf {
    PathBuf::from("/etc/kvpn/helper.toml")
}

/// Where the helper keeps what undoes it.
pub(crate) fn state_folder() -> PathBuf {
    PathBuf::from(STATE_FOLDER)
}

/// Whether this process may change the machine's network.
pub(crate) fn may_administer() -> bool {
    geteuid().is_root()
}

/// How names are split; `/etc/resolver` is the only way. `session` marks its files.
///
/// # Errors
/// Another way was asked for.
#[expect(clippy::unused_async, reason = "other systems have to ask somebody")]
pub(crate) async fn open_dns(
    choice: DnsBackend,
    _link: u32,
    _state: &Path,
    session: &str,
) -> Result<Box<dyn Dns>> {
    if choice != DnsBackend::Auto {
        bail!("macOS splits names by {RESOLVERS} alone");
    }
    Ok(Box::new(Resolver {
        files: resolver::Files::new(Path::new(RESOLVERS), session),
        upstreams: upstreams(),
    }))
}

/// The backend's name in `kvpn status`.
pub(crate) fn likely_dns_backend() -> &'static str {
    RESOLVERS
}

/// Addresses of the servers that the machine's resolver asks, those on the machine itself left out.
pub(crate) fn resolver_addresses() -> Vec<IpAddr> {
    let servers = upstreams().into_iter().map(|server| server.ip());
    servers.filter(|server| !server.is_loopback()).collect()
}

fn upstreams() -> Vec<SocketAddr> {
    resolver::nameservers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

/// What programs are told to ask besides DNS: nothing that could be told here.
pub(crate) fn name_services() -> Option<String> {
    None
}

/// An interface's MTU: not looked at.
pub(crate) fn mtu(_interface: &str) -> Option<usize> {
    None
}

/// What a crash left of DNS settings, as far as anyone can see it: text for the user.
pub(crate) fn visible_leftovers() -> Option<String> {
    let left = resolver::orphaned(Path::new(RESOLVERS), Process::session_is_alive)?;
    Some(format!(
        "{} was left by a session that was killed",
        left.display()
    ))
}

/// Names by files under `/etc/resolver`, one a domain (resolver(5)).
struct Resolver {
    files: resolver::Files,
    upstreams: Vec<SocketAddr>,
}

impl Dns for Resolver {
    fn backend(&self) -> &'static str {
        RESOLVERS
    }

    fn splits(&self) -> bool {
        true
    }

    fn upstreams(&self) -> Vec<SocketAddr> {
        self.upstreams.clone()
    }

    fn set<'a>(
        &'a mut self,
        dns: &'a DnsConfig,
        record: Record<'a>,
    ) -> LocalBoxFuture<'a, Result<Vec<String>>> {
        async move {
            let former = self.files.replace_by(dns);
            // Both, until those that are no longer wanted are gone.
            (record.0)(&DnsUndo::Resolver(self.files.with(&former)))?;
            former.remove()?;
            self.files.write(dns)
        }
        .boxed_local()
    }

    fn revert(&mut self) -> LocalBoxFuture<'_, Result<Vec<String>>> {
        async { self.files.remove() }.boxed_local()
    }
}

/// `kvpn run` gives a program a network of its own, which macOS has not: there is never one of these.
pub(crate) enum Unshared {}

impl Unshared {
    /// Where its files are.
    pub(crate) fn folder(&self) -> PathBuf {
        match *self {}
    }

    /// How programs in it find names.
    pub(crate) fn dns(&self) -> Box<dyn Dns> {
        match *self {}
    }
}

/// # Errors
/// Always.
pub(crate) fn unshare() -> Result<Unshared> {
    bail!("macOS has no network namespaces")
}

/// # Errors
/// Always.
pub(crate) fn join(_process: u32) -> Result<()> {
    bail!("macOS has no network namespaces")
}

/// What to do instead of `kvpn run`.
#[expect(clippy::unnecessary_wraps, reason = "other systems may know none")]
pub(crate) fn remedy(_program: &Path) -> Option<String> {
    Some("`kvpn proxy` leads programs into the cluster without root, `kvpn connect` the whole machine".to_owned())
}
