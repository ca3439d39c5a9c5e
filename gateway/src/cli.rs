//! The gateway's flags and environment: the one door by which configuration comes in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, ValueEnum};
use ipnetwork::IpNetwork;
use kvpn_gateway_core::MAX_SHARDS;
use kvpn_wire::{API_CARRIER_PORT, CONTROL_PORT, HEALTH_PORT, WIREGUARD_PORT};

/// The kvpn gateway: WireGuard in, cluster out. It runs in a pod; `kvpn gateway install` puts it there.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub struct Options {
    /// How to reach the cluster; `auto` takes the kernel if it may.
    #[arg(long, env = "KVPN_DATAPATH", value_enum, default_value_t = DatapathChoice::Auto)]
    pub datapath: DatapathChoice,
    /// Whether the kernel hands over and takes several packets at once.
    #[arg(long, env = "KVPN_OFFLOAD", value_enum, default_value_t = Offload::Auto)]
    pub offload: Offload,
    /// Where to listen.
    #[command(flatten)]
    pub listen: Listen,
    /// What may be reached.
    #[command(flatten)]
    pub policy: PolicyOptions,
    /// What may be used.
    #[command(flatten)]
    pub bounds: Bounds,
    /// What is known of the pod.
    #[command(flatten)]
    pub pod: PodOptions,
    /// What to log: a level, or directives of tracing's `EnvFilter`.
    #[arg(long, env = "KVPN_LOG", default_value = "info")]
    pub log: String,
    /// How to log.
    #[arg(long, env = "KVPN_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How the gateway is to reach the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DatapathChoice {
    /// The kernel if that is possible, else userspace.
    Auto,
    /// TCP/IP of the gateway's own and ordinary sockets; needs no privilege.
    Userspace,
    /// TUN and nftables; userspace, with a note to the clients, if that is not possible.
    Kernel,
}

/// Whether segmentation is left to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Offload {
    /// As far as the kernel can.
    Auto,
    /// One packet at a time: slower; for drivers and networks that break on the other.
    Off,
}

impl Offload {
    /// Whether it is used where it is possible.
    pub fn is_on(self) -> bool {
        self == Self::Auto
    }
}

/// How to write logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where the gateway listens. Control and the `api` carrier must stay on a loopback address: whoever reaches
/// them may open a session.
#[derive(Debug, Clone, Args)]
pub struct Listen {
    /// UDP port of the `udp` carrier.
    #[arg(long, env = "KVPN_UDP_PORT", default_value_t = WIREGUARD_PORT)]
    pub udp_port: u16,
    /// Addresses outside the pod at which the `udp` carrier may answer.
    #[arg(
        long = "udp-endpoint",
        env = "KVPN_UDP_ENDPOINTS",
        value_name = "ADDRESS:PORT"
    )]
    pub udp_endpoints: Vec<List<SocketAddr>>,
    /// Port of the control API, on 127.0.0.1.
    #[arg(long, default_value_t = CONTROL_PORT)]
    pub control_port: u16,
    /// Port of the `api` carrier, on 127.0.0.1.
    #[arg(long, default_value_t = API_CARRIER_PORT)]
    pub carrier_port: u16,
    /// Port of /healthz, /readyz and /metrics.
    #[arg(long, default_value_t = HEALTH_PORT)]
    pub health_port: u16,
}

/// What the tunnel may reach beyond the cluster. Loopback, link-local and metadata addresses, nodes and the gateway itself are
/// refused unless they are allowed here.
#[derive(Debug, Clone, Default, Args)]
pub struct PolicyOptions {
    /// Allow a range that is refused otherwise; may be repeated.
    #[arg(long = "allow", env = "KVPN_ALLOW", value_name = "CIDR")]
    pub allow: Vec<List<IpNetwork>>,
    /// Allow the nodes' addresses.
    #[arg(long, env = "KVPN_ALLOW_NODES", value_parser = FalseyValueParser::new())]
    pub allow_nodes: bool,
}

/// Bounds on what clients may use.
#[derive(Debug, Clone, Copy, Args)]
pub struct Bounds {
    /// Sessions at the same time.
    #[arg(long, env = "KVPN_MAX_SESSIONS", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..=16382))]
    pub max_sessions: u16,
    /// Flows of one session at the same time.
    #[arg(long, env = "KVPN_MAX_FLOWS", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_flows: u32,
    /// Threads that move packets, each with a part of the sessions: a power of two, or rounded down to one. One for each core that
    /// the pod may use, up to 8, if nothing is said.
    #[arg(long, env = "KVPN_SHARDS", value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_SHARDS)))]
    pub shards: Option<u8>,
}

/// What the pod knows of itself; the manifest fills it in. What is no address here is left out, with a line in the
/// log: some clusters have names where others have addresses, and a gateway must start in all of them.
#[derive(Debug, Clone, Args)]
pub struct PodOptions {
    /// The pod's name.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,
    /// The pod's uid.
    #[arg(long, env = "POD_UID", default_value = "")]
    pub pod_uid: String,
    /// The pod's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "")]
    pub pod_namespace: String,
    /// The pod's addresses, separated by commas.
    #[arg(long, env = "POD_IPS", default_value = "")]
    pub pod_ips: String,
    /// An address of the pod's node.
    #[arg(long, env = "HOST_IP", default_value = "")]
    pub host_ip: String,
    /// The addresses of the pod's node, separated by commas.
    #[arg(long, env = "NODE_IPS", default_value = "")]
    pub node_ips: String,
    /// The addresses of all nodes, as far as whoever installed the gateway could list them, separated by commas.
    #[arg(long, env = "KVPN_NODE_ADDRESSES", default_value = "")]
    pub node_addresses: String,
    /// The API server's Service address.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", default_value = "")]
    pub kubernetes_service_host: String,
    /// The pod's resolver configuration.
    #[arg(long, default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
}

/// Items separated by commas. Empty ones are none: an empty variable in a manifest means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T: FromStr> FromStr for List<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        items.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_is_well_formed() {
        Options::command().debug_assert();
    }

    #[test]
    fn lists_may_be_repeated_separated_and_empty() {
        let options = Options::parse_from([
            "kvpn-gateway",
            "--allow",
            "127.0.0.0/8, ::1/128",
            "--allow",
            "",
            "--allow",
            "10.0.0.0/8,",
        ]);
        let allowed: Vec<_> = options
            .policy
            .allow
            .iter()
            .flat_map(|list| &list.0)
            .collect();
        assert_eq!(allowed.len(), 3);
        assert!(Options::try_parse_from(["kvpn-gateway", "--allow", "nonsense"]).is_err());
    }
}
