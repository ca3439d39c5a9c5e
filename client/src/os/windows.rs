//! Windows: wintun, the IP Helper API, the Name Resolution Policy Table.
//!
//! Type-checked on Linux, and what needs no driver is tried under wine; nobody has run the rest. Must not hold a change itself:
//! only names what the rest needs.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use super::{Dns, DnsConfig, Record, durable};
use crate::helper::protocol::DnsBackend;

mod ip_helper;
pub(crate) mod login;
mod nrpt;
pub(crate) mod process;
mod routes;
mod rule;
pub(crate) mod security;
mod tun;
mod watch;

pub(crate) use durable::{forget, is_unfinished, keep, remove};
pub(crate) use process::{Process, network_namespace};
pub(crate) use routes::SystemRoutes;
pub(crate) use security::is_elevated as may_administer;
pub(crate) use tun::{TunHandle, Wintun as SystemTun, find_driver};
pub(crate) use watch::{Changes, time_asleep};

/// Where the user sees why names do not resolve as they should.
pub(crate) const NAMES_HINT: &str = "look at `Get-DnsClientNrptPolicy` in PowerShell";

/// What the names of TUN interfaces start with.
pub(crate) const INTERFACE: &str = "kvpn";

/// The backend's name in `kvpn status`.
const NRPT: &str = "NRPT";
const DNS_PORT: u16 = 53;

/// What undoes a DNS change after a crash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum DnsUndo {
    /// Rules of the Name Resolution Policy Table, and an interface's search list.
    Nrpt(nrpt::Traces),
}

impl DnsUndo {
    /// Undoes, as far as nobody else changed it since. Returns what the user should know.
    pub(crate) fn undo(&self) -> Result<Vec<String>> {
        let Self::Nrpt(traces) = self;
        traces.remove(nrpt::MACHINE)?;
        security::refresh_names();
        Ok(Vec::new())
    }
}

/// The machine's folder of kvpn, closed to users.
fn folder() -> PathBuf {
    security::program_data().join("kvpn")
}

/// What the administrator allows the helper.
pub(crate) fn exceptions_file() -> PathBuf {
    folder().join("helper.toml")
}

/// Where the helper keeps what undoes it.
pub(crate) fn state_folder() -> PathBuf {
    folder()
}

/// How names are split; the Name Resolution Policy Table is the only way. `session` marks its rules.
///
/// # Errors
/// Another way was asked for, or the interface is gone.
#[expect(clippy::unused_async, reason = "other systems have to ask somebody")]
pub(crate) async fn open_dns(
    choice: DnsBackend,
    link: u32,
    _state: &Path,
    session: &str,
) -> Result<Box<dyn Dns>> {
    if choice != DnsBackend::Auto {
        bail!("Windows splits names by the Name Resolution Policy Table alone");
    }
    Ok(Box::new(Nrpt {
        rules: nrpt::Rules::new(nrpt::Traces {
            session: session.to_owned(),
            interface: routes::interface_guid(link)?,
        }),
        upstreams: upstreams(),
    }))
}

/// The backend's name in `kvpn status`.
pub(crate) fn likely_dns_backend() -> &'static str {
    NRPT
}

/// Addresses of the servers that the machine's resolver asks, those on the machine itself left out.
pub(crate) fn resolver_addresses() -> Vec<IpAddr> {
    routes::nameservers().unwrap_or_else(|error| {
        tracing::debug!(%error, "the machine's DNS servers cannot be listed");
        Vec::new()
    })
}

fn upstreams() -> Vec<SocketAddr> {
    let servers = resolver_addresses().into_iter();
    servers.map(|it| SocketAddr::new(it, DNS_PORT)).collect()
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
    let session = nrpt::orphaned(nrpt::MACHINE, Process::session_is_alive)?;
    Some(format!(
        "rules for names (NRPT) of a session that was killed are left ({session})"
    ))
}

/// Names by rules of the Name Resolution Policy Table.
struct Nrpt {
    rules: nrpt::Rules,
    upstreams: Vec<SocketAddr>,
}

impl Dns for Nrpt {
    fn backend(&self) -> &'static str {
        NRPT
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
            (record.0)(&DnsUndo::Nrpt(self.rules.traces().clone()))?;
            self.rules.write(nrpt::MACHINE, dns)?;
            security::refresh_names();
            Ok(Vec::new())
        }
        .boxed_local()
    }

    fn revert(&mut self) -> LocalBoxFuture<'_, Result<Vec<String>>> {
        async { DnsUndo::Nrpt(self.rules.traces().clone()).undo() }.boxed_local()
    }
}

/// `kvpn run` gives a program a network of its own, which Windows has not: there is never one of these.
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
