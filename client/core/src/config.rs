//! What the shell decides before a session starts. Plain values; nothing here reads the environment.

use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use kvpn_wire::control::SessionGrant;
use kvpn_wire::wireguard::PrivateKey;

use crate::netmap::Netmap;

/// Everything a [`ClientState`](crate::ClientState) has to know at the start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The session's own key, made for this session only.
    pub private_key: PrivateKey,
    /// What the gateway granted for [`Config::private_key`].
    pub grant: SessionGrant,
    /// Random 24-bit prefix of this end's WireGuard session indices.
    pub index: u32,
    /// The source of every random choice of this session (ports, identifiers, jitter).
    pub seed: u64,
    /// Which carriers may be used.
    pub carrier: CarrierChoice,
    /// Addresses at which the gateway may answer UDP, best first; ignored with [`CarrierChoice::Api`].
    pub udp_candidates: Vec<SocketAddr>,
    /// The cluster's names.
    pub names: Names,
    /// What is routed into the tunnel as a range (host routes come on top).
    pub ranges: Vec<IpNetwork>,
    /// Which of the cluster's ranges appear to programs in another one; [`Config::ranges`] has those then.
    pub netmap: Netmap,
    /// `true`: the system asks the stub only for cluster names, so others are refused;
    /// `false`: the stub is the system's only resolver, so others are forwarded to its former ones.
    pub split_dns: bool,
    /// Whether a private address outside [`Config::ranges`] gets a host route before it is answered.
    pub host_routes: bool,
}

/// Which carriers a session may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CarrierChoice {
    /// `api` first, `udp` as soon as a candidate answers, `api` again when that goes quiet.
    #[default]
    Auto,
    /// UDP only.
    Udp,
    /// The stream through the API server only.
    Api,
}

impl CarrierChoice {
    pub(crate) fn api(self) -> bool {
        self != Self::Udp
    }

    pub(crate) fn udp(self) -> bool {
        self != Self::Api
    }
}

/// Which names belong to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The connected namespace: a single label is a Service in it.
    pub namespace: String,
    /// The cluster domain without dots at its ends, e.g. `cluster.local`.
    pub domain: String,
    /// Known namespaces, the connected one among them.
    pub namespaces: Vec<String>,
    /// A domain below which every name of this cluster, in all its forms, can be had whatever other sessions there are, without
    /// dots at its ends; none for a session that one program has for itself.
    pub own_domain: Option<String>,
    /// Ranges whose reverse names the cluster answers, virtual ones in place of those that they stand for.
    pub reverse: Vec<IpNetwork>,
}
