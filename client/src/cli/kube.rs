//! How a command finds its cluster, from options and environment.
//!
//! Must not read the environment itself, nor talk to the cluster.

use std::time::Duration;

use crate::cli::Situation;
use crate::cluster::Kube;

/// How long a credential plugin of the kubeconfig may take.
const EXEC_LIMIT: Duration = Duration::from_secs(60);

/// How to find the cluster, for this command and for an agent.
pub(crate) fn kube(situation: &Situation) -> Kube {
    let Situation {
        globals,
        environment,
        user,
    } = situation;
    let (https_proxy, no_proxy) = environment.proxy();
    let absolute =
        |path: &std::path::PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    Kube {
        kubeconfig: globals.kubeconfig.as_ref().map(absolute),
        kubeconfig_env: environment.kubeconfig.clone(),
        home: user.home.clone(),
        context: globals.context.clone(),
        namespace: globals.namespace.clone(),
        https_proxy,
        no_proxy,
        exec_timeout: EXEC_LIMIT,
    }
}
