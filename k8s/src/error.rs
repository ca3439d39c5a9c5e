//! What can go wrong between the laptop and the Kubernetes API, in the user's words.
//!
//! Each variant tells what failed, on which object, and whose turn it is; [`Error::hint`] says what to do
//! next. Classification of kube's errors is in `classify`; no other file looks into a `kube::Error`.

pub(crate) mod classify;

use std::time::Duration;

/// A failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be found, read or understood.
    #[error("the kubeconfig cannot be used: {why}")]
    Config {
        /// What is wrong, with the file's name.
        why: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The kubeconfig has no such context, or none is chosen.
    #[error("{}", context_text(.asked.as_deref(), .known))]
    Context {
        /// The context that was asked for; `None` when the kubeconfig has no current one.
        asked: Option<String>,
        /// The contexts that there are.
        known: Vec<String>,
    },
    /// The kubeconfig's credential plugin gave no credentials.
    #[error("the kubeconfig's credential plugin `{command}` failed: {why}")]
    ExecPlugin {
        /// The plugin's command and arguments.
        command: String,
        /// What happened, with the end of its standard error.
        why: String,
        /// The time it was given, when that was exceeded and it was ended.
        timeout: Option<Duration>,
        /// The kubeconfig's own install hint, or ours.
        hint: Option<String>,
    },
    /// The API server cannot be reached, or its certificate is not trusted.
    #[error("the API server {server} cannot be reached: {why}")]
    Unreachable {
        /// The server's URL.
        server: String,
        /// The innermost cause.
        why: String,
    },
    /// The API server does not accept our credentials (HTTP 401), expired ones among them.
    #[error("the API server {server} does not accept the credentials of {user}: {message}")]
    Unauthorized {
        /// The server's URL.
        server: String,
        /// The kubeconfig's user, with the kind of its credentials.
        user: String,
        /// The server's words.
        message: String,
    },
    /// RBAC (or another authorizer) does not allow it.
    #[error("not permitted: {verb} {resource}{}", in_namespace(.namespace.as_deref()))]
    Forbidden {
        /// Kubernetes verb, such as `create`.
        verb: String,
        /// Resource with group and subresource, such as `pods/portforward` or `statefulsets.apps`.
        resource: String,
        /// `None` for cluster-wide resources.
        namespace: Option<String>,
        /// The server's words.
        message: String,
    },
    /// The object is not there.
    #[error("{what} was not found")]
    NotFound {
        /// The object, such as `namespace demo`.
        what: String,
    },
    /// Admission (quota, Pod Security, a policy webhook, validation) refused an object.
    #[error("the cluster refused {object}: {message}")]
    Rejected {
        /// Kind, namespace and name.
        object: String,
        /// The server's words.
        message: String,
    },
    /// The gateway pod does not become ready.
    #[error("the gateway pod {pod} is not ready: {reason}")]
    NotReady {
        /// `namespace/name`.
        pod: String,
        /// The reason with the cluster's own words.
        reason: String,
        /// What to check.
        hint: String,
    },
    /// An object of ours would overwrite another's, or the write lost a race.
    #[error("{object} is in the way: {message}")]
    Conflict {
        /// Kind, namespace and name.
        object: String,
        /// Whose it is, or the server's words.
        message: String,
    },
    /// A Service cannot be exposed, or not without `--force`.
    #[error("{object} {why}")]
    Refused {
        /// Kind, namespace and name.
        object: String,
        /// What is the matter with it: the end of a sentence that begins with the object.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// A Service cannot be exposed because of somebody else's exposure.
    #[error("{object} cannot be exposed: {why}")]
    Taken {
        /// Kind, namespace and name.
        object: String,
        /// Who has it, since when, or what happened to the claim.
        why: String,
    },
    /// A port-forward to a pod cannot be opened or broke.
    #[error("the port-forward to {pod}, port {port}, failed: {why}")]
    Forward {
        /// `namespace/name`.
        pod: String,
        /// The pod's TCP port.
        port: u16,
        /// What happened.
        why: String,
    },
    /// The gateway's control API said no.
    #[error("the gateway {pod} refused: {message}")]
    Gateway {
        /// `namespace/name`.
        pod: String,
        /// HTTP status.
        status: u16,
        /// The gateway's words.
        message: String,
        /// The gateway's hint.
        hint: Option<String>,
    },
    /// Anything else that the API server answered.
    #[error("{call} failed: {message}")]
    Api {
        /// Verb and resource.
        call: String,
        /// HTTP status, 0 when there was none.
        status: u16,
        /// The server's words, or the parser's.
        message: String,
    },
}

impl Error {
    /// The process's exit code (DESIGN.md, Commands): 4 not permitted, 5 unreachable, 6 conflict, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Forbidden { .. } => 4,
            Self::Unreachable { .. } => 5,
            Self::Conflict { .. } | Self::Taken { .. } => 6,
            Self::Config { .. }
            | Self::Context { .. }
            | Self::ExecPlugin { .. }
            | Self::Unauthorized { .. }
            | Self::NotFound { .. }
            | Self::Rejected { .. }
            | Self::NotReady { .. }
            | Self::Refused { .. }
            | Self::Forward { .. }
            | Self::Gateway { .. }
            | Self::Api { .. } => 1,
        }
    }

    /// What the user can do about it, in one or two sentences.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config { hint, .. }
            | Self::ExecPlugin { hint, .. }
            | Self::Gateway { hint, .. } => hint.clone(),
            Self::Context { known, .. } if known.is_empty() => Some(
                "add a context to the kubeconfig, or name another file with --kubeconfig".into(),
            ),
            Self::Context { known, .. } => {
                Some(format!("choose one with --context: {}", known.join(", ")))
            }
            Self::Unreachable { why, .. } => Some(unreachable_hint(why)),
            Self::Unauthorized { .. } => Some(
                "log in again (renew the token or certificate of this kubeconfig user) and retry"
                    .into(),
            ),
            Self::Forbidden {
                verb,
                resource,
                namespace,
                ..
            } => Some(forbidden_hint(verb, resource, namespace.as_deref())),
            Self::NotFound { what } if what.starts_with("namespace ") => Some(format!(
                "create it (`kubectl create {what}`) or choose another with --namespace"
            )),
            Self::Rejected { message, .. } => classify::rejection_hint(message),
            Self::NotReady { hint, .. } => Some(hint.clone()),
            Self::Refused { remedy, .. } => Some(remedy.clone()),
            Self::Forward { .. } => Some(
                "check that the pod runs, and that proxies on the way let WebSocket upgrades pass"
                    .into(),
            ),
            Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Taken { .. }
            | Self::Api { .. } => None,
        }
    }
}

fn context_text(asked: Option<&str>, known: &[String]) -> String {
    match asked {
        Some(name) => format!("the kubeconfig has no context `{name}`"),
        None if known.is_empty() => "the kubeconfig has no contexts".to_owned(),
        None => "the kubeconfig has no current context".to_owned(),
    }
}

fn in_namespace(namespace: Option<&str>) -> String {
    namespace.map_or_else(
        || " in the whole cluster".to_owned(),
        |namespace| format!(" in namespace {namespace}"),
    )
}

fn unreachable_hint(why: &str) -> String {
    if why.contains("certificate") {
        "check certificate-authority-data, tls-server-name and the clock of this machine".to_owned()
    } else {
        "check that the cluster runs, the context is the right one, and the network, VPN or proxy (HTTPS_PROXY, proxy-url) that leads there".to_owned()
    }
}

fn forbidden_hint(verb: &str, resource: &str, namespace: Option<&str>) -> String {
    let place = namespace.map_or_else(String::new, |namespace| format!(" -n {namespace}"));
    format!(
        "an admin can allow it with `kvpn gateway rbac{place} | kubectl apply -f -`; check with `kubectl auth can-i {verb} {resource}{place}`"
    )
}
