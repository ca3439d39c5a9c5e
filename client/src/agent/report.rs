//! What `kvpn status -o json` says about a session. Fields are added, never renamed or removed: scripts read them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use kvpn_wire::control::ExposedPort;
use kvpn_wire::exposure::Traffic;
use serde::{Deserialize, Serialize};

use crate::agent::places::SessionName;

/// A session as its agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionReport {
    /// What the session is called.
    pub(crate) name: SessionName,
    /// How it is.
    pub(crate) state: State,
    /// Why it is not connected, in words.
    #[serde(default)]
    pub(crate) trouble: Option<String>,
    /// The kubeconfig's context.
    pub(crate) context: String,
    /// The connected namespace.
    pub(crate) namespace: String,
    /// The API server's URL.
    pub(crate) server: String,
    /// The agent's process.
    pub(crate) pid: u32,
    /// Where the agent logs.
    pub(crate) log: PathBuf,
    /// Seconds since the session was first connected.
    #[serde(default)]
    pub(crate) connected_seconds: Option<u64>,
    /// The other end.
    #[serde(default)]
    pub(crate) gateway: Option<GatewayReport>,
    /// The carrier in use: `api`, or `udp ADDRESS:PORT`.
    #[serde(default)]
    pub(crate) carrier: Option<String>,
    /// Every carrier that is known.
    #[serde(default)]
    pub(crate) carriers: Vec<CarrierReport>,
    /// What this machine's kernel does for the data path.
    #[serde(default)]
    pub(crate) offload: Option<OffloadReport>,
    /// What was changed on this machine.
    #[serde(default)]
    pub(crate) network: Option<NetworkReport>,
    /// What it exposes, if that is what it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exposure: Option<ExposureReport>,
    /// Figures.
    #[serde(default)]
    pub(crate) traffic: TrafficReport,
    /// What the user should know: overlaps, rights that are missing, what was left out.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

/// How a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// On the way to the first connection.
    Connecting,
    /// Traffic and names work.
    Connected,
    /// It was connected, and is finding its way back.
    Recovering,
    /// On the way out.
    Ending,
    /// The agent died and left its files (and perhaps settings: `kvpn disconnect` undoes them).
    Dead,
}

impl State {
    /// The word that users see, the same as in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Recovering => "recovering",
            Self::Ending => "ending",
            Self::Dead => "dead",
        }
    }
}

/// The gateway of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayReport {
    /// The pod's namespace.
    pub(crate) namespace: String,
    /// The pod's name.
    pub(crate) pod: String,
    /// Its image.
    pub(crate) image: String,
    /// Its version, as it says itself.
    pub(crate) version: String,
    /// `userspace` or `kernel`.
    pub(crate) datapath: String,
    /// Why it is not the one that was asked for.
    #[serde(default)]
    pub(crate) datapath_note: Option<String>,
    /// What its kernel does for the data path, in its words.
    #[serde(default)]
    pub(crate) offload: Option<String>,
    /// What the gateway calls this session in its logs.
    pub(crate) session_id: String,
}

/// A carrier and how it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CarrierReport {
    /// `api`, or `udp ADDRESS:PORT`.
    pub(crate) carrier: String,
    /// `closed`, `untried`, `answering` or `silent`.
    pub(crate) state: String,
    /// Round trip of its last probes, in milliseconds.
    #[serde(default)]
    pub(crate) rtt_millis: Option<f64>,
}

/// What the kernel does for the data path: work on several packets at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OffloadReport {
    /// `TSO+USO`, `TSO` or `none`.
    pub(crate) tun: String,
    /// `GSO+GRO`, `GSO`, `GRO` or `none`; nothing without UDP.
    #[serde(default)]
    pub(crate) udp: Option<String>,
}

/// What was changed on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkReport {
    /// The TUN interface.
    pub(crate) interface: String,
    /// This machine's addresses in the tunnel.
    pub(crate) addresses: Vec<IpAddr>,
    /// Ranges that go into the tunnel.
    pub(crate) routes: Vec<IpNetwork>,
    /// Single addresses that go into the tunnel because a name had them.
    pub(crate) host_routes: Vec<IpAddr>,
    /// How names are split: `systemd-resolved`, `resolv.conf`, or `resolv.conf of session NAME`, which passes them on.
    pub(crate) dns_backend: String,
    /// Where the cluster's names are asked: the agent's own stub.
    pub(crate) dns_servers: Vec<IpAddr>,
    /// The cluster's domain.
    pub(crate) domain: String,
    /// Domains that short names are tried in.
    pub(crate) search: Vec<String>,
    /// Domains that go to the stub.
    pub(crate) routing_domains: Vec<String>,
    /// A domain below which all names of this cluster are, whatever other sessions there are.
    #[serde(default)]
    pub(crate) own_domain: Option<String>,
    /// Ranges of the cluster that programs see in others, because another session has them.
    #[serde(default)]
    pub(crate) virtual_ranges: Vec<VirtualRange>,
    /// What of the cluster's ranges stays with other interfaces of this machine.
    #[serde(default)]
    pub(crate) overlaps: Vec<OverlapReport>,
}

/// A range of the cluster, and where programs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VirtualRange {
    /// What the cluster has.
    pub(crate) range: IpNetwork,
    /// What is routed instead.
    pub(crate) appears_as: IpNetwork,
}

/// A part of a cluster's range that something else on this machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OverlapReport {
    /// The cluster's range.
    pub(crate) range: IpNetwork,
    /// The subnet, or the range of another VPN's route.
    pub(crate) with: IpNetwork,
    /// The interface that leads there.
    pub(crate) interface: String,
}

/// What a session exposes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExposureReport {
    /// The Service, in the session's namespace.
    pub(crate) service: String,
    /// Whether the Service is somebody's, whose pods it leads to otherwise.
    pub(crate) takeover: bool,
    /// All ports of the Service.
    pub(crate) ports: Vec<ExposedPort>,
    /// What goes to this machine.
    pub(crate) traffic: Traffic,
    /// The fingerprint of the session's key, by which the Service's annotation names it.
    pub(crate) session: String,
}

/// Figures of a session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TrafficReport {
    /// Bytes of WireGuard datagrams sent.
    pub(crate) sent_bytes: u64,
    /// Bytes of WireGuard datagrams received.
    pub(crate) received_bytes: u64,
    /// Flows open or recently idle.
    pub(crate) flows: usize,
    /// Round trip to the gateway, in milliseconds.
    pub(crate) rtt_millis: Option<f64>,
    /// The longest packet that the carrier in use takes, in bytes.
    pub(crate) mtu: Option<usize>,
    /// Seconds since the last WireGuard handshake.
    pub(crate) handshake_seconds: Option<u64>,
    /// Packets dropped, by reason.
    pub(crate) dropped: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written down once: scripts of users read these names.
    const DOCUMENT: &str = r#"{
        "name": "dev.shop", "state": "connected", "context": "dev", "namespace": "shop",
        "server": "https://127.0.0.1:6443", "pid": 7, "log": "/tmp/x.log", "connectedSeconds": 61,
        "gateway": {"namespace": "shop", "pod": "kvpn-gateway-0", "image": "kvpn/gateway:0.1.0",
                    "version": "0.1.0", "datapath": "userspace", "sessionId": "s1"},
        "carrier": "api", "carriers": [{"carrier": "api", "state": "answering", "rttMillis": 0.2}],
        "offload": {"tun": "TSO+USO", "udp": "GSO+GRO"},
        "network": {"interface": "kvpn0", "addresses": ["198.19.0.2"], "routes": ["10.96.0.0/16"], "hostRoutes": [],
                    "dnsBackend": "resolv.conf", "dnsServers": ["198.19.0.3"], "domain": "cluster.local",
                    "search": ["shop.svc.cluster.local"], "routingDomains": ["cluster.local"], "ownDomain": "dev-shop.kvpn.internal",
                    "virtualRanges": [{"range": "10.96.0.0/16", "appearsAs": "100.64.0.0/16"}],
                    "overlaps": [{"range": "10.244.0.0/16", "with": "10.244.3.0/24", "interface": "tun0"}]},
        "traffic": {"sentBytes": 1, "receivedBytes": 2, "flows": 3, "rttMillis": 0.2, "mtu": 1440, "handshakeSeconds": 4, "dropped": {"full": 1}},
        "notes": []
    }"#;

    #[test]
    fn the_document_keeps_its_fields() {
        let report: SessionReport = serde_json::from_str(DOCUMENT).unwrap();
        let written = serde_json::to_value(&report).unwrap();
        let expected: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        for (key, value) in expected.as_object().unwrap() {
            if key != "gateway" {
                assert_eq!(&written[key], value, "{key}");
            }
        }
        assert_eq!(written["gateway"]["sessionId"], "s1");
    }

    #[test]
    fn a_report_of_an_older_agent_is_understood() {
        let text = r#"{"name":"a","state":"recovering","context":"c","namespace":"n","server":"s","pid":1,"log":"/l"}"#;
        let report: SessionReport = serde_json::from_str(text).unwrap();
        assert_eq!(report.state, State::Recovering);
        assert_eq!(
            serde_json::to_value(State::Recovering).unwrap(),
            State::Recovering.as_str()
        );
    }
}
