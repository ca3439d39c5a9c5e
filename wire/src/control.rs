//! The control API's messages: HTTP/1.1 with JSON bodies, camelCase.
//!
//! `POST /v1/sessions` (through a port-forward) answers [`CreateSession`] with [`SessionGrant`]; it is
//! idempotent by public key and is also the renewal. Inside the tunnel `GET /v1/session` answers
//! [`SessionStatus`], `DELETE /v1/session` ends the session. Every failure carries an [`ErrorBody`]. Exposures have their paths
//! below it: see [`Expose`], [`ExposureList`] and [`REQUEST_EVENT`].
//!
//! # Safe changes
//!
//! Client and gateway may be one minor version apart, in either direction. Without a new [`VERSION`]:
//!
//! - add an optional field with a default that means "as before" (unknown fields are ignored);
//! - add a path or a method (an older gateway answers 404 or 405, the client must live with it);
//! - add a key to `SessionStatus::dropped`;
//! - add a name of server-sent events (a client skips those it does not know);
//! - widen what is accepted in a request.
//!
//! Never without a new [`VERSION`]: remove or rename a field, change a unit or a type, add a value to an
//! enum, make a field required, give an old field another meaning. A new version is first understood by one release
//! ([`SUPPORTED`] grows), then spoken by the next.
//!
//! This module must not know HTTP, only the bodies.

mod exposure;

pub use exposure::{
    ACTIVE_STATE, ALL_EXPOSURES_PATH, CONNECTION_EVENT, ConnectionEvent, Destination, EVENTS_PATH,
    EXPOSURES_PATH, Expose, Exposed, ExposedPort, ExposureConflict, ExposureList, ExposureStatus,
    LOST_EVENT, ListeningPort, LiveEvent, LostEvents, MAX_EXPOSED_PORTS, REQUEST_EVENT,
    RequestEvent, STATE_EVENT, StateEvent, UnusableExposure, exposure_path,
};

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::wireguard::{PresharedKey, PublicKey};

/// The version this build speaks.
pub const VERSION: u32 = 1;

/// The versions this build understands; a request outside is answered with 409.
pub const SUPPORTED: RangeInclusive<u32> = 1..=1;

/// Where sessions are created and renewed (`POST`).
pub const SESSIONS_PATH: &str = "/v1/sessions";

/// The caller's own session, inside the tunnel (`GET`, `DELETE`).
pub const SESSION_PATH: &str = "/v1/session";

/// Body of `POST /v1/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateSession {
    /// The control version the client speaks: see [`VERSION`].
    pub version: u32,
    /// The client's release, for logs and `kvpn status`.
    #[serde(default)]
    pub client_version: String,
    /// The session's identity: a fresh key for every session.
    pub public_key: PublicKey,
    /// Ranges in use on the laptop, from which no tunnel address may be taken.
    #[serde(default)]
    pub avoid: Vec<IpNetwork>,
    /// Client addresses of a former session, wanted again if they are free.
    #[serde(default)]
    pub prefer: Vec<IpAddr>,
    /// The user's name for the session; shown, never parsed.
    #[serde(default)]
    pub session_name: String,
    /// The client takes super-packets with a [trailer](crate::offload::trailer) on the `api` carrier.
    #[serde(default)]
    pub super_packets: bool,
}

/// Answer to `POST /v1/sessions`: all that the client needs to bring the tunnel up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionGrant {
    /// The control version the gateway speaks.
    pub version: u32,
    /// The gateway's release.
    #[serde(default)]
    pub gateway_version: String,
    /// Names the session in logs and metrics; not a secret.
    pub session_id: String,
    /// The gateway's WireGuard key; new with every start of the gateway.
    pub gateway_public_key: PublicKey,
    /// Mixed into the handshake; travels only inside the API server's TLS.
    pub preshared_key: PresharedKey,
    /// The session's tunnel addresses, one entry a family.
    pub addresses: Vec<TunnelAddresses>,
    /// Largest inner packet in bytes, unless [`SessionGrant::path_mtu`] allows more.
    pub mtu: u16,
    /// How the gateway reaches the cluster.
    pub datapath: Datapath,
    /// Why the datapath is not the one asked for, in words for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datapath_note: Option<String>,
    /// What the gateway's kernel does for the data path, in words: `TUN TSO+USO, UDP GSO+GRO`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offload: Option<String>,
    /// The pod's UDP port of the `udp` carrier.
    pub udp_port: u16,
    /// Addresses from outside at which the `udp` carrier may answer; candidates to probe.
    #[serde(default)]
    pub udp_endpoints: Vec<SocketAddr>,
    /// What the gateway sees of its cluster.
    #[serde(default)]
    pub cluster: ClusterFacts,
    /// What the session may use.
    #[serde(default)]
    pub limits: Limits,
    /// The gateway takes super-packets with a [trailer](crate::offload::trailer) on the `api` carrier, and sends them if the client does.
    #[serde(default)]
    pub super_packets: bool,
    /// The gateway knows [control frames](crate::frame::Control) on the `api` carrier's stream.
    #[serde(default)]
    pub stream_control: bool,
    /// The gateway answers probes of a path's MTU ([`crate::pmtud`]), keeps to what they report, and takes packets of up to
    /// [`crate::pmtud::MAX`] bytes. Without it [`SessionGrant::mtu`] holds on every path.
    #[serde(default)]
    pub path_mtu: bool,
}

/// One family's tunnel addresses of a session: +1, +2 and +3 of its block of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelAddresses {
    /// The gateway's end: control API and DNS relay.
    pub gateway: IpAddr,
    /// The laptop's end.
    pub client: IpAddr,
    /// The client's DNS stub: virtual, answered by the agent, never sent into the tunnel.
    pub dns_stub: IpAddr,
}

/// How the gateway reaches the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Datapath {
    /// The gateway's own TCP/IP and ordinary sockets; needs no privilege.
    Userspace,
    /// A TUN device and nftables masquerade; needs NET_ADMIN.
    Kernel,
}

impl fmt::Display for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Userspace => "userspace",
            Self::Kernel => "kernel",
        })
    }
}

/// What the gateway sees of its cluster from inside its pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterFacts {
    /// `KUBERNETES_SERVICE_HOST`: an address of the Service range.
    pub kubernetes_service: Vec<IpAddr>,
    /// The pod's own addresses: one of each pod range.
    pub pod_addresses: Vec<IpAddr>,
    /// Addresses of the nodes that the gateway was told about.
    pub node_addresses: Vec<IpAddr>,
    /// The pod's nameservers.
    pub nameservers: Vec<IpAddr>,
    /// The search list of the pod's resolv.conf, in order.
    pub search: Vec<String>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod_name: String,
    /// Whether the gateway can send ICMP echo requests.
    pub ping: bool,
}

/// What one session may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Flows at the same time.
    pub max_flows: u32,
    /// Seconds after which a session that was not renewed ends.
    pub lease_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_flows: 4096,
            lease_seconds: 900,
        }
    }
}

/// Answer to `GET /v1/session`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionStatus {
    /// As in [`SessionGrant::session_id`].
    pub session_id: String,
    /// The carrier the session was last heard on, in words: `api` or `udp ADDRESS:PORT`.
    pub path: String,
    /// Seconds since the session was created.
    pub uptime_seconds: u64,
    /// What the gateway's kernel does for the data path, in words: `TUN TSO+USO, UDP GSO+GRO`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offload: Option<String>,
    /// Bytes of inner packets sent to the client.
    pub sent_bytes: u64,
    /// Bytes of inner packets received from the client.
    pub received_bytes: u64,
    /// Flows open now.
    pub flows: u32,
    /// Packets dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// Body of every answer that is not a success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// What failed, on which object.
    pub error: String,
    /// What to check or do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[cfg(test)]
mod tests;
