//! Finding, merging and reading kubeconfig files, by kubectl's rules.

use super::{KubeOptions, exec::Plugin, proxy};
use crate::{Error, FIELD_MANAGER};
use http::{HeaderValue, header::USER_AGENT};
use kube::config::{AuthInfo, Cluster, Context, ExecAuthCluster, Kubeconfig};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How long TCP, proxy and TLS handshakes may take together.
const CONNECT_LIMIT: Duration = Duration::from_secs(8);

/// One context, read.
pub(super) struct Loaded {
    pub(super) context: String,
    pub(super) user: Option<String>,
    /// The user with the kind of credentials, for messages.
    pub(super) user_text: String,
    /// Without the plugin.
    pub(super) config: kube::Config,
    pub(super) plugin: Option<Plugin>,
}

/// Reads what the options point at; without any kubeconfig, a pod's own service account.
pub(super) fn load(options: &KubeOptions) -> Result<Loaded, Error> {
    let files = files(options)?;
    if files.is_empty() {
        return in_cluster(options);
    }
    let kubeconfig = merge(&files)?;
    let (name, context) = context(&kubeconfig, options)?;
    let cluster = cluster(&kubeconfig, &name, &context)?;
    let mut auth = user(&kubeconfig, &context);
    let user_text = user_text(context.user.as_deref(), &auth);
    let plugin = plugin(&mut auth, &cluster, options)?;
    refuse_removed_providers(&auth)?;
    let mut config = config(&cluster, options)?;
    config.auth_info = auth;
    let namespace = options
        .namespace
        .clone()
        .or_else(|| filled(context.namespace.clone()));
    config.default_namespace = namespace.unwrap_or_else(|| "default".to_owned());
    Ok(Loaded {
        context: name,
        user: context.user,
        user_text,
        config,
        plugin,
    })
}

/// The files to read. `--kubeconfig` must exist; of a KUBECONFIG list, missing ones are passed over.
fn files(options: &KubeOptions) -> Result<Vec<PathBuf>, Error> {
    if let Some(file) = &options.kubeconfig {
        return Ok(vec![file.clone()]);
    }
    let listed = options
        .kubeconfig_env
        .iter()
        .flat_map(|list| std::env::split_paths(list).collect::<Vec<_>>());
    let listed: Vec<PathBuf> = listed.filter(|path| !path.as_os_str().is_empty()).collect();
    if listed.is_empty() {
        let usual = options
            .home
            .iter()
            .map(|home| home.join(".kube").join("config"));
        return Ok(usual.filter(|path| path.exists()).collect());
    }
    let existing: Vec<PathBuf> = listed
        .iter()
        .filter(|path| path.exists())
        .cloned()
        .collect();
    if existing.is_empty() {
        let names: Vec<String> = listed
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        return Err(Error::Config {
            why: format!("none of KUBECONFIG's files exists: {}", names.join(", ")),
            hint: Some("correct KUBECONFIG, or name a file with --kubeconfig".to_owned()),
        });
    }
    Ok(existing)
}

/// The first file to name a cluster, user, context or the current context wins.
fn merge(files: &[PathBuf]) -> Result<Kubeconfig, Error> {
    files
        .iter()
        .try_fold(Kubeconfig::default(), |merged, file| {
            merged
                .merge(read(file)?)
                .map_err(|error| unreadable(file, &error))
        })
}

fn read(file: &Path) -> Result<Kubeconfig, Error> {
    let mut kubeconfig = Kubeconfig::read_from(file).map_err(|error| unreadable(file, &error))?;
    // `current-context: ""` is how kubectl writes "none"; it must not hide a later file's.
    kubeconfig.current_context = filled(kubeconfig.current_context);
    Ok(kubeconfig)
}

fn unreadable(file: &Path, error: &(dyn std::error::Error + 'static)) -> Error {
    let error = crate::error::classify::innermost(error);
    // The lines below it quote the file, and with it perhaps a token.
    let error = error.lines().next().unwrap_or_default();
    Error::Config {
        why: format!("{}: {error}", file.display()),
        hint: Some(format!(
            "check it with `kubectl --kubeconfig {} config view`",
            file.display()
        )),
    }
}

fn in_cluster(options: &KubeOptions) -> Result<Loaded, Error> {
    let mut config = kube::Config::incluster().map_err(|error| {
        tracing::debug!(%error, "no service account either");
        Error::Config {
            why: "there is none: no --kubeconfig, no KUBECONFIG, no ~/.kube/config".to_owned(),
            hint: Some("get one from your cluster's admin or provider, and name it with --kubeconfig or KUBECONFIG".to_owned()),
        }
    })?;
    if let Some(context) = &options.context {
        return Err(Error::Context {
            asked: Some(context.clone()),
            known: Vec::new(),
        });
    }
    finish(&mut config);
    if let Some(namespace) = &options.namespace {
        config.default_namespace.clone_from(namespace);
    }
    let user_text = "this pod's service account".to_owned();
    Ok(Loaded {
        context: "in-cluster".to_owned(),
        user: None,
        user_text,
        config,
        plugin: None,
    })
}

fn context(kubeconfig: &Kubeconfig, options: &KubeOptions) -> Result<(String, Context), Error> {
    let asked = options
        .context
        .as_ref()
        .or(kubeconfig.current_context.as_ref());
    let named = kubeconfig
        .contexts
        .iter()
        .find(|named| Some(&named.name) == asked);
    match (asked, named.and_then(|named| named.context.clone())) {
        (Some(name), Some(context)) => Ok((name.clone(), context)),
        (asked, _) => Err(Error::Context {
            asked: asked.cloned(),
            known: kubeconfig
                .contexts
                .iter()
                .map(|named| named.name.clone())
                .collect(),
        }),
    }
}

fn cluster(kubeconfig: &Kubeconfig, name: &str, context: &Context) -> Result<Cluster, Error> {
    let named = kubeconfig
        .clusters
        .iter()
        .find(|named| named.name == context.cluster);
    named
        .and_then(|named| named.cluster.clone())
        .ok_or_else(|| Error::Config {
            why: format!(
                "context `{name}` names cluster `{}`, which is not in it",
                context.cluster
            ),
            hint: Some("is a file of KUBECONFIG missing?".to_owned()),
        })
}

/// A user that is missing counts as nobody, as in kubectl: the API server then says what it thinks of that.
fn user(kubeconfig: &Kubeconfig, context: &Context) -> AuthInfo {
    let named = kubeconfig
        .auth_infos
        .iter()
        .find(|named| Some(&named.name) == context.user.as_ref());
    named
        .and_then(|named| named.auth_info.clone())
        .unwrap_or_default()
}

fn user_text(name: Option<&str>, auth: &AuthInfo) -> String {
    let kind = if auth.exec.is_some() {
        "credential plugin"
    } else if auth.auth_provider.is_some() {
        "auth provider"
    } else if auth.token.is_some() || auth.token_file.is_some() {
        "token"
    } else if auth.client_certificate.is_some() || auth.client_certificate_data.is_some() {
        "client certificate"
    } else if auth.username.is_some() {
        "password"
    } else {
        "no credentials"
    };
    format!("{} ({kind})", name.unwrap_or("nobody"))
}

/// Takes the plugin out: it is ours to run, not kube's. Static credentials go before it, as in kubectl.
fn plugin(
    auth: &mut AuthInfo,
    cluster: &Cluster,
    options: &KubeOptions,
) -> Result<Option<Plugin>, Error> {
    let Some(mut exec) = auth.exec.take() else {
        return Ok(None);
    };
    if auth.token.is_some() || auth.token_file.is_some() || auth.auth_provider.is_some() {
        return Ok(None);
    }
    if exec.provide_cluster_info {
        exec.cluster = Some(cluster_info(cluster)?);
    }
    Ok(Some(Plugin {
        config: exec,
        timeout: options.exec_timeout,
        terminal: options.interactive,
    }))
}

/// kube would run a provider's command without a time limit; kubectl dropped these providers in 1.26.
fn refuse_removed_providers(auth: &AuthInfo) -> Result<(), Error> {
    let Some(provider) = &auth.auth_provider else {
        return Ok(());
    };
    if provider.name == "oidc"
        || (provider.name == "gcp" && !provider.config.contains_key("cmd-path"))
    {
        return Ok(());
    }
    Err(Error::Config {
        why: format!(
            "the auth-provider `{}` is not supported (kubectl dropped it too)",
            provider.name
        ),
        hint: Some("use its credential plugin: gke-gcloud-auth-plugin, kubelogin".to_owned()),
    })
}

fn config(cluster: &Cluster, options: &KubeOptions) -> Result<kube::Config, Error> {
    let server = cluster.server.as_deref().unwrap_or_default();
    let url: http::Uri = server
        .parse()
        .map_err(|error| bad_server(server, &format!("{error}")))?;
    if url.host().is_none() || url.scheme().is_none() {
        return Err(bad_server(server, "no scheme or host"));
    }
    let proxy = proxy::choose(
        &url,
        cluster.proxy_url.as_deref(),
        options.https_proxy.as_deref(),
        options.no_proxy.as_deref(),
    )?;
    let mut config = kube::Config::new(url);
    config.root_cert = authorities(cluster)?;
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    config.tls_server_name = filled(cluster.tls_server_name.clone());
    config.disable_compression = cluster.disable_compression.unwrap_or(false);
    config.proxy_url = proxy;
    finish(&mut config);
    Ok(config)
}

/// What we want of every connection.
fn finish(config: &mut kube::Config) {
    config.connect_timeout = Some(CONNECT_LIMIT);
    // kube's own policy goes on for many minutes; ours is in `credentials`.
    config.default_retry = false;
    let agent = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
    debug_assert!(
        agent.starts_with(FIELD_MANAGER),
        "audit logs and managed fields show the same name"
    );
    config
        .headers
        .push((USER_AGENT, HeaderValue::from_static(agent)));
}

fn bad_server(server: &str, why: &str) -> Error {
    Error::Config {
        why: format!("the cluster's server `{server}` is no URL: {why}"),
        hint: Some("expected something like https://api.example:6443".to_owned()),
    }
}

/// The cluster's certificate authorities in DER; `None` leaves the choice to the system's trust store.
fn authorities(cluster: &Cluster) -> Result<Option<Vec<Vec<u8>>>, Error> {
    let Some(pem) = cluster_info(cluster)?.certificate_authority_data else {
        return Ok(None);
    };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| bad_authority(&error.to_string()))?;
    if certificates.is_empty() {
        return Err(bad_authority("it holds no certificate"));
    }
    Ok(Some(
        certificates.into_iter().map(|der| der.to_vec()).collect(),
    ))
}

/// The cluster as a plugin is told of it; its certificate authority read from file or base64.
fn cluster_info(cluster: &Cluster) -> Result<ExecAuthCluster, Error> {
    ExecAuthCluster::try_from(cluster)
        .map_err(|error| bad_authority(&crate::error::classify::innermost(&error)))
}

fn bad_authority(why: &str) -> Error {
    Error::Config {
        why: format!("the cluster's certificate authority cannot be read: {why}"),
        hint: Some("check certificate-authority and certificate-authority-data".to_owned()),
    }
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
