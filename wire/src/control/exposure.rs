//! The control API's messages about exposures, all on the tunnel, about the caller's own session.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `PUT` [`exposure_path`] | [`Expose`] | 200 [`Exposed`]; again: changes what it says |
//! | `DELETE` [`exposure_path`] | - | 204; the gateway goes on proxying to the origin for 30 s |
//! | `GET` [`EXPOSURES_PATH`] | - | 200 [`ExposureList`], other sessions' too |
//! | `GET` [`EVENTS_PATH`] | - | 200 `text/event-stream`: named events, JSON in `data` |
//!
//! `PUT` fails with 400 ([`UnusableExposure`]), with 403 when the Service's annotation does not name the calling session, with 404
//! when there is no such Service, with 409 and [`ExposureConflict`] when another session has this traffic, with 429 when the
//! gateway has no port left, and with 503 when it cannot ask the API server.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::exposure::{Protocol, Traffic};

/// Below it each exposure, and by itself the list (`GET`).
pub const EXPOSURES_PATH: &str = "/v1/session/exposures";

/// All sessions' exposures, for those without one (`GET`, on 127.0.0.1 in the pod).
pub const ALL_EXPOSURES_PATH: &str = "/v1/exposures";

/// The server-sent events of the session's exposures (`GET`).
pub const EVENTS_PATH: &str = "/v1/session/events";

/// Ports that one exposure may have.
pub const MAX_EXPOSED_PORTS: usize = 64;

/// Where one Service's exposure is (`PUT`, `DELETE`). Both names are labels, so nothing needs escaping.
pub fn exposure_path(namespace: &str, service: &str) -> String {
    format!("{EXPOSURES_PATH}/{namespace}/{service}")
}

/// Body of `PUT /v1/session/exposures/NAMESPACE/SERVICE`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expose {
    /// Who it is, for others to read: `ana@laptop`. Shown, never parsed.
    #[serde(default)]
    pub owner: String,
    /// All ports of the Service, 1 to [`MAX_EXPOSED_PORTS`]; a port and protocol once. A Service's selector is swapped for all of
    /// its ports, so that the gateway has to serve those too which nobody exposes.
    pub ports: Vec<ExposedPort>,
    /// What goes to the laptop.
    #[serde(default)]
    pub traffic: Traffic,
    /// Name of the Service, in the same namespace and with the same ports, that leads to the origin; `None` when there is no origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Whether the origin answers when the laptop's program does not; without it callers get 502, or a reset.
    #[serde(default = "yes")]
    pub fallback: bool,
    /// Whether connections to the laptop begin with a PROXY protocol header, version 2.
    #[serde(default)]
    pub proxy_protocol: bool,
}

fn yes() -> bool {
    true
}

/// One port of the Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExposedPort {
    /// The Service's port.
    pub port: u16,
    /// Its name in the Service; empty when it has none.
    #[serde(default)]
    pub name: String,
    /// What is spoken.
    #[serde(default)]
    pub protocol: Protocol,
    /// Kubernetes' `appProtocol`, such as `kubernetes.io/h2c` or `https`; empty when the Service says nothing.
    #[serde(default)]
    pub app_protocol: String,
    /// The port of 127.0.0.1 on the laptop; `None`: this port is not exposed, all of it goes to the origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub laptop_port: Option<u16>,
    /// The port at the gateway to which the Service's traffic goes already (an exposure taken up again); the gateway chooses
    /// where it is `None`, and may not give another than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_port: Option<u16>,
}

/// Why an [`Expose`] cannot be done, whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableExposure {
    /// No port, or none that goes to the laptop.
    #[error("no port is exposed")]
    NoPorts,
    /// More than [`MAX_EXPOSED_PORTS`].
    #[error("{0} ports are exposed, and {MAX_EXPOSED_PORTS} at most can be")]
    TooManyPorts(usize),
    /// Port zero, of the Service or of the laptop.
    #[error("port 0 cannot be exposed")]
    PortZero,
    /// The same port and protocol twice.
    #[error("port {port}/{protocol} is exposed twice")]
    Twice {
        /// The Service's port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
    },
    /// Requests are matched, and the port has none.
    #[error(
        "port {0}/udp cannot be matched: UDP has no requests; expose it whole, or leave it out"
    )]
    UdpMatch(u16),
    /// A PROXY protocol header on datagrams.
    #[error("port {0}/udp cannot have the PROXY protocol: it is for connections")]
    UdpProxyProtocol(u16),
    /// Part of the traffic is chosen, and there is nowhere for the rest.
    #[error("only part of the traffic is chosen ({0}), and there is no origin for the rest")]
    NoOrigin(String),
}

impl Expose {
    /// Who it is, for people to read.
    pub fn owner_name(&self) -> &str {
        match self.owner.as_str() {
            "" => "somebody without a name",
            name => name,
        }
    }

    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// The first reason why it does not.
    pub fn check(&self) -> Result<(), UnusableExposure> {
        match self.ports.len() {
            0 => return Err(UnusableExposure::NoPorts),
            1..=MAX_EXPOSED_PORTS => {}
            many => return Err(UnusableExposure::TooManyPorts(many)),
        }
        if self.ports.iter().all(|port| port.laptop_port.is_none()) {
            return Err(UnusableExposure::NoPorts);
        }
        if self.origin.is_none() && self.traffic != Traffic::All {
            return Err(UnusableExposure::NoOrigin(self.traffic.to_string()));
        }
        for (index, port) in self.ports.iter().enumerate() {
            self.check_port(port)?;
            let before = &self.ports[..index];
            if before
                .iter()
                .any(|other| (other.port, other.protocol) == (port.port, port.protocol))
            {
                return Err(UnusableExposure::Twice {
                    port: port.port,
                    protocol: port.protocol,
                });
            }
        }
        Ok(())
    }

    fn check_port(&self, port: &ExposedPort) -> Result<(), UnusableExposure> {
        if port.port == 0 || port.laptop_port == Some(0) || port.gateway_port == Some(0) {
            return Err(UnusableExposure::PortZero);
        }
        let is_udp = port.protocol == Protocol::Udp;
        match port.laptop_port {
            None if self.origin.is_none() => Err(UnusableExposure::NoOrigin(format!(
                "not port {}/{}",
                port.port, port.protocol
            ))),
            Some(_) if is_udp && self.traffic.needs_requests() => {
                Err(UnusableExposure::UdpMatch(port.port))
            }
            Some(_) if is_udp && self.proxy_protocol => {
                Err(UnusableExposure::UdpProxyProtocol(port.port))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether two sessions may have these of one Service at once: each port is exposed by one of them at most, or no request can
    /// belong to both.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        let exposed = |expose: &Self, port: &ExposedPort| {
            expose.ports.iter().any(|own| {
                own.laptop_port.is_some() && (own.port, own.protocol) == (port.port, port.protocol)
            })
        };
        let shares_port = self
            .ports
            .iter()
            .any(|port| exposed(self, port) && exposed(other, port));
        !shares_port || self.traffic.is_disjoint(&other.traffic)
    }
}

/// Answer to `PUT`: where the gateway listens now, which is what the Service's selector and target ports have to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exposed {
    /// The gateway pod's name.
    pub pod_name: String,
    /// The gateway pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// One for each port of the request, in its order.
    pub ports: Vec<ListeningPort>,
}

/// A port at which the gateway listens for a Service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListeningPort {
    /// The Service's port.
    pub port: u16,
    /// What is spoken.
    #[serde(default)]
    pub protocol: Protocol,
    /// The gateway pod's port.
    pub gateway_port: u16,
}

/// Body of a 409: an [`ErrorBody`](super::ErrorBody) with whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExposureConflict {
    /// What failed, on which object.
    pub error: String,
    /// What to check or do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Who has the traffic: see [`Expose::owner`].
    #[serde(default)]
    pub owner: String,
}

/// Answer to `GET /v1/session/exposures`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExposureList {
    /// One for each owner of each Service, sorted by namespace, Service and owner.
    pub exposures: Vec<ExposureStatus>,
}

/// The [state](ExposureStatus::state) in which the laptop gets its traffic.
pub const ACTIVE_STATE: &str = "active";

/// How an exposure does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExposureStatus {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// Who has it: see [`Expose::owner`].
    pub owner: String,
    /// Whether that is the calling session.
    pub mine: bool,
    /// What goes to the laptop.
    pub traffic: Traffic,
    /// Its ports.
    pub ports: Vec<ExposedPort>,
    /// In words what is happening: [`ACTIVE_STATE`], `origin: the laptop is silent`, `ending`. Empty is `active`.
    pub state: String,
    /// Seconds since it was made.
    pub age_seconds: u64,
    /// Connections open now, to the laptop and to the origin.
    pub connections: u32,
    /// Requests, or connections where requests cannot be told apart, that went to the laptop.
    pub to_laptop: u64,
    /// The same that went to the origin.
    pub to_origin: u64,
    /// Of those meant for the laptop, how many the origin answered because the laptop did not.
    pub fallbacks: u64,
    /// Requests and connections that nobody answered.
    pub errors: u64,
    /// Bytes from callers.
    pub received_bytes: u64,
    /// Bytes to callers.
    pub sent_bytes: u64,
}

impl ExposureStatus {
    /// Whether the laptop gets its traffic.
    pub fn is_active(&self) -> bool {
        matches!(self.state.as_str(), "" | ACTIVE_STATE)
    }
}

/// Name of the server-sent event whose data is a [`RequestEvent`].
pub const REQUEST_EVENT: &str = "request";

/// Name of the server-sent event whose data is a [`ConnectionEvent`].
pub const CONNECTION_EVENT: &str = "connection";

/// Name of the server-sent event whose data is a [`StateEvent`].
pub const STATE_EVENT: &str = "state";

/// Name of the server-sent event whose data is [`LostEvents`].
pub const LOST_EVENT: &str = "lost";

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Destination {
    /// The program on the laptop.
    Laptop,
    /// The origin.
    Origin,
}

/// One HTTP request, told when its answer has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestEvent {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// The method.
    pub method: String,
    /// The path, without the query (which may hold secrets), cut at 1,024 characters.
    pub path: String,
    /// The answer's status; `None` when there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Milliseconds from the request's head to the answer's end.
    pub millis: f64,
    /// Who answered.
    pub to: Destination,
    /// It was for the laptop, which did not answer.
    #[serde(default)]
    pub fallback: bool,
    /// The laptop got a copy.
    #[serde(default)]
    pub mirrored: bool,
    /// What went wrong, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One connection (or UDP flow) whose requests cannot be told apart, told when it has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionEvent {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// What was spoken.
    #[serde(default)]
    pub protocol: Protocol,
    /// The caller's address, as the gateway sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<IpAddr>,
    /// Bytes from the caller.
    #[serde(default)]
    pub received_bytes: u64,
    /// Bytes to the caller.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Milliseconds that it was open.
    pub millis: f64,
    /// Who answered.
    pub to: Destination,
    /// It was for the laptop, which did not answer.
    #[serde(default)]
    pub fallback: bool,
    /// Why it could not be matched, or what went wrong, in words: `TLS`, `no HTTP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// An exposure's state changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateEvent {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// As in [`ExposureStatus::state`].
    pub state: String,
}

/// Events that were not told, because the client reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LostEvents {
    /// How many.
    pub events: u64,
}

/// What happened at an exposure. Each server-sent event has the data of one variant, and its name.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum LiveEvent {
    /// [`REQUEST_EVENT`]
    Request(RequestEvent),
    /// [`CONNECTION_EVENT`]
    Connection(ConnectionEvent),
    /// [`STATE_EVENT`]
    State(StateEvent),
    /// [`LOST_EVENT`]
    Lost(LostEvents),
}

#[cfg(test)]
mod tests;
