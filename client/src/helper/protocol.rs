//! What agent and helper say to each other: JSON lines over one Unix stream socket, the TUN's descriptor beside them.
//!
//! Both ends are one program of one version, so there is no negotiation: a differing [`VERSION`] is an error.
//! Must not hold behaviour: sizes and types only. What a value may be is [`super::validate`]'s to say.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use kvpn_io::tun::TunOffload;
use serde::{Deserialize, Serialize};

pub(crate) use crate::os::DnsConfig;

/// The version both ends must have.
pub(crate) const VERSION: u32 = 2;
/// Longest line either end accepts, in bytes. Some 10,000 routes fit.
pub(crate) const MAX_LINE: usize = 256 * 1024;
/// Most routes one session may have at a time.
pub(crate) const MAX_ROUTES: usize = 8192;
/// Most domains (search and routing together) one session may have.
pub(crate) const MAX_DOMAINS: usize = 1024;

/// Everything a session changes on the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkConfig {
    /// The interface's name; `None` takes the first free of `kvpn0`, `kvpn1`…
    pub(crate) name: Option<String>,
    /// The client's tunnel addresses, each with the prefix of its block (`198.19.0.2/30`), so that the gateway's
    /// and the DNS stub's address are on the link too.
    pub(crate) addresses: Vec<IpNetwork>,
    /// Bytes of an IP packet; 1280 to 65535.
    pub(crate) mtu: u16,
    /// Ranges that go into the tunnel.
    pub(crate) routes: Vec<IpNetwork>,
    /// Which names go to which server; `None` leaves the machine's DNS alone.
    pub(crate) dns: Option<DnsConfig>,
    /// How names are split.
    #[serde(default)]
    pub(crate) dns_backend: DnsBackend,
    /// Whether the agent takes packets that the kernel joined, with virtio-net headers.
    #[serde(default)]
    pub(crate) offload: bool,
}

/// Which of the machine's DNS mechanisms is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DnsBackend {
    /// systemd-resolved when it runs and programs use it, else the plain file.
    #[default]
    Auto,
    /// systemd-resolved over D-Bus.
    Resolved,
    /// `/etc/resolv.conf` itself.
    ResolvConf,
}

/// A request or an answer with the number that pairs them; what the helper says unasked has number 0.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Numbered<T> {
    /// Chosen by the agent, from 1 upwards.
    pub(crate) id: u64,
    /// What is said.
    #[serde(flatten)]
    pub(crate) body: T,
}

/// What the agent asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase")]
pub(crate) enum Request {
    /// Open the TUN and set everything up. Once a connection.
    Configure(NetworkConfig),
    /// Further ranges.
    AddRoutes {
        /// Ranges; those already there are left.
        routes: Vec<IpNetwork>,
    },
    /// Ranges that no longer go into the tunnel.
    RemoveRoutes {
        /// Ranges; those not there are left.
        routes: Vec<IpNetwork>,
    },
    /// Replaces the client's tunnel addresses, as in `configure`: a new gateway gave others.
    SetAddresses {
        /// All of them, each with the prefix of its block.
        addresses: Vec<IpNetwork>,
    },
    /// Replaces the names given before; without any before, they are set as by `configure`.
    SetDns(DnsConfig),
    /// Undo everything and end.
    Release,
}

/// What the helper answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub(crate) enum Answer {
    /// Sent unasked when the helper is ready.
    Hello(Hello),
    /// To `configure`; the TUN's descriptor travels beside it.
    Configured(Settled),
    /// To everything else.
    Done {
        /// What of the request was refused, and why, one text each.
        refused: Vec<String>,
        /// What the user should know, one text each.
        notes: Vec<String>,
        /// The session has names from now on: how, as in [`Settled`].
        #[serde(default, rename = "dnsBackend")]
        dns_backend: Option<String>,
    },
    /// Sent unasked, with number 0, when something else than a request changed the session's network.
    News(News),
    /// The request failed and changed nothing.
    Failed {
        /// What failed, on what, what to check.
        error: String,
        /// Whether another session has what only one can have.
        taken: bool,
    },
}

/// The helper's greeting.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// [`VERSION`] of the helper.
    pub(crate) version: u32,
    /// The helper's process id.
    pub(crate) pid: u32,
    /// What an earlier helper had left and this one put right, one text each.
    pub(crate) undone: Vec<String>,
}

/// What became of the session's network without a request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct News {
    /// Where the machine's own resolver would ask now, as in [`Settled`].
    pub(crate) upstreams: Vec<SocketAddr>,
    /// Whether the session's names had to be set again.
    #[serde(default)]
    pub(crate) again: bool,
    /// How many routes had to be set again.
    #[serde(default)]
    pub(crate) routes_again: usize,
    /// Why the session cannot go on.
    #[serde(default)]
    pub(crate) lost: Option<String>,
    /// What the user should know, one text each.
    pub(crate) notes: Vec<String>,
}

/// What `configure` led to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settled {
    /// The interface's name.
    pub(crate) name: String,
    /// How packets stand in the TUN's reads and writes.
    #[serde(default)]
    pub(crate) offload: TunOffload,
    /// `systemd-resolved`, `openresolv`, `resolv.conf` or `none`.
    pub(crate) dns_backend: String,
    /// Where the machine's own resolver would have asked: for names that are not the cluster's.
    pub(crate) upstreams: Vec<SocketAddr>,
    /// Whether only the cluster's names reach the stub.
    pub(crate) split: bool,
    /// Routes and domains that were refused, and why, one text each.
    pub(crate) refused: Vec<String>,
    /// Overlaps and the like, one text each.
    pub(crate) notes: Vec<String>,
}
