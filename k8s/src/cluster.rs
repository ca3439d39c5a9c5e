//! A cluster as the kubeconfig names it: which server, as whom, in which namespace.
//!
//! Every other file asks it for a client and runs its requests through it, so that each request is
//! bounded in time and its failure named.

pub(crate) mod call;
mod credentials;
mod exec;
mod kubeconfig;
mod proxy;
mod stream;

use crate::error::classify::{self, Parties};
use crate::{Error, cluster::call::Call};
use credentials::Credentials;
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Resource};
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long the API server may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(5);
/// How long the resolver may take for the API server's name.
const LOOKUP_LIMIT: Duration = Duration::from_secs(3);

/// How to find and read the kubeconfig. The shell fills it in: this crate reads no environment.
#[derive(Debug, Clone)]
pub struct KubeOptions {
    /// `--kubeconfig`: this file and no other.
    pub kubeconfig: Option<PathBuf>,
    /// The value of `KUBECONFIG`: a list of files, merged as kubectl does.
    pub kubeconfig_env: Option<OsString>,
    /// The home directory, for `~/.kube/config` when neither of the above is given.
    pub home: Option<PathBuf>,
    /// `--context`, else the current one.
    pub context: Option<String>,
    /// `--namespace`, else the context's, else `default`.
    pub namespace: Option<String>,
    /// The value of `HTTPS_PROXY` (or `https_proxy`), used when the cluster has no `proxy-url`.
    pub https_proxy: Option<String>,
    /// The value of `NO_PROXY` (or `no_proxy`).
    pub no_proxy: Option<String>,
    /// How long a credential plugin may take before it is ended.
    pub exec_timeout: Duration,
    /// Whether standard input and error are a terminal that a credential plugin may talk to.
    pub interactive: bool,
}

impl Default for KubeOptions {
    /// No file named, a minute for plugins, no terminal.
    fn default() -> Self {
        Self {
            kubeconfig: None,
            kubeconfig_env: None,
            home: None,
            context: None,
            namespace: None,
            https_proxy: None,
            no_proxy: None,
            exec_timeout: Duration::from_secs(60),
            interactive: false,
        }
    }
}

/// A cluster and our place in it. Cheap to clone; clones share credentials and connections.
#[derive(Debug, Clone)]
pub struct Cluster {
    place: Arc<Place>,
    credentials: Arc<Credentials>,
}

/// What the kubeconfig says about where and who we are.
#[derive(Debug)]
struct Place {
    context: String,
    namespace: String,
    user: Option<String>,
    /// The user with the kind of credentials, for messages.
    user_text: String,
    server: String,
    proxy: Option<http::Uri>,
}

impl Cluster {
    /// Reads the kubeconfig (or, without any, a pod's own service account). Speaks to nobody yet, runs no plugin.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Context`].
    pub fn load(options: &KubeOptions) -> Result<Self, Error> {
        let loaded = kubeconfig::load(options)?;
        Ok(Self {
            place: Arc::new(Place {
                context: loaded.context,
                namespace: loaded.config.default_namespace.clone(),
                user: loaded.user,
                user_text: loaded.user_text,
                server: loaded
                    .config
                    .cluster_url
                    .to_string()
                    .trim_end_matches('/')
                    .to_owned(),
                proxy: loaded.config.proxy_url.clone(),
            }),
            credentials: Arc::new(Credentials::new(loaded.config, loaded.plugin)),
        })
    }

    /// The context's name; `in-cluster` for a pod's own service account.
    pub fn context(&self) -> &str {
        &self.place.context
    }

    /// The namespace that is connected to.
    pub fn namespace(&self) -> &str {
        &self.place.namespace
    }

    /// The kubeconfig's name for the user.
    pub fn user(&self) -> Option<&str> {
        self.place.user.as_deref()
    }

    /// The API server's URL.
    pub fn server(&self) -> &str {
        &self.place.server
    }

    /// Every address that packets to the API server may go to, a proxy's too: these stay out of the tunnel.
    /// Empty when the names do not resolve.
    pub async fn api_server_addresses(&self) -> Vec<SocketAddr> {
        let server = self.place.server.parse::<http::Uri>().ok();
        let mut addresses = Vec::new();
        for uri in server.iter().chain(&self.place.proxy) {
            if let Some((host, port)) = proxy::endpoint(uri)
                && let Ok(Ok(found)) =
                    timeout(LOOKUP_LIMIT, tokio::net::lookup_host((host, port))).await
            {
                addresses.extend(found);
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The API server's version, such as `v1.35.4`. Proves within 5 s (plus a credential plugin's time) that it is
    /// there and knows us.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Unauthorized`], [`Error::ExecPlugin`], [`Error::Config`].
    pub async fn version(&self) -> Result<String, Error> {
        let client = self.client().await?;
        let call = Call::cluster("get", "/version").within(VERSION_LIMIT);
        Ok(self
            .run(&call, client.apiserver_version())
            .await?
            .git_version)
    }

    /// A client with credentials that are good for the next minute.
    pub(crate) async fn client(&self) -> Result<kube::Client, Error> {
        self.credentials.client().await
    }

    /// A client for streams, with credentials that are good for the next minute.
    pub(crate) async fn stream_client(&self) -> Result<kube::Client, Error> {
        self.credentials.stream_client().await
    }

    /// The objects of one kind in a namespace.
    pub(crate) async fn api<K>(&self, namespace: &str) -> Result<Api<K>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Ok(Api::namespaced(self.client().await?, namespace))
    }

    /// Runs a request within its time and names its failure.
    pub(crate) async fn run<T>(
        &self,
        call: &Call,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        match timeout(call.limit, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.named(error, call).await),
            Err(_elapsed) => Err(classify::timeout_error(call, self.parties())),
        }
    }

    /// A kube error in our words. Refused credentials are forgotten, so that the next request asks the plugin anew.
    pub(crate) async fn named(&self, error: kube::Error, call: &Call) -> Error {
        let error = classify::request_error(error, call, self.parties());
        if matches!(error, Error::Unauthorized { .. }) {
            self.credentials.forget().await;
        }
        error
    }

    fn parties(&self) -> Parties<'_> {
        Parties {
            server: &self.place.server,
            user: &self.place.user_text,
        }
    }
}

#[cfg(test)]
mod tests;
