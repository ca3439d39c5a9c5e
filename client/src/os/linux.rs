//! Linux: `/dev/net/tun`, netlink, systemd-resolved, openresolv or `/etc/resolv.conf`.
//!
//! Must not hold a change itself: only picks among the backends and names what they share.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};

use super::{Dns, durable};
use crate::helper::protocol::DnsBackend;

mod inotify;
pub(crate) mod login;
mod openresolv;
mod process;
mod resolv_conf;
mod resolved;
mod routes;
pub(crate) mod service;
mod tun;
mod unshare;
mod watch;

pub(crate) use durable::{forget, is_unfinished, keep, remove};
pub(crate) use process::{Process, end_with_parent, network_namespace};
pub(crate) use routes::Netlink as SystemRoutes;
pub(crate) use tun::LinuxTun as SystemTun;
pub(crate) use unshare::{Unshared, join, remedy, unshare};
pub(crate) use watch::{Changes, time_asleep};

/// Where a helper of root's keeps what undoes it. On a disk that survives a power cut, because `/etc/resolv.conf` does too.
const STATE_FOLDER: &str = "/var/lib/kvpn";
/// Where the installed helper does that is not root: the other folder is not its to read.
const SERVICE_STATE_FOLDER: &str = "/var/lib/kvpn-helper";
/// What a TUN is to who moves its packets.
pub(crate) type TunHandle = std::os::fd::OwnedFd;

/// Where the user sees why names do not resolve as they should.
pub(crate) const NAMES_HINT: &str =
    "look at the `hosts:` line of /etc/nsswitch.conf and at /etc/resolv.conf";

/// What the names of TUN interfaces start with.
pub(crate) const INTERFACE: &str = "kvpn";

const RESOLV_CONF: &str = "/etc/resolv.conf";
const NSSWITCH_CONF: &str = "/etc/nsswitch.conf";
/// systemd-resolved's list of the servers it asks itself.
const RESOLVED_UPSTREAMS: &str = "/run/systemd/resolve/resolv.conf";

/// What undoes a DNS change after a crash. systemd-resolved needs nothing: its settings go with the interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum DnsUndo {
    /// The file before kvpn wrote it.
    ResolvConf(resolv_conf::Saved),
    /// The name of kvpn's record in openresolv.
    Openresolv(String),
}

impl DnsUndo {
    /// Undoes, as far as nobody else changed it since. Returns what the user should know.
    pub(crate) fn undo(&self) -> Result<Vec<String>> {
        match self {
            Self::ResolvConf(saved) => saved.restore(),
            Self::Openresolv(record) => openresolv::remove(record).map(|()| Vec::new()),
        }
    }
}

/// What the administrator allows the helper; root's, and readable by everybody.
pub(crate) fn exceptions_file() -> PathBuf {
    PathBuf::from("/etc/kvpn/helper.toml")
}

/// Where this helper keeps what undoes it.
pub(crate) fn state_folder() -> PathBuf {
    PathBuf::from(if geteuid().is_root() {
        STATE_FOLDER
    } else {
        SERVICE_STATE_FOLDER
    })
}

/// Whether this process may change the machine's network.
pub(crate) fn may_administer() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

/// Picks how names are split, for the interface with this index. `session` names what is kept for a crash.
///
/// systemd-resolved where programs ask it; openresolv where the file is its work; else the file itself, whoever writes it
/// (NetworkManager with its dnsmasq or without, Debian's resolvconf, DHCP clients, WSL, a container's runtime): it is
/// watched, and what they write is followed.
///
/// # Errors
/// The asked one is not there, or another session holds `/etc/resolv.conf`.
pub(crate) async fn open_dns(
    choice: DnsBackend,
    link: u32,
    state: &Path,
    session: &str,
) -> Result<Box<dyn Dns>> {
    let resolved = match choice {
        DnsBackend::ResolvConf => None,
        DnsBackend::Resolved => Some(resolved::Resolved::connect(link).await.context(
            "systemd-resolved was asked for, but does not answer on the system's D-Bus",
        )?),
        DnsBackend::Auto if resolved_is_used() => resolved::Resolved::connect(link).await.ok(),
        DnsBackend::Auto => None,
    };
    if let Some(resolved) = resolved {
        return Ok(Box::new(resolved));
    }
    if choice == DnsBackend::Auto
        && let Some(openresolv) = openresolv::Openresolv::find(link)?
    {
        return Ok(Box::new(openresolv));
    }
    Ok(Box::new(resolv_conf::ResolvConf::open(
        PathBuf::from(RESOLV_CONF),
        state,
        session,
    )?))
}

/// How names would be split if nobody chose: the backend's name in `kvpn status`. Changes nothing.
pub(crate) fn likely_dns_backend() -> &'static str {
    if resolved_is_used() {
        "systemd-resolved"
    } else if openresolv::wrote(&std::fs::read(RESOLV_CONF).unwrap_or_default()) {
        "openresolv"
    } else {
        "resolv.conf"
    }
}

/// Whether programs ask systemd-resolved: through its stub, or through glibc's `resolve` module.
fn resolved_is_used() -> bool {
    let servers = resolv_conf::nameservers(&std::fs::read(RESOLV_CONF).unwrap_or_default());
    let by_stub = !servers.is_empty()
        && servers
            .iter()
            .all(|server| resolved::STUBS.contains(&server.ip()));
    by_stub || resolve_module_first(&std::fs::read_to_string(NSSWITCH_CONF).unwrap_or_default())
}

/// Whether `hosts:` of nsswitch.conf names `resolve` before `dns`.
fn resolve_module_first(nsswitch: &str) -> bool {
    let hosts = nsswitch
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("hosts:"));
    let first = hosts.and_then(|hosts| {
        hosts
            .split_whitespace()
            .find(|&word| word == "resolve" || word == "dns")
    });
    first == Some("resolve")
}

/// Addresses of the servers that the machine's resolver asks, those on the machine itself left out.
pub(crate) fn resolver_addresses() -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for file in [RESOLV_CONF, RESOLVED_UPSTREAMS] {
        let content = std::fs::read(file).unwrap_or_default();
        addresses.extend(
            resolv_conf::nameservers(&content)
                .iter()
                .map(|server| server.ip()),
        );
    }
    addresses.retain(|address| !address.is_loopback());
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// What glibc is told to ask (nsswitch.conf(5)), if there is such a file.
pub(crate) fn name_services() -> Option<String> {
    std::fs::read_to_string(NSSWITCH_CONF).ok()
}

/// An interface's MTU, in bytes of an IP packet.
pub(crate) fn mtu(interface: &str) -> Option<usize> {
    let file = Path::new("/sys/class/net").join(interface).join("mtu");
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// What a crash left of DNS settings, as far as anyone can see it: text for the user.
pub(crate) fn visible_leftovers() -> Option<String> {
    resolv_conf::orphaned(Path::new(RESOLV_CONF)).or_else(openresolv::orphaned)
}

#[cfg(test)]
mod tests {
    use super::resolve_module_first;

    #[test]
    fn glibc_asks_resolved_when_its_module_stands_first() {
        assert!(resolve_module_first(
            "passwd: files\nhosts: files resolve [!UNAVAIL=return] dns\n"
        ));
        assert!(!resolve_module_first("hosts: files dns resolve\n"));
        assert!(!resolve_module_first(
            "hosts:\tfiles mdns4_minimal [NOTFOUND=return] dns\n"
        ));
        assert!(!resolve_module_first("# hosts: resolve\npasswd: resolve\n"));
    }
}
