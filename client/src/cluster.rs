//! The way to the cluster and to its gateways, the same for commands and agents, on every system.
//!
//! Must not know sessions or the operating system.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use kvpn_k8s::{Cluster, DatapathChoice, GatewayPod, KubeOptions};
use kvpn_wire::HEALTH_PORT;
use serde::{Deserialize, Serialize};

pub(crate) mod http;

/// Where a gateway for everybody is, when the connected namespace has none.
pub(crate) const SHARED_NAMESPACE: &str = "kvpn";
/// This build's version; also the gateway's that belongs to it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The image of this build's gateway.
pub(crate) const DEFAULT_IMAGE: &str = concat!("kvpn/gateway:", env!("CARGO_PKG_VERSION"));
/// How long a gateway may take to become ready.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(90);
/// How long counting a gateway's sessions may take.
const COUNT_LIMIT: Duration = Duration::from_secs(5);
/// The metric that counts sessions.
const SESSIONS_METRIC: &str = "kvpn_sessions";

/// [`KubeOptions`] on their way to the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kube {
    /// `--kubeconfig`
    pub(crate) kubeconfig: Option<PathBuf>,
    /// KUBECONFIG
    pub(crate) kubeconfig_env: Option<OsString>,
    /// The user's home.
    pub(crate) home: PathBuf,
    /// `--context`
    pub(crate) context: Option<String>,
    /// `--namespace`
    pub(crate) namespace: Option<String>,
    /// HTTPS_PROXY
    pub(crate) https_proxy: Option<String>,
    /// NO_PROXY
    pub(crate) no_proxy: Option<String>,
    /// How long a credential plugin may take.
    pub(crate) exec_timeout: Duration,
}

impl Kube {
    /// The options for the cluster; `interactive` when a credential plugin may use the terminal.
    pub(crate) fn options(&self, interactive: bool) -> KubeOptions {
        KubeOptions {
            kubeconfig: self.kubeconfig.clone(),
            kubeconfig_env: self.kubeconfig_env.clone(),
            home: Some(self.home.clone()),
            context: self.context.clone(),
            namespace: self.namespace.clone(),
            https_proxy: self.https_proxy.clone(),
            no_proxy: self.no_proxy.clone(),
            exec_timeout: self.exec_timeout,
            interactive,
        }
    }
}

/// `--datapath`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Datapath {
    /// An unprivileged pod
    #[default]
    Auto,
    /// An unprivileged pod with its own TCP/IP
    Userspace,
    /// The kernel's TCP/IP: needs NET_ADMIN, a namespace that allows privileged pods; faster
    Kernel,
}

impl From<Datapath> for DatapathChoice {
    fn from(datapath: Datapath) -> Self {
        match datapath {
            Datapath::Auto => Self::Auto,
            Datapath::Userspace => Self::Userspace,
            Datapath::Kernel => Self::Kernel,
        }
    }
}

/// How many sessions a gateway has; `None` when it does not say.
pub(crate) async fn sessions(cluster: &Cluster, gateway: &GatewayPod) -> Option<u64> {
    let counted = tokio::time::timeout(COUNT_LIMIT, async {
        let stream = cluster.forward(gateway, HEALTH_PORT).await?;
        let body = http::get(stream, "/metrics").await?;
        let text = std::str::from_utf8(&body).context("the gateway's metrics are not UTF-8")?;
        metric(text, SESSIONS_METRIC).context("the gateway's metrics do not count sessions")
    });
    match counted.await {
        Ok(Ok(count)) => Some(count),
        Ok(Err(error)) => {
            tracing::info!(
                error = format!("{error:#}"),
                "the gateway does not say how many sessions it has"
            );
            None
        }
        Err(_) => None,
    }
}

/// A value of Prometheus' text format.
fn metric(text: &str, name: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# TYPE kvpn_sessions gauge\nkvpn_sessions_total 9\nkvpn_sessions 2\n";
        assert_eq!(metric(text, "kvpn_sessions"), Some(2));
        assert_eq!(metric("", "kvpn_sessions"), None);
    }
}
