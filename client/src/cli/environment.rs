//! The environment, read in this one place (and by the options that name a variable in their help).

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

/// What kvpn reads from the environment.
///
/// A parser of its own, so that the variables have types and errors but no options on the command line.
#[derive(Debug, Clone, Default, Parser)]
pub(crate) struct Environment {
    /// Files of the kubeconfig, separated as in PATH.
    #[arg(long, env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<OsString>,
    /// The home directory.
    #[arg(long, env = "HOME")]
    pub(crate) home: Option<PathBuf>,
    /// Where sockets of this login live.
    #[arg(long, env = "XDG_RUNTIME_DIR")]
    pub(crate) runtime_dir: Option<PathBuf>,
    /// Where logs and state of this user live.
    #[arg(long, env = "XDG_STATE_HOME")]
    pub(crate) state_home: Option<PathBuf>,
    /// Proxy for the API server, where the kubeconfig names none.
    #[arg(long, env = "HTTPS_PROXY")]
    https_proxy: Option<String>,
    /// The same; curl and many others read only this spelling.
    #[arg(long, env = "https_proxy")]
    https_proxy_lower: Option<String>,
    /// Hosts that are reached without the proxy.
    #[arg(long, env = "NO_PROXY")]
    no_proxy: Option<String>,
    /// The same, spelled as curl reads it.
    #[arg(long, env = "no_proxy")]
    no_proxy_lower: Option<String>,
    /// Where programs are looked for: those of a kubeconfig too.
    #[arg(long, env = "PATH")]
    path: Option<OsString>,
    /// Where programs keep what is this user's.
    #[cfg(windows)]
    #[arg(long, env = "LOCALAPPDATA")]
    pub(crate) local_app_data: Option<PathBuf>,
    /// Who the user is.
    #[cfg(windows)]
    #[arg(long, env = "USERNAME")]
    pub(crate) user_name: Option<String>,
    /// What the machine is called.
    #[cfg(windows)]
    #[arg(long, env = "COMPUTERNAME")]
    pub(crate) computer_name: Option<String>,
    /// Who called sudo.
    #[arg(long, env = "SUDO_UID")]
    pub(crate) sudo_uid: Option<u32>,
    /// The group of who called sudo.
    #[arg(long, env = "SUDO_GID")]
    pub(crate) sudo_gid: Option<u32>,
}

impl Environment {
    /// Reads the environment of this process.
    ///
    /// # Errors
    ///
    /// A variable that cannot be what it should be, such as a SUDO_UID that is no number.
    pub(crate) fn read() -> anyhow::Result<Self> {
        Self::try_parse_from(["kvpn"]).context("the environment holds a value that kvpn cannot use")
    }

    /// What a session needs of it that starts without this login's environment.
    #[cfg(unix)]
    pub(crate) fn to_keep(&self) -> Vec<(&'static str, OsString)> {
        let (https_proxy, no_proxy) = self.proxy();
        [
            ("KUBECONFIG", self.kubeconfig.clone()),
            ("PATH", self.path.clone()),
            ("HTTPS_PROXY", https_proxy.map(OsString::from)),
            ("NO_PROXY", no_proxy.map(OsString::from)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }

    /// The proxy for the API server, and the hosts that do without.
    pub(crate) fn proxy(&self) -> (Option<String>, Option<String>) {
        let proxy = self
            .https_proxy
            .clone()
            .or_else(|| self.https_proxy_lower.clone());
        let without = self
            .no_proxy
            .clone()
            .or_else(|| self.no_proxy_lower.clone());
        (proxy, without)
    }
}
